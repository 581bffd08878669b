"""What engines say about the links of their node, before a test or a second deployment confirms it.

An engine runs in its tenant's pod, so what it says counts for that tenant alone: its own next engines there get the
safe flags. The node is labelled, which decides for everybody, by the operator's own test or by a second deployment.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

KINDS = ("hang", "corrupt")
MOST_CLAIMS = 16


@dataclass(frozen=True)
class Claim:
    """An engine of one deployment failed with peer-to-peer and worked without it."""

    deployment: str
    """NAMESPACE/NAME."""
    kind: str
    """hang or corrupt."""
    driver: str | None
    cards: str | None
    """The node's driver and cards at that time: with others the claim says nothing."""


def parse_claims(text: str | None) -> tuple[Claim, ...]:
    """Never raises: whoever may edit a node's annotations may write anything."""
    try:
        raw = json.loads(text or "{}")
        found = [Claim(str(name), str(c["kind"]), c.get("driver"), c.get("cards")) for name, c in raw.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()
    return tuple(claim for claim in found if claim.kind in KINDS)[:MOST_CLAIMS]


def claims_text(claims: Iterable[Claim]) -> str:
    """The annotation; one claim for each deployment, the newest of it."""
    by_name = {c.deployment: {"kind": c.kind, "driver": c.driver, "cards": c.cards} for c in claims}
    newest = dict(list(by_name.items())[-MOST_CLAIMS:])
    return json.dumps(newest, separators=(",", ":"), sort_keys=True)
