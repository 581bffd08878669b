"""Checks before the engine starts that there is a key for clients: without one it would reject every request."""

from collections.abc import Mapping

from flash_contracts.engine_pod import API_KEYS_SECRET
from flash_engine.api_keys import keys_folder, read_keys

NO_KEY = 78
"""Exit code of the launcher: a setting is missing (EX_CONFIG in sysexits.h)."""


def why_no_key(environment: Mapping[str, str]) -> str | None:
    """What is missing and how to create it; None if there is a key, or none is required."""
    folder = keys_folder(environment)
    if folder is None or read_keys(folder):
        return None
    secret = environment.get(API_KEYS_SECRET, "NAME")
    return (
        f"Secret {secret} of engine.apiKeysSecret is missing or has no usable key, so the engine would answer nobody: "
        f"create it with `kubectl create secret generic {secret} --from-literal=client=KEY`, in the namespace of this "
        "deployment; a key has only ASCII characters and no spaces"
    )
