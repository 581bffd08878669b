"""The verdict of the whole test, from the results of its variants. Pure."""

from collections.abc import Sequence

from flash_contracts.p2p_report import Outcome
from flash_engine.p2p_test.outcome import P2pVerdict, VariantResult, shortened
from flash_engine.p2p_test.variants import VARIANTS, WITHOUT_PEER_TO_PEER, WORLD

DETAIL_LIMIT = 240
"""Characters of a variant's detail that fit into the reason."""

_SAFE_FLAGS = "run engines with NCCL_P2P_DISABLE=1 and --disable-custom-all-reduce"
_HOST_FIX = (
    "to fix the host, turn off ACS redirection and IOMMU translation (iommu=pt), update the driver, then test again"
)

_ADJECTIVES: dict[Outcome, str] = {
    "healthy": "healthy",
    "hang": "hanging",
    "corrupt": "corrupt",
    "notPossible": "not possible",
    "inconclusive": "inconclusive",
}


def verdict(results: Sequence[VariantResult]) -> P2pVerdict:
    """The first row that matches:

    no rank found a GPU, or both used the same one              inconclusive
    peer-to-peer fails, and so does ncclP2pOff                  inconclusive: something else is broken
    a variant is corrupt                                        corrupt
    a variant hangs                                             hang
    a variant is not possible                                   notPossible
    a variant is inconclusive, or was not run                   inconclusive
    otherwise                                                   healthy
    """
    return (
        _without_two_gpus(results)
        or _control_failed(results)
        or _peer_to_peer_failed(results)
        or _incomplete_or_healthy(results)
    )


def stopped() -> P2pVerdict:
    return P2pVerdict(
        "inconclusive", "the p2p test was asked to stop before it finished; run it again when the GPUs are free"
    )


def _without_two_gpus(results: Sequence[VariantResult]) -> P2pVerdict | None:
    gpus = {gpu for result in results for gpu in result.gpus}
    if not gpus:
        first = f"; {_message(results[0])}" if results else ""
        remedy = "run it in the engine image with nvidia.com/gpu: 2"
        return P2pVerdict("inconclusive", f"no GPU was found{first}; {remedy}")
    if len(gpus) < WORLD:
        message = "only one GPU is visible and both ranks ran on it, which proves nothing about two"
        return P2pVerdict("inconclusive", f"{message}; run it with nvidia.com/gpu: 2")
    return None


def _control_failed(results: Sequence[VariantResult]) -> P2pVerdict | None:
    """Peer-to-peer failures count only if the same GPUs work without it."""
    base = next((result for result in results if result.variant == WITHOUT_PEER_TO_PEER), None)
    if base is None or base.outcome == "healthy":
        return None
    remedy = "check the kernel log for Xid errors and the size of /dev/shm, then test again"
    return P2pVerdict("inconclusive", f"something other than peer-to-peer is broken: {_message(base)}; {remedy}")


def _peer_to_peer_failed(results: Sequence[VariantResult]) -> P2pVerdict | None:
    with_p2p = [result for result in results if result.variant != WITHOUT_PEER_TO_PEER]
    control_ran = len(with_p2p) < len(results)
    reasons: dict[Outcome, str] = {
        "corrupt": f"peer-to-peer returns wrong data: {{}}; {_SAFE_FLAGS}; {_HOST_FIX}",
        "hang": f"peer-to-peer hangs: {{}}; {_SAFE_FLAGS}; {_HOST_FIX}",
        "notPossible": f"the driver refuses peer-to-peer: {{}}; {_SAFE_FLAGS}",
    }
    for outcome, reason in reasons.items():
        failed = [result for result in with_p2p if result.outcome == outcome]
        if failed and (control_ran or outcome == "notPossible"):
            return P2pVerdict(outcome, reason.format(_combined_message(failed)))
    return None


def _incomplete_or_healthy(results: Sequence[VariantResult]) -> P2pVerdict:
    unhealthy = [result for result in results if result.outcome != "healthy"]
    if unhealthy:
        return P2pVerdict("inconclusive", f"nothing is proven: {_message(unhealthy[0])}; test again with all variants")
    missing = [variant.name for variant in VARIANTS if variant.name not in {result.variant for result in results}]
    if missing:
        names = ", ".join(missing)
        return P2pVerdict("inconclusive", f"healthy as far as tested, but not run: {names}; run all variants")
    return P2pVerdict("healthy", "all variants are healthy: peer-to-peer can be used with this driver")


def _combined_message(failed: Sequence[VariantResult]) -> str:
    others = ", ".join(result.variant for result in failed[1:])
    return f"{_message(failed[0])}, likewise {others}" if others else _message(failed[0])


def _message(result: VariantResult) -> str:
    detail = f" ({shortened(result.detail, DETAIL_LIMIT)})" if result.detail else ""
    return f"variant {result.variant} is {_ADJECTIVES[result.outcome]}{detail}"
