"""The engine's environment as the user sets it, in `engine.extraEnv` and over it in `podTemplate`."""

from flash_operator.api.v1alpha1 import FlashSpec
from flash_operator.core.observed.kube import entries_of
from flash_operator.core.observed.snapshot import RawObject

ENGINE = "engine"
"""Name of the engine's container."""


def engine_env(spec: FlashSpec) -> dict[str, str]:
    """The variables with a literal value. One that podTemplate takes from a Secret or removes has none."""
    found = {variable.name: variable.value for variable in spec.engine.extra_env}
    for variable in entries_of(user_container(spec, ENGINE), "env"):
        name = str(variable.get("name", ""))
        found.pop(name, None)
        if isinstance(variable.get("value"), str):
            found[name] = variable["value"]
    return found


def user_container(spec: FlashSpec, name: str) -> RawObject:
    """What podTemplate says about a container of this name; empty if nothing."""
    containers = (*user_containers(spec, "initContainers"), *user_containers(spec, "containers"))
    return next((container for container in containers if container.get("name") == name), {})


def user_containers(spec: FlashSpec, kind: str) -> list[RawObject]:
    return entries_of(spec.pod_template or {}, "spec", kind)
