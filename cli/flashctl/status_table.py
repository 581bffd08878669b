"""The table of `status`: one row for each deployment, from the raw CRs alone. Pure, but for its colours."""

from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from flash_operator.core.observed.snapshot import RawObject
from flashctl.age import age_of
from flashctl.output import Document

COLOURS = {"True": "green", "False": "red", "Unknown": "yellow"}


class Row(Document):
    """One deployment."""

    namespace: str
    name: str
    ready: str
    """Status of the condition Ready; Unknown while nobody has judged it."""
    reason: str
    replicas: str
    decode_tokens_per_second: int | None = None
    acceptance_percent: int | None = None
    update: str | None = None
    since: str | None = None
    """When Ready changed last."""
    message: str


class StatusDocument(Document):
    """`status -o json`."""

    deployments: list[Row]


def rows(deployments: list[RawObject]) -> list[Row]:
    return sorted((_row(raw) for raw in deployments), key=lambda row: (row.namespace, row.name))


def _row(raw: RawObject) -> Row:
    status = raw.get("status") or {}
    summary = status.get("summary") or {}
    ready = condition(raw, "Ready")
    wanted = (raw.get("spec") or {}).get("replicas", 1)
    return Row(
        namespace=raw["metadata"].get("namespace", ""),
        name=raw["metadata"]["name"],
        ready=ready.get("status", "Unknown"),
        reason=ready.get("reason", "NotSeen"),
        replicas=summary.get("replicas") or f"{status.get('readyReplicas', 0)}/{wanted}",
        decode_tokens_per_second=summary.get("decodeTokensPerSecond"),
        acceptance_percent=summary.get("acceptancePercent"),
        update=summary.get("update"),
        since=ready.get("lastTransitionTime"),
        message=ready.get("message", "no operator has looked at it yet"),
    )


def condition(raw: RawObject, name: str) -> dict[str, Any]:
    """The condition of this type; empty if there is none."""
    known = (raw.get("status") or {}).get("conditions") or []
    return next((one for one in known if one.get("type") == name), {})


def table(found: list[Row], now: datetime, *, namespaces: bool) -> Table:
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["NAME", "READY", "REPLICAS", "TOK/S", "ACCEPTANCE", "UPDATE", "SINCE", "REASON"]
    for column in ["NAMESPACE", *columns] if namespaces else columns:
        drawn.add_column(column, no_wrap=column != "REASON", justify="right" if column == "TOK/S" else "left")
    for row in found:
        cells: list[str | Text] = [
            row.name,
            Text(row.ready, style=COLOURS.get(row.ready, "")),
            row.replicas,
            "" if row.decode_tokens_per_second is None else str(row.decode_tokens_per_second),
            "" if row.acceptance_percent is None else f"{row.acceptance_percent} %",
            row.update or "",
            age_of(row.since, now),
            row.reason,
        ]
        drawn.add_row(*([row.namespace, *cells] if namespaces else cells))
    return drawn
