"""Claims of engines about the links of their node, before a test or a second tenant confirms them.

An engine runs in its tenant's pod, so its claim affects only that tenant: the deployment's next engines on the node get
the safe flags. Changing the node's label, which affects everybody, needs the operator's own test or a second tenant,
which is a deployment in another namespace.
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
    """The node's driver and cards at that time. With others, the claim does not apply."""

    @property
    def namespace(self) -> str:
        """The tenant: whoever may create one deployment in a namespace may create more."""
        return namespace_of(self.deployment)


def namespace_of(deployment: str) -> str:
    """The namespace in NAMESPACE/NAME."""
    return deployment.partition("/")[0]


def parse_claims(text: str | None) -> tuple[Claim, ...]:
    """Parse the annotation. Never raises, because it may contain anything."""
    try:
        return tuple(Claim.parse(claim) for claim in json.loads(text or "[]"))[:MOST_CLAIMS]
    except (ValueError, TypeError, RecursionError):
        return ()


def claims_text(claims: Iterable[Claim]) -> str:
    """The annotation, with the newest claim of each deployment."""
    newest = {claim.deployment: claim.to_json() for claim in claims}
    return json.dumps(list(newest.values())[-MOST_CLAIMS:], separators=(",", ":"))
