"""Takes each right of the chart's operator away: a real API server then refuses a request of the operator's own code.

An installation that watches one namespace has every rule of the chart, each in the role of one place. One for all
namespaces has the same rules, those of the watched namespace in its ClusterRole. A right that no flow needs is
superfluous, and fails the first test.
"""

import uuid
from collections.abc import Iterator

import aiohttp
import pytest
from structlog.testing import capture_logs

from chart_rights import Right, Roles, rights_of, roles_of, users_without_each
from cluster_fixtures import ControlPlane
from flash_operator.core.observed.raw import RawObject
from flash_operator.runtime.cluster import ApiError, Cluster
from flash_operator.runtime.gates import Gates
from keda_api import a_keda_crd
from operator_flows import CASES, NEEDS, RELEASE, WATCHED, Flow, Place
from rendered_chart import bundle, render
from runtime_site import Site
from waiting import eventually

pytestmark = pytest.mark.apiserver

VALUES = (f"watchNamespace={WATCHED}", "activator.enabled=true")
ACCOUNT = f"system:serviceaccount:{RELEASE}:flash"
PLACES = {RELEASE: "release", WATCHED: "watched", "default": "default"}


@pytest.fixture(scope="module")
def documents() -> list[RawObject]:
    return render(*VALUES, namespace=RELEASE)


@pytest.fixture(scope="module")
def installed(crd_server: ControlPlane, documents: list[RawObject]) -> Iterator[Roles]:
    """The chart's roles, a user without each of their rights, and KEDA's API."""
    roles = roles_of("flash", documents, PLACES)
    for namespace in (RELEASE, WATCHED):
        crd_server.kubectl("create", "namespace", namespace)
        crd_server.kubectl("create", "serviceaccount", "default", "-n", namespace)
    accounts = [one for one in documents if "Role" in one["kind"] or one["kind"] == "ServiceAccount"]
    made = bundle([*accounts, *users_without_each(roles), a_keda_crd()])
    crd_server.kubectl("apply", "--server-side", "-f", "-", stdin=made)
    eventually(lambda: keda_is_served(crd_server), "KEDA's API is served")
    yield roles
    crd_server.kubectl("delete", "--wait=false", "-f", "-", stdin=made)
    crd_server.kubectl("delete", "pods", "--all", "-n", WATCHED, "--grace-period=0", "--force")
    crd_server.kubectl("delete", "namespace", RELEASE, WATCHED, "--wait=false")
    eventually(lambda: not keda_is_served(crd_server), "KEDA's API is gone")


def keda_is_served(server: ControlPlane) -> bool:
    return server.kubectl("get", "--raw=/apis/keda.sh/v1alpha1/scaledobjects", check=False).returncode == 0


def test_every_right_of_the_chart_is_needed_by_a_flow(documents: list[RawObject]) -> None:
    """Otherwise take it out of the chart, or add the flow that needs it."""
    roles = roles_of("flash", documents, PLACES)
    assert roles.keys() == {"cluster", "release", "watched", "default"}
    assert rights_of(roles).keys() == CASES.keys()


async def complaints(server: ControlPlane, flow: Flow, user: str, groups: tuple[str, ...] = ()) -> str:
    """What the flow says and raises as this user."""
    unique = f"right-{uuid.uuid4().hex[:8]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        patch.setenv("KUBECONFIG", str(server.kubeconfig))
        owner = await Cluster.connect()
        patch.setenv("KUBECONFIG", str(server.identity(unique, user, groups=groups)))
        cluster = await Cluster.connect()
        try:
            async with aiohttp.ClientSession() as session:
                gates = Gates(session)
                first, second = (Site(server, one, gates, WATCHED, watched=WATCHED) for one in (owner, cluster))
                place = Place(first, second, unique)
                with capture_logs() as logs:
                    try:
                        found = await flow(place)
                    except ApiError as error:
                        found = error
                return f"{found} {logs}"
        finally:
            await owner.close()
            await cluster.close()


@pytest.mark.parametrize("flow", NEEDS)
async def test_with_all_rights_of_the_chart_nothing_is_refused(
    flow: str, crd_server: ControlPlane, installed: Roles
) -> None:
    del installed
    assert "forbidden" not in await complaints(crd_server, NEEDS[flow][0], ACCOUNT)


@pytest.mark.parametrize(("right", "flow"), CASES.items(), ids=[right.user for right in CASES])
async def test_without_a_right_the_operator_says_what_it_may_not_do(
    right: Right, flow: str, crd_server: ControlPlane, installed: Roles
) -> None:
    others = tuple(place for place in installed if place != right.place)
    found = await complaints(crd_server, NEEDS[flow][0], right.user, others)
    group = rights_of(installed)[right]
    assert f'cannot {right.verb} resource "{right.resource}" in API group "{group}"' in found.replace('\\"', '"')
