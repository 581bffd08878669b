"""What a lock of this repository pins."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PIN: Final = re.compile(r"^([a-z0-9_.-]+)==(\S+)(?: ; .+)? \\$", re.MULTILINE | re.IGNORECASE)


def pins(lock: str) -> dict[str, str]:
    """Name in lower case -> version."""
    return {name.lower(): version for name, version in PIN.findall((ROOT / lock).read_text())}
