"""Resources of the engine's container: two GPUs, and CPU and memory as the user sets them, else a request by profile.

A user whose podTemplate gives the container claims (DRA) gets the GPUs by these, and no others. If the claims are for
something else, such as a network card, podTemplate must ask for the GPUs too.

A container that requests nothing is the first to be evicted when its node runs short of memory, and a LimitRange gives
it limits that are made for web servers. With a request above such a limit the API server refuses the pod, and says so
before 149 GiB are loaded.

    the user sets for cpu or memory         | request
    --------------------------------------- | ----------------------------------------------------
    nothing                                 | the default
    a request                               | the user's
    only a limit                            | none of ours: Kubernetes takes the limit for it
    either in podTemplate, container or pod | as above
"""

from collections.abc import Iterator
from typing import Any

from flash_operator.api.v1alpha1 import FlashSpec
from flash_operator.core.observed.gpu_demand import claims_of
from flash_operator.core.observed.kube import entries_of
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.engine_args import TENSOR_PARALLEL_SIZE
from flash_operator.core.resources.engine_env import ENGINE, user_container

TWO_GPUS = {"cpu": "4", "memory": "32Gi"}
"""A core for each process of vLLM that polls: API server, engine core and two workers. The memory is an estimate
for these processes and a part of /dev/shm, which counts too. The page cache needs no request."""

CUSTOM = {"cpu": "10m", "memory": "256Mi"}
"""A Custom engine may serve any model, also a tiny one, of which many run on one laptop."""


def engine_resources(spec: FlashSpec) -> RawObject:
    """`resources` of the engine's container, before podTemplate is merged into it."""
    mine = dict(spec.engine.resources or {})
    claims = claims_of(user_container(spec, ENGINE))
    gpus = {} if claims else {"nvidia.com/gpu": str(TENSOR_PARALLEL_SIZE)}
    limits = {**(mine.get("limits") or {}), **gpus}
    taken = set(_set_by_user(spec))
    defaults = {name: amount for name, amount in _default_requests(spec).items() if name not in taken}
    requests = {**defaults, **(mine.get("requests") or {})}
    parts = {"limits": limits, "requests": requests}
    return {**mine, **{name: amounts for name, amounts in parts.items() if amounts}}


def without_default_requests(template: RawObject, spec: FlashSpec) -> RawObject:
    """A template of ours as operators before these defaults made it."""
    taken = set(_set_by_user(spec))
    ours = {name for name in _default_requests(spec) if name not in taken}
    containers = [_without(container, ours) for container in template["spec"]["containers"]]
    return {**template, "spec": {**template["spec"], "containers": containers}}


def _without(container: RawObject, names: set[str]) -> RawObject:
    resources = container.get("resources")
    requests = resources.get("requests") if isinstance(resources, dict) else None
    if container.get("name") != "engine" or not isinstance(resources, dict) or not isinstance(requests, dict):
        return container
    kept = {name: amount for name, amount in requests.items() if name not in names}
    others = {key: value for key, value in resources.items() if key != "requests"}
    return {**container, "resources": {**others, **({"requests": kept} if kept else {})}}


def _default_requests(spec: FlashSpec) -> dict[str, str]:
    return CUSTOM if spec.engine.profile == "Custom" else TWO_GPUS


def _set_by_user(spec: FlashSpec) -> Iterator[str]:
    """Names of the resources that the user requests or limits, for the container or for the whole pod."""
    pod = (spec.pod_template or {}).get("spec")
    containers = [container for container in entries_of(pod, "containers") if container.get("name") == "engine"]
    owners = (*containers, *([pod] if isinstance(pod, dict) else []))
    for resources in (spec.engine.resources, *(owner.get("resources") for owner in owners)):
        for part in ("requests", "limits"):
            yield from _names(resources, part)


def _names(resources: Any, part: str) -> Iterator[str]:
    amounts = resources.get(part) if isinstance(resources, dict) else None
    yield from amounts if isinstance(amounts, dict) else ()
