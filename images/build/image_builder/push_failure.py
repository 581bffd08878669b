"""Why an image was not built or not pushed, from what the tool wrote: one sentence that says what to do."""

import re
from typing import Final

from failure_reason import NO_ROOM, reason_in

# In this order: a registry that hides a repository says "denied" about one that does not exist too.
REASONS: Final = (
    (
        r"unauthorized|authentication required|no basic auth credentials|denied|\b401\b|\b403\b",
        "{host} does not let you push to {repository}: log in with `{tool} login {host}` with an account that may",
    ),
    (
        r"\b413\b|too large|entity too large|exceeds? .*(limit|size|quota)|quota .*exceeded|insufficient storage",
        "{host} takes no image of this size: raise the limit or quota of the registry, and of the proxy before it",
    ),
    (
        r"http response to https client|wrong version number|first record does not look like a tls handshake",
        "{host} speaks plain HTTP, which is used for localhost only: give it TLS, or declare it insecure to {tool}",
    ),
    (
        r"x509|certificate",
        "the certificate of {host} is not trusted here: add its authority to those of this machine or of {tool}",
    ),
    (
        r"no such host|connection refused|dial tcp|name resolution|could not resolve|i/o timeout|timed out|unreachable",
        "no registry answers at {host}: check the name in PUSH, and the network",
    ),
    (
        r"name unknown|repository .*(not found|does not exist)|name_unknown|not found|\b404\b",
        "{host} has no repository {repository}: correct PUSH, or create it, as some registries do not by themselves",
    ),
)
"""What a line says, and the sentence."""


def why_not_pushed(reference: str, tool: str, output: str) -> str:
    """`reference`: HOST/PATH:TAG. The sentence ends with the tool's own words."""
    repository = reference.rpartition(":")[0]
    names = {"host": reference.partition("/")[0], "repository": repository, "tool": tool}
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for pattern, sentence in REASONS:
        for line in reversed(lines):
            if re.search(pattern, line.replace(reference, "").lower()):
                return f"{reference} was not pushed. {sentence.format(**names)} ({line[-300:]})"
    return f"{reference} was not pushed: {reason_in(output)}"


def why_not_built(reference: str, tool: str, output: str) -> str:
    room = "" if NO_ROOM.search(output) is None else f" Free space where {tool} keeps its images."
    return f"{reference} was not built: {reason_in(output)}{room}"
