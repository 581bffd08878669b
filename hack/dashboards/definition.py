"""What a dashboard consists of, before any tool draws it."""

from dataclasses import dataclass
from typing import Literal

NAMESPACE, NAME = "$namespace", "$name"
"""The dashboard's variables, as queries use them."""
RATE = "$__rate_interval"

OURS = f'deployment_namespace=~"{NAMESPACE}", deployment_name=~"{NAME}"'
"""Selects the deployments that the viewer has chosen. The chart's PodMonitors give gates and engines these labels."""
EACH = "deployment_namespace, deployment_name"
LEGEND = "{{deployment_namespace}}/{{deployment_name}}"


@dataclass(frozen=True)
class Query:
    """One expression, and what its series are called."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One picture. `unit` is Grafana's name of it."""

    title: str
    text: str
    """What to see in it, and what is wrong if it is not so."""
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Literal["lines", "number", "table"] = "lines"
    width: int = 8
    """Of 24."""


@dataclass(frozen=True)
class Row:
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """A page of rows."""

    file: str
    title: str
    text: str
    rows: tuple[Row, ...]
    by_deployment: bool = True
    """Whether the viewer chooses deployments."""

    @property
    def queries(self) -> tuple[Query, ...]:
        return tuple(query for row in self.rows for panel in row.panels for query in panel.queries)
