"""Removes the secrets that the engine was started with from a stream: vLLM logs its arguments unchanged."""

from collections.abc import Sequence

from flash_contracts.redaction import REDACTED


class SecretFilter:
    """Filters one stream. Everything else passes unchanged, byte for byte."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """`secrets`: longest first."""
        self._secrets = [secret.encode() for secret in secrets]
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """The bytes that may be shown. A possible beginning of a secret is held back until the rest has arrived."""
        if not self._secrets:
            return chunk
        shown = self._held + chunk
        for secret in self._secrets:
            shown = shown.replace(secret, REDACTED.encode())
        held = max((_begun(shown, secret) for secret in self._secrets), default=0)
        self._held = shown[len(shown) - held :]
        return shown[: len(shown) - held]

    def rest(self) -> bytes:
        """The bytes still held back at the end of the stream."""
        held, self._held = self._held, b""
        return held


def _begun(text: bytes, secret: bytes) -> int:
    """How many of the last bytes may be the beginning of the secret."""
    return next(
        (length for length in range(min(len(secret) - 1, len(text)), 0, -1) if text.endswith(secret[:length])), 0
    )
