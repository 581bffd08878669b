"""The verdict, and phrases that several checks share."""

from dataclasses import dataclass

from flash_contracts.gate_config import GateConfig
from flash_contracts.verdict_reason import Reason
from flash_engine.gate.measurement import Measurement


@dataclass(frozen=True)
class Verdict:
    """One of the contract's reasons, and a message."""

    reason: Reason
    message: str

    @property
    def passed(self) -> bool:
        return self.reason == Reason.PASSED


def inconclusive(doubt: str, config: GateConfig) -> Verdict:
    return Verdict(Reason.INCONCLUSIVE, f"{doubt}; measuring again in {config.retry_seconds:g} s")


def floor_text(config: GateConfig) -> str:
    is_learned = config.learned is not None and config.floor_origin == "Learned"
    return f"{config.floor:g} ({config.learned.explanation})" if config.learned and is_learned else f"{config.floor:g}"


def prefill_text(figures: Measurement) -> str:
    seconds = (figures.prompt_first_token_millis or 0) / 1000
    if figures.depth_decode_tokens_per_second is None:
        return f"a prompt of {figures.prompt_tokens} tokens had no first token within {seconds:.0f} s"
    return (
        f"a prompt of {figures.prompt_tokens} tokens read at {figures.prefill_tokens_per_second:.0f} tok/s "
        f"({seconds:.1f} s to its first token)"
    )
