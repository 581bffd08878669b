"""Leader election between real candidates on a real API server, with clocks that the test moves."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from cluster_fixtures import ControlPlane
from flash_operator.runtime.cluster import Cluster
from flash_operator.runtime.lease import NAME, LeaderLease, LeaseLostError, LeaseTimes

pytestmark = pytest.mark.apiserver

QUICK = LeaseTimes(duration=15.0, give_up=10.0, interval=0.01)


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TickingClock(Clock):
    """Each reading of the clock advances it by a second."""

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
async def cluster(api_server: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    made = await Cluster.connect()
    yield made
    await made.close()


@pytest.fixture
def namespace(api_server: ControlPlane) -> str:
    name = f"lease-{uuid.uuid4().hex[:6]}"
    api_server.kubectl("create", "namespace", name)
    return name


async def holder(cluster: Cluster, namespace: str) -> str:
    lease = await cluster.get("Lease", NAME, namespace)
    assert lease is not None
    return str(lease["spec"]["holderIdentity"])


async def test_the_first_candidate_leads_and_the_second_stands_by(cluster: Cluster, namespace: str) -> None:
    first, second = (LeaderLease(cluster, namespace, name, QUICK, Clock()) for name in ("one", "two"))
    await first.acquire()
    assert await second.try_once() is False
    assert await holder(cluster, namespace) == "one"


async def test_a_standby_knows_the_address_of_the_one_that_leads(cluster: Cluster, namespace: str) -> None:
    first, second = (
        LeaderLease(cluster, namespace, name, QUICK, Clock(), address=f"http://{name}:8080") for name in ("one", "two")
    )
    await first.acquire()
    assert await second.try_once() is False
    assert second.leader_address == "http://one:8080"
    await first.release()
    await second.acquire()
    assert await first.try_once() is False
    assert first.leader_address == "http://two:8080"


async def test_a_holder_knows_how_long_it_may_write(cluster: Cluster, namespace: str) -> None:
    clock = Clock()
    lease = LeaderLease(cluster, namespace, "one", QUICK, clock)
    assert lease.seconds_left() == 0.0, "it does not lead yet"
    await lease.acquire()
    assert lease.seconds_left() == 15.0
    clock.now += 14
    assert lease.seconds_left() == 1.0
    await lease.try_once()
    assert lease.seconds_left() == 15.0
    clock.now += 100
    assert lease.seconds_left() == 0.0
    await lease.release()
    assert lease.seconds_left() == 0.0


async def test_operators_of_two_classes_lead_side_by_side(cluster: Cluster, namespace: str) -> None:
    one = LeaderLease(cluster, namespace, "one", QUICK)
    other = LeaderLease(cluster, namespace, "other", QUICK, operator_class="blue")
    assert await one.try_once() is True
    assert await other.try_once() is True
    assert await LeaderLease(cluster, namespace, "third", QUICK, operator_class="blue").try_once() is False


async def test_a_released_lease_is_taken_at_once(cluster: Cluster, namespace: str) -> None:
    first, second = (LeaderLease(cluster, namespace, name, QUICK, Clock()) for name in ("one", "two"))
    await first.acquire()
    await first.release()
    assert await second.try_once() is True


async def test_a_lease_that_is_not_renewed_is_taken_after_its_duration_and_not_before(
    cluster: Cluster, namespace: str
) -> None:
    clock = Clock()
    dead, next_one = (
        LeaderLease(cluster, namespace, "dead", QUICK),
        LeaderLease(cluster, namespace, "next", QUICK, clock),
    )
    await dead.acquire()
    assert await next_one.try_once() is False
    clock.now += 14.9
    assert await next_one.try_once() is False
    clock.now += 0.2
    assert await next_one.try_once() is True
    assert await holder(cluster, namespace) == "next"


async def test_a_renewed_lease_is_not_taken_however_long_one_waits(cluster: Cluster, namespace: str) -> None:
    clock = Clock()
    alive = LeaderLease(cluster, namespace, "alive", QUICK)
    hungry = LeaderLease(cluster, namespace, "hungry", QUICK, clock)
    await alive.acquire()
    for _ in range(5):
        assert await hungry.try_once() is False
        assert await alive.try_once() is True
        clock.now += 10


async def test_a_holder_whose_lease_was_taken_stops_at_once(cluster: Cluster, namespace: str) -> None:
    clock = Clock()
    slow = LeaderLease(cluster, namespace, "slow", QUICK)
    await slow.acquire()
    quick = LeaderLease(cluster, namespace, "quick", QUICK, clock)
    await quick.try_once()
    clock.now += 16
    assert await quick.try_once() is True
    with pytest.raises(LeaseLostError, match="another operator"):
        await slow.hold()


async def test_a_holder_that_cannot_renew_gives_up_before_another_may_take_over(
    api_server: ControlPlane, cluster: Cluster, namespace: str
) -> None:
    clock, held_at = TickingClock(), 0.0

    class Noted(LeaderLease):
        async def try_once(self) -> bool:
            nonlocal held_at
            held = await super().try_once()
            held_at = clock.now if held else held_at
            return held

    lonely = Noted(cluster, namespace, "lonely", QUICK, clock)
    await lonely.acquire()
    # Nothing can be created in a terminating namespace, so renewing fails once the API server knows of it.
    api_server.kubectl("delete", "namespace", namespace, "--wait=false")
    api_server.kubectl("delete", "lease", NAME, "-n", namespace)

    with pytest.raises(LeaseLostError, match="could not be renewed for 10 s"):
        await lonely.hold()
    assert clock.now - held_at < QUICK.duration


async def test_a_holder_whose_renewal_is_not_answered_gives_up_in_time(cluster: Cluster, namespace: str) -> None:
    """A request times out after 30 s, which is twice the lease's duration."""

    class Unanswered(LeaderLease):
        async def try_once(self) -> bool:
            if self._held is not None:
                await asyncio.Event().wait()
            return await super().try_once()

    silent = Unanswered(cluster, namespace, "silent", LeaseTimes(duration=1.5, give_up=1.0, interval=0.1))
    await silent.acquire()
    async with asyncio.timeout(60):
        with pytest.raises(LeaseLostError, match="could not be renewed for 1 s"):
            await silent.hold()
