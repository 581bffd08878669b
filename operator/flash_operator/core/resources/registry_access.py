"""With which Secrets an oci:// image is pulled: the same, whoever pulls it.

`model.credentialsSecret` is one of them, and so are the pod's own imagePullSecrets (podTemplate). The kubelet takes
them for an image volume; the container that fetches has each as a file, and is the only one that has.
"""

from flash_operator.api.v1alpha1 import FlashSpec
from flash_operator.core.observed.snapshot import RawObject

SECRETS_DIR = "/etc/flash/registry"
KEY = ".dockerconfigjson"


def pull_secrets(spec: FlashSpec) -> list[RawObject]:
    """What the pod's own list is begun with, where the kubelet pulls the image."""
    return [{"name": spec.model.credentials_secret}] if spec.model.credentials_secret else []


def registry_settings(spec: FlashSpec) -> dict[str, str | None]:
    """Of flash-fetch; a value that is absent is left out."""
    return {
        "FLASH_REGISTRY_SECRETS": SECRETS_DIR if _names(spec) else None,
        "FLASH_REGISTRY_SECRET": spec.model.credentials_secret,
    }


def registry_mounts(spec: FlashSpec) -> list[RawObject]:
    return [{"name": "registry", "mountPath": SECRETS_DIR, "readOnly": True}] if _names(spec) else []


def registry_volumes(spec: FlashSpec) -> list[RawObject]:
    """Optional, as pull secrets are to the kubelet; flash-fetch says how to make one that it needs."""
    sources = [
        {"secret": {"name": name, "items": [{"key": KEY, "path": f"{name}.json"}], "optional": True}}
        for name in _names(spec)
    ]
    return [{"name": "registry", "projected": {"defaultMode": 0o440, "sources": sources}}] if sources else []


def _names(spec: FlashSpec) -> list[str]:
    theirs = ((spec.pod_template or {}).get("spec") or {}).get("imagePullSecrets") or []
    names = [spec.model.credentials_secret, *(one.get("name") for one in theirs)]
    return list(dict.fromkeys(filter(None, names)))
