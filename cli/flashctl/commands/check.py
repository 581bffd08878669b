"""`kubectl dsf check`: is this cluster able?"""

from collections.abc import Callable
from typing import TypeVar

from flash_contracts.names import GROUP, PLURAL
from flash_operator.core.observed.snapshot import RawObject
from flashctl.checks import EVERYWHERE, PERMISSIONS, Findings, operator_class, table
from flashctl.checks import check as checked
from flashctl.cluster import Cluster
from flashctl.errors import NoRightError, NotFoundError
from flashctl.exits import Exit
from flashctl.gathering import operator_leases
from flashctl.session import Session, on_cluster

T = TypeVar("T")
OPERATOR = {"app.kubernetes.io/part-of": "deepseek-flash", "app.kubernetes.io/component": "operator"}
LABELLER = {"app.kubernetes.io/part-of": "deepseek-flash", "app.kubernetes.io/component": "labeller"}


@on_cluster
def check(session: Session) -> Exit:
    """Say whether this cluster can run DeepSeek-Flash, and what you may do in it.

    Ends with 1 if something that is required is missing.
    """
    found = checked(_findings(session.cluster))
    session.show(found, table(found))
    return Exit.DONE if found.able else Exit.NOT_READY


def _findings(cluster: Cluster) -> Findings:
    version = str(cluster.document("/version").get("gitVersion", ""))
    groups = cluster.document("/apis").get("groups") or []
    operators = _everywhere(cluster, "Deployment", OPERATOR)
    return Findings(
        now=cluster.now(),
        server_version=version,
        served_versions=cluster.served_versions(),
        crd=_or_why(lambda: cluster.find("CustomResourceDefinition", f"{PLURAL}.{GROUP}")),
        leases=_leases(cluster, operators),
        operators=operators,
        labellers=_everywhere(cluster, "DaemonSet", LABELLER),
        nodes=_or_why(lambda: cluster.listed("Node")),
        runtime_classes=_or_why(lambda: cluster.listed("RuntimeClass")),
        groups=frozenset(str(group.get("name")) for group in groups),
        rights={
            right: cluster.may(
                right.verb, right.kind, "" if right.kind in EVERYWHERE else None, subresource=right.subresource
            )
            for right in PERMISSIONS
        },
    )


def _leases(cluster: Cluster, operators: list[RawObject] | str) -> tuple[RawObject, ...] | str:
    """Of every class of operator that is installed (chart value operatorClass), or of the one without a class."""
    classes = {""} if isinstance(operators, str) else {operator_class(one) for one in operators} or {""}
    found: list[RawObject] = []
    for name in sorted(classes):
        leases = operator_leases(cluster, name)
        if isinstance(leases, str):
            return leases
        found += leases
    return tuple(found)


def _everywhere(cluster: Cluster, kind: str, labels: dict[str, str]) -> list[RawObject] | str:
    return _or_why(lambda: cluster.listed(kind, everywhere=True, labels=labels))


def _or_why(read: Callable[[], T]) -> T | str:
    """What was read, or why it could not be."""
    try:
        return read()
    except (NoRightError, NotFoundError) as error:
        return str(error)
