"""Why a program failed. Well-known reasons, such as a full disk or no network, become one sentence."""

import errno
import re
import sys

NO_ROOM = re.compile(
    r"no space left on device|os error 28\b|(not|have) enough free space|disk quota exceeded", re.IGNORECASE
)
NO_NETWORK = re.compile(
    r"dial tcp|no such host|network is unreachable|connection (was )?(refused|reset)|temporary failure"
    r"|could(n't| not) resolve|dns error|failed (to (lookup|fetch)|getting)|unable to (connect|fetch)|couldn't download"
    r"|i/o timeout|tls handshake|newconnectionerror|error sending request|tcp connect error|error trying to connect"
    r"|operation timed out|failed to download",
    re.IGNORECASE,
)
LONGEST = 300
DRAWN = "\u00d7│╰─▶├"
"""uv draws a tree that leads to its reason."""


def reason_in(words: str) -> str:
    """The line with the reason, or else the last lines, such as a compiler's error."""
    lines = [line.strip() for line in re.sub(f"[{DRAWN}]+ *", "", words).splitlines()]
    for pattern, said in ((NO_ROOM, "no space is left on the disk"), (NO_NETWORK, "nothing could be downloaded")):
        for line in lines:
            if pattern.search(line):
                return f"{said} ({line[:LONGEST]})"
    return "\n".join(line for line in lines if line)[-4000:] or "it did not say why"


def of_system(error: OSError) -> str | None:
    """The sentence for a full disk; None for any other error of the system, which is a bug of ours."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    return f"no space is left on the disk ({error.filename or error.strerror}): FLASH_CACHE moves the cache to another"


if __name__ == "__main__":
    print(reason_in(sys.stdin.read()))
