"""Builds the init container that downloads a model from a hub or registry into its cache.

It runs after the gate has started, which reports its progress. It is the only container with the token or password.
"""

from flash_operator.api.v1alpha1 import FlashSpec
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.model_source import MODEL_PATH, RUN_DIR, ModelSource
from flash_operator.core.resources.registry_access import registry_mounts, registry_settings, registry_volumes

TOKEN_DIR = "/etc/flash/hub"  # noqa: S105 - where the Secret is mounted
TOKEN_KEY = "token"  # noqa: S105 - the key in it

NETWORK = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"})
"""Network variables in `engine.extraEnv`; some tools read them in lower case."""


def fetch_container(container: RawObject, spec: FlashSpec) -> RawObject:
    """`container` has the fields that all containers of the pod share."""
    return {
        **container,
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the pod's own emptyDir
            {"name": "FLASH_RUN_DIR", "value": RUN_DIR},
            {"name": "FLASH_MODEL_SOURCE", "value": spec.model.source},
            {"name": "FLASH_MODEL_CACHE", "value": MODEL_PATH},
            # The engine image for tests sets it to 1.
            {"name": "HF_HUB_OFFLINE", "value": "0"},
            *({"name": name, "value": value} for name, value in _settings(spec).items()),
        ],
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}},
        "volumeMounts": [
            {"name": "run", "mountPath": RUN_DIR},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "model", "mountPath": MODEL_PATH},
            *_credential_mounts(spec),
        ],
    }


def credential_volumes(spec: FlashSpec) -> list[RawObject]:
    """The volumes with its Secrets."""
    return registry_volumes(spec) if ModelSource(spec.model).is_image else token_volumes(spec)


def _credential_mounts(spec: FlashSpec) -> list[RawObject]:
    if ModelSource(spec.model).is_image:
        return registry_mounts(spec)
    return [{"name": "hub", "mountPath": TOKEN_DIR, "readOnly": True}] if spec.model.credentials_secret else []


def _settings(spec: FlashSpec) -> dict[str, str]:
    """Settings from the spec; flash-fetch has defaults for the others."""
    model, cache = spec.model, ModelSource(spec.model).cache
    wanted = {
        "FLASH_MODEL_REVISION": model.revision,
        "FLASH_MODEL_CACHE_KIND": cache.type,
        "FLASH_MODEL_CACHE_NAME": cache.name if cache.type != "Pod" else None,
        "FLASH_MODEL_CACHE_GIBIBYTES": str(cache.max_gibibytes) if cache.max_gibibytes else None,
        **(registry_settings(spec) if ModelSource(spec.model).is_image else _hub_settings(spec)),
    }
    return {name: value for name, value in wanted.items() if value is not None} | network_of(spec)


def _hub_settings(spec: FlashSpec) -> dict[str, str | None]:
    model = spec.model
    return {
        "FLASH_HUB_TOKEN_FILE": f"{TOKEN_DIR}/{TOKEN_KEY}" if model.credentials_secret else None,
        "FLASH_HUB_SECRET": model.credentials_secret,
        "HF_ENDPOINT": model.hub_endpoint,
    }


def network_of(spec: FlashSpec) -> dict[str, str]:
    """The user's network variables, which the other containers and Jobs of the deployment need too."""
    return {variable.name: variable.value for variable in spec.engine.extra_env if variable.name.upper() in NETWORK}


def token_volumes(spec: FlashSpec) -> list[RawObject]:
    """Optional, because flash-fetch reports a missing Secret and how to create it, while a pending pod does not."""
    if spec.model.credentials_secret is None:
        return []
    items = [{"key": TOKEN_KEY, "path": TOKEN_KEY}]
    secret = {"secretName": spec.model.credentials_secret, "items": items, "defaultMode": 0o440, "optional": True}
    return [{"name": "hub", "secret": secret}]
