"""Grafana's JSON of a dashboard, by Grafana's own SDK."""

from collections.abc import Iterator
from itertools import count

from grafana_foundation_sdk.builders import common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, GridPos, VariableRefresh
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.definition import Dashboard, Panel, Query

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
ANY_VALUE = ".*"
WIDTH = 24
HEIGHT = 8

PanelBuilder = timeseries.Panel | stat.Panel | table.Panel


def document(board: Dashboard) -> str:
    """The JSON file."""
    made = (
        builders.Dashboard(board.title)
        .uid(f"deepseek-flash-{board.file}")
        .description(board.text)
        .tags(["deepseek-flash"])
        .time("now-6h", "now")
        .refresh("30s")
        .readonly()
        .with_variable(builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    if board.by_deployment:
        made.with_variable(_variable("namespace", "deployment_namespace", "flash_operator_deployment_wanted_replicas"))
        chosen = 'flash_operator_deployment_wanted_replicas{deployment_namespace=~"$namespace"}'
        made.with_variable(_variable("name", "deployment_name", chosen))
    _add_rows(made, board)
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _variable(name: str, label: str, series: str) -> builders.QueryVariable:
    """Lists the values of a label; all of them at first."""
    return (
        builders.QueryVariable(name)
        .datasource(SOURCE)
        .query(f"label_values({series}, {label})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(include_all=True)
        .all_value(ANY_VALUE)
        .multi(multi=True)
    )


def _add_rows(made: builders.Dashboard, board: Dashboard) -> None:
    numbers, y = count(1), 0
    for row in board.rows:
        title = builders.Row(row.title).grid_pos(GridPos(h=1, w=WIDTH, x=0, y=y)).id(next(numbers))
        made.with_row(title)
        for panel, place in _placed(row.panels, y + 1):
            made.with_panel(_panel(panel).id(next(numbers)).grid_pos(place))
            y = max(y, place.y + place.h)


def _placed(panels: tuple[Panel, ...], y: int) -> Iterator[tuple[Panel, GridPos]]:
    """From left to right, in lines."""
    x = 0
    for panel in panels:
        if x + panel.width > WIDTH:
            x, y = 0, y + HEIGHT
        yield panel, GridPos(h=HEIGHT, w=panel.width, x=x, y=y)
        x += panel.width


def _panel(panel: Panel) -> PanelBuilder:
    made = _empty(panel.kind).title(panel.title).description(panel.text).unit(panel.unit).datasource(SOURCE)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        made.with_target(_target(query, letter, panel.kind))
    return made


def _empty(kind: str) -> PanelBuilder:
    match kind:
        case "number":
            return stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        case "table":
            return table.Panel().show_header(show_header=True)
        case _:
            shown = common.VizLegendOptions().show_legend(show_legend=True).placement(LegendPlacement.BOTTOM)
            return timeseries.Panel().min(0.0).legend(shown.display_mode(LegendDisplayMode.LIST))


def _target(query: Query, letter: str, kind: str) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expression).legend_format(query.legend).ref_id(letter).datasource(SOURCE)
    if kind == "lines":
        return made.range()
    return made.instant().format(PromQueryFormat.TABLE) if kind == "table" else made.instant()
