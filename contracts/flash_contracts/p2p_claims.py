"""What engines say about the links of their node, before a test or a second deployment confirms it.

An engine runs in its tenant's pod, so what it says counts for that tenant alone: its own next engines there get the
safe flags. The node is labelled, which decides for everybody, by the operator's own test or by a second deployment.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from flash_contracts.document import Document
from flash_contracts.engine_record import FaultKind

MOST_CLAIMS = 16


@dataclass(frozen=True)
class Claim(Document):
    """An engine of one deployment failed with peer-to-peer and worked without it."""

    deployment: str
    """NAMESPACE/NAME."""
    kind: FaultKind
    driver: str | None = None
    cards: str | None = None
    """The node's driver and cards at that time: with others the claim says nothing."""


def parse_claims(text: str | None) -> tuple[Claim, ...]:
    """Never raises: whoever may edit a node's annotations may write anything."""
    try:
        return tuple(Claim.parse(claim) for claim in json.loads(text or "[]"))[:MOST_CLAIMS]
    except (ValueError, TypeError, RecursionError):
        return ()


def claims_text(claims: Iterable[Claim]) -> str:
    """The annotation; one claim for each deployment, the newest of it."""
    newest = {claim.deployment: claim.to_json() for claim in claims}
    return json.dumps(list(newest.values())[-MOST_CLAIMS:], separators=(",", ":"))
