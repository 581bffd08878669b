"""The Secret with the clients' keys (`engine.apiKeysSecret`): a folder in the engine's container and in the gate's.

The keys are only ever in files, which the kubelet updates when the Secret changes. Both containers mount one volume, so
the gate never sends a key that its engine cannot know yet.
"""

from flash_contracts.engine_pod import API_KEYS_ARGUMENT, API_KEYS_DIR, API_KEYS_SECRET
from flash_operator.api.v1alpha1 import EngineSpec
from flash_operator.core.observed.snapshot import RawObject

FOLDER = "/etc/flash/api-keys"
VOLUME = "api-keys"


def api_key_arguments(engine: EngineSpec) -> list[str]:
    return [API_KEYS_ARGUMENT] if engine.api_keys_secret else []


def api_key_settings(engine: EngineSpec) -> list[RawObject]:
    """Variables of engine and gate."""
    if engine.api_keys_secret is None:
        return []
    return [{"name": API_KEYS_DIR, "value": FOLDER}, {"name": API_KEYS_SECRET, "value": engine.api_keys_secret}]


def api_key_mounts(engine: EngineSpec) -> list[RawObject]:
    return [{"name": VOLUME, "mountPath": FOLDER, "readOnly": True}] if engine.api_keys_secret else []


def api_key_volumes(engine: EngineSpec) -> list[RawObject]:
    """Optional, because the launcher reports a missing Secret and how to create it, while a pending pod does not."""
    if engine.api_keys_secret is None:
        return []
    return [{"name": VOLUME, "secret": {"secretName": engine.api_keys_secret, "defaultMode": 0o440, "optional": True}}]
