"""The security of every pod that the operator makes: the Pod Security level `restricted`, and a read-only root."""

from flash_operator.core.observed.snapshot import RawObject

NON_ROOT = 65532


def pod_security() -> RawObject:
    """Made anew for each pod: what users and Jobs lay over theirs must not reach another one's."""
    return {
        "runAsNonRoot": True,
        "runAsUser": NON_ROOT,
        "runAsGroup": NON_ROOT,
        "fsGroup": NON_ROOT,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(*, added: tuple[str, ...] = ()) -> RawObject:
    """`added` capabilities take the container out of the level; only what a user asked for may bring one."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **({"add": list(added)} if added else {})},
    }
