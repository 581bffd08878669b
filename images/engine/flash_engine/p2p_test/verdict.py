"""What the arms say together. Pure."""

from collections.abc import Sequence

from flash_contracts.p2p_report import Outcome
from flash_engine.p2p_test.outcome import VariantResult, Verdict, shortened
from flash_engine.p2p_test.variants import VARIANTS, WITHOUT_PEER_TO_PEER, WORLD

DETAIL_LIMIT = 240
"""Characters of an arm's detail that fit into the reason."""

_SAFE = "run engines with NCCL_P2P_DISABLE=1 and --disable-custom-all-reduce"
_MEND = (
    "to mend the host turn off ACS redirection and the IOMMU's translation (iommu=pt), update its driver, test again"
)


def verdict(results: Sequence[VariantResult]) -> Verdict:
    """The first row that fits:

    no rank found a GPU, or both were on one                     inconclusive
    a fault of peer-to-peer, ncclP2pOff is not healthy           inconclusive: something else is broken
    an arm is corrupt                                            corrupt
    an arm hangs                                                 hang
    an arm is not possible                                       notPossible
    an arm is inconclusive, or was not run                       inconclusive
    otherwise                                                    healthy
    """
    return _without_two_gpus(results) or _something_else(results) or _of_peer_to_peer(results) or _the_rest(results)


def stopped() -> Verdict:
    return Verdict(
        "inconclusive", "the probe was asked to stop before it was done; run it again when the GPUs are free"
    )


def _without_two_gpus(results: Sequence[VariantResult]) -> Verdict | None:
    gpus = {gpu for result in results for gpu in result.gpus}
    if not gpus:
        first = f"; {_told(results[0])}" if results else ""
        remedy = "run it in the engine's image with nvidia.com/gpu: 2"
        return Verdict("inconclusive", f"no GPU was found{first}; {remedy}")
    if len(gpus) < WORLD:
        told = "only one GPU is visible, and both ranks were on it, which says nothing of two"
        return Verdict("inconclusive", f"{told}: run it with nvidia.com/gpu: 2")
    return None


def _something_else(results: Sequence[VariantResult]) -> Verdict | None:
    """Faults of peer-to-peer count only where the same GPUs are well without it."""
    base = next((result for result in results if result.variant == WITHOUT_PEER_TO_PEER), None)
    if base is None or base.outcome == "healthy":
        return None
    remedy = "look for Xid in the kernel's log and at the size of /dev/shm, then test again"
    return Verdict("inconclusive", f"something other than peer-to-peer is broken: {_told(base)}; {remedy}")


def _of_peer_to_peer(results: Sequence[VariantResult]) -> Verdict | None:
    with_it = [result for result in results if result.variant != WITHOUT_PEER_TO_PEER]
    base_is_known = len(with_it) < len(results)
    remedies: dict[Outcome, str] = {
        "corrupt": f"peer-to-peer gives wrong data: {{}}; {_SAFE}, and {_MEND}",
        "hang": f"peer-to-peer hangs: {{}}; {_SAFE}, and {_MEND}",
        "notPossible": f"the driver refuses peer-to-peer: {{}}; {_SAFE}",
    }
    for outcome, words in remedies.items():
        bad = [result for result in with_it if result.outcome == outcome]
        if bad and (base_is_known or outcome == "notPossible"):
            return Verdict(outcome, words.format(_told_together(bad)))
    return None


def _the_rest(results: Sequence[VariantResult]) -> Verdict:
    unwell = [result for result in results if result.outcome != "healthy"]
    if unwell:
        return Verdict("inconclusive", f"nothing is proved: {_told(unwell[0])}; test again with all arms")
    missing = [variant.name for variant in VARIANTS if variant.name not in {result.variant for result in results}]
    if missing:
        return Verdict("inconclusive", f"healthy as far as tested, but not run: {', '.join(missing)}; run all arms")
    return Verdict("healthy", "all arms are healthy: peer-to-peer may be used under this driver")


def _told_together(bad: Sequence[VariantResult]) -> str:
    others = ", ".join(result.variant for result in bad[1:])
    return f"{_told(bad[0])}, likewise {others}" if others else _told(bad[0])


def _told(result: VariantResult) -> str:
    detail = f" ({shortened(result.detail, DETAIL_LIMIT)})" if result.detail else ""
    return f"arm {result.variant} is {result.outcome}{detail}"
