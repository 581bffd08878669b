"""Whether `spec.podTemplate` contradicts what a replica is, or shows a secret.

The API server keeps podTemplate as it is written, so that no CEL rule can look into it. What would be refused in
`spec.engine` is refused here with a condition, before anything is restarted. What only the resulting Deployment can
show, such as a request above its limit, is the API server's to refuse.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from flash_contracts.engine_pod import API_KEYS_ARGUMENT
from flash_contracts.secrets import is_secret_name, is_secret_value
from flash_operator.api.argument_rules import NO_REPLICA, SIZES
from flash_operator.api.image_rules import IMAGE_NAME, IMAGE_REMEDY
from flash_operator.api.v1alpha1 import FlashSpec
from flash_operator.api.variable_rules import GPU_CHOICES
from flash_operator.core.observed.kube import entries_of
from flash_operator.core.observed.pod_failure import PodFailure
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.engine_args import TENSOR_PARALLEL_SIZE
from flash_operator.core.resources.engine_env import ENGINE, user_container, user_containers

TENSOR = ("--tensor-parallel-size", "-tp")
GPU = "nvidia.com/gpu"

_SECRET = "put it into a Secret, and set the variable with valueFrom.secretKeyRef"  # noqa: S105 - a remedy


def why_refused(spec: FlashSpec) -> PodFailure | None:
    """The first contradiction, with its field and the remedy."""
    found = next(_contradictions(spec), None)
    return PodFailure("PodTemplateRefused", f"spec.podTemplate.spec.{found}") if found else None


def _contradictions(spec: FlashSpec) -> Iterator[str]:
    for kind in ("initContainers", "containers"):
        for container in user_containers(spec, kind):
            for problem in (*_bad_image(container), *_secrets(container)):
                yield f"{kind}[{container.get('name')}].{problem}"
    for problem in _of_the_engine(spec, user_container(spec, ENGINE)):
        yield f"containers[{ENGINE}].{problem}"


def _bad_image(container: RawObject) -> Iterator[str]:
    image = container.get("image")
    if isinstance(image, str) and not re.search(IMAGE_NAME, image):
        yield f"image: {image} is not a valid image name: {IMAGE_REMEDY}"


def _secrets(container: RawObject) -> Iterator[str]:
    for variable in entries_of(container, "env"):
        name, value = str(variable.get("name", "")), variable.get("value")
        if isinstance(value, str) and value and (is_secret_name(name) or is_secret_value(value)):
            yield f"env[{name}]: a secret is readable here for anyone who may read pods: {_SECRET}"
    for option, value in options_of(_words(container, "args")):
        if is_secret_name(option) or is_secret_value(value):
            remedy = "name a Secret in engine.apiKeysSecret" if option.startswith("--api-k") else _SECRET
            yield f"args: {option} is readable for anyone who may read pods: {remedy}"


def _of_the_engine(spec: FlashSpec, container: RawObject) -> Iterator[str]:
    arguments = _words(container, "args")
    for option, value in options_of(arguments):
        problem = _contradiction(option, value, is_custom=spec.engine.profile == "Custom")
        if problem:
            yield f"args: {option} {value}".rstrip() + f" is not possible: {problem}"
    if arguments and spec.engine.api_keys_secret and API_KEYS_ARGUMENT not in arguments:
        yield f"args: they lack {API_KEYS_ARGUMENT}, without which engine.apiKeysSecret has no effect: add it"
    for variable in entries_of(container, "env"):
        name = str(variable.get("name", ""))
        if variable.get("value") and (name in GPU_CHOICES or name.startswith("VLLM_DP_")):
            yield f"env[{name}]: a replica is one engine on the two GPUs of its pod: remove it"
    yield from _other_gpus(spec, container)


def _contradiction(option: str, value: str, *, is_custom: bool) -> str | None:
    size = _known(option, tuple(SIZES))
    if size:
        ours = str(TENSOR_PARALLEL_SIZE) if size in TENSOR else "1"
        return None if value == ours or (is_custom and value == "1") else SIZES[size]
    other = _known(option, tuple(NO_REPLICA))
    return NO_REPLICA[other] if other else None


def _other_gpus(spec: FlashSpec, container: RawObject) -> Iterator[str]:
    resources = container.get("resources")
    for kind in ("limits", "requests"):
        amounts = resources.get(kind) if isinstance(resources, dict) else None
        amount = amounts.get(GPU) if isinstance(amounts, dict) else None
        possible = ("0", "1", "2") if spec.engine.profile == "Custom" else (str(TENSOR_PARALLEL_SIZE),)
        if amount is not None and str(amount) not in possible:
            yield f"resources.{kind}: a replica has two GPUs, and not {amount}: raise replicas to use more"


def options_of(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each option of a command line with its value, as vLLM's parser takes them; an empty value if it has none."""
    for at, word in enumerate(arguments):
        if not re.match(r"-[A-Za-z-]", word):
            continue
        name, sign, value = word.partition("=")
        following = arguments[at + 1] if at + 1 < len(arguments) else ""
        if not sign and not re.match(r"-[A-Za-z-]", following):
            value = following
        yield name.partition(".")[0].replace("_", "-") if name.startswith("--") else name, value


def _known(option: str, known: Sequence[str]) -> str | None:
    """Which of the known options this is, in full or cut short."""
    if option in known:
        return option
    cut = (name for name in known if option.startswith("--") and len(option) > len("--x") and name.startswith(option))
    return next(cut, None)


def _words(container: RawObject, key: str) -> list[str]:
    found: Any = container.get(key)
    return [word for word in found if isinstance(word, str)] if isinstance(found, list) else []
