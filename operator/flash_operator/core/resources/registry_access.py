"""The Secrets for pulling an oci:// image, whether the kubelet or flash-fetch pulls it.

They are `model.credentialsSecret` and the pod's imagePullSecrets (podTemplate). The kubelet uses them for an image
volume; flash-fetch gets each as a file, and is the only container that does.
"""

from flash_operator.api.v1alpha1 import FlashSpec
from flash_operator.core.observed.snapshot import RawObject

SECRETS_DIR = "/etc/flash/registry"
KEY = ".dockerconfigjson"


def pull_secrets(spec: FlashSpec) -> list[RawObject]:
    """The pod's pull secrets before the user's own, if the kubelet pulls the image."""
    return [{"name": spec.model.credentials_secret}] if spec.model.credentials_secret else []


def registry_settings(spec: FlashSpec) -> dict[str, str | None]:
    """Settings of flash-fetch; None values are omitted."""
    return {
        "FLASH_REGISTRY_SECRETS": SECRETS_DIR if _names(spec) else None,
        "FLASH_REGISTRY_SECRET": spec.model.credentials_secret,
    }


def registry_mounts(spec: FlashSpec) -> list[RawObject]:
    return [{"name": "registry", "mountPath": SECRETS_DIR, "readOnly": True}] if _names(spec) else []


def registry_volumes(spec: FlashSpec) -> list[RawObject]:
    """Optional, like pull secrets for the kubelet; flash-fetch reports how to create one that it needs."""
    sources = [
        {"secret": {"name": name, "items": [{"key": KEY, "path": f"{name}.json"}], "optional": True}}
        for name in _names(spec)
    ]
    return [{"name": "registry", "projected": {"defaultMode": 0o440, "sources": sources}}] if sources else []


def _names(spec: FlashSpec) -> list[str]:
    pod_secrets = ((spec.pod_template or {}).get("spec") or {}).get("imagePullSecrets") or []
    names = [spec.model.credentials_secret, *(one.get("name") for one in pod_secrets)]
    return list(dict.fromkeys(filter(None, names)))
