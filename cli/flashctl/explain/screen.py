"""An explanation as one screen of text."""

from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flashctl.age import age_of
from flashctl.explain.explanation import Explanation, Finding
from flashctl.explain.flag_lines import NodeFlags
from flashctl.explain.replicas import ReplicaLine
from flashctl.output import plain

COLOURS = {"True": "bold green", "False": "bold red", "Unknown": "bold yellow"}
LONGEST_MESSAGE = 600
"""Characters of a message: one with the end of a log would fill the screen. `-o json` has all of it."""


MOST_LINES = 8


def screen(found: Explanation, now: datetime) -> Group:
    parts: list[RenderableType] = [Text(found.headline, style=COLOURS.get(found.ready, "bold"))]
    parts += _section("WHY", [_finding(one, now) for one in found.findings])
    parts += _section("REPLICAS", [_replicas(found.replicas)] if found.replicas else [])
    parts += _section("FLAGS", [line for one in found.flags for line in _flags(one)])
    parts += _section("WHAT TO DO", [_steps(found)] if found.next else [])
    parts += _section("WARNINGS", [_event_table(found, now)] if found.events else [])
    parts += _section("NOT KNOWN", [Text(one) for one in _unknown(found)])
    return Group(*parts)


def _section(title: str, lines: list[RenderableType]) -> list[RenderableType]:
    return ["", Text(title, style="bold"), *(Padding(line, (0, 0, 0, 2)) for line in lines)] if lines else []


def _finding(finding: Finding, now: datetime) -> Text:
    age = age_of(finding.since, now)
    text = Text(f"{finding.about}: {finding.reason}", style="bold")
    text.append(f"{f' ({age})' if age else ''}: {clipped(finding.message)}", style="not bold")
    return text


def clipped(message: str) -> str:
    """The beginning of a long message, and that there is more."""
    text = plain(message).strip()
    shown = "\n".join(text[:LONGEST_MESSAGE].splitlines()[:MOST_LINES]).rstrip()
    return text if shown == text else f"{shown} ... (all of it: -o json)"


def _replicas(replicas: list[ReplicaLine]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("POD", "NODE", "READY", "REASON", "TOK/S", "FLOOR", "ACCEPTANCE", "NOTES"):
        table.add_column(column, overflow="fold")
    for one in replicas:
        table.add_row(
            one.pod,
            one.node or "-",
            Text("yes" if one.ready else "no", style="green" if one.ready else "red"),
            one.reason,
            _figure(one.decode_tokens_per_second),
            _figure(one.floor_tokens_per_second),
            _figure(one.acceptance_percent, " %"),
            "; ".join(_notes(one)),
        )
    return table


def _notes(replica: ReplicaLine) -> list[str]:
    notes = [f"quarantine {replica.quarantine.lower()}"] if replica.quarantine else []
    notes += ["recovered from an incident"] if replica.incident else []
    notes += [f"warnings: {len(replica.warnings)}"] if replica.warnings else []
    return [*notes, f"restarts: {replica.restarts}"] if replica.restarts else notes


def _figure(value: int | None, unit: str = "") -> str:
    return "-" if value is None else f"{value}{unit}"


def _steps(found: Explanation) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
    for at, step in enumerate(found.next, 1):
        table.add_row(f"{at}.", step.do)
    return table


def _flags(line: NodeFlags) -> list[RenderableType]:
    said = any(line.row_means in group.why for group in line.groups) if line.row_means else True
    title = f"{line.node}: row {line.row or 'unknown'}{'' if said else f' ({line.row_means})'}"
    facts = [f"link {line.link}" if line.link else "", f"p2p {line.p2p}" if line.p2p else ""]
    facts += [f"from {line.origin}" if line.origin else "", "outdated" if line.outdated else ""]
    head = Text(", ".join([title, *filter(None, facts)]))
    lines = [f"{' '.join(group.flags)}  <- {group.why or 'no reason known'}" for group in line.groups]
    lines += [f"its labels now call for row {line.now_called_for}"] if line.now_called_for else []
    return [head, *(Padding(Text(text), (0, 0, 0, 2)) for text in lines)]


def _event_table(found: Explanation, now: datetime) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for event in found.events:
        table.add_row(age_of(event.at, now), event.reason, event.about, clipped(event.note))
    return table


def _unknown(found: Explanation) -> list[str]:
    return [*([found.operator.message] if found.operator.state == "Unknown" else []), *found.unread]
