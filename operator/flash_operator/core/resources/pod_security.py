"""Security contexts of all pods: Pod Security level `restricted`, with a read-only root file system."""

from flash_operator.core.observed.snapshot import RawObject

NON_ROOT = 65532


def pod_security() -> RawObject:
    """A new object for each pod, because overlays modify it."""
    return {
        "runAsNonRoot": True,
        "runAsUser": NON_ROOT,
        "runAsGroup": NON_ROOT,
        "fsGroup": NON_ROOT,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(*, added: tuple[str, ...] = ()) -> RawObject:
    """`added` capabilities violate the level; add them only if the user asked for a feature that needs them."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **({"add": list(added)} if added else {})},
    }
