"""The cases: checkpoints with their expected verdicts, and ways to all-reduce."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders import a_flash
from flash_contracts.flags import FlagSet, derive
from flash_contracts.node_facts import NodeFacts
from flash_operator.api.v1alpha1 import FlashDeployment
from tiny_model import GOLDEN_PROMPT

GOLDEN = {"kind": "Completion", "prompt": GOLDEN_PROMPT, "expect": "jumps over a lazy dog"}
PROVED = NodeFacts("trial", link="nvlink", p2p="verified", gpus=2)
"""What the labeller and the p2p test say of two GPUs on one HGX board (shown by benchmarks/p2p_test_on_gpus.py)."""

VARIANTS: dict[str, dict[str, Any]] = {
    "custom all-reduce": {},
    "NCCL with peer-to-peer": {"customAllReduce": "Disabled"},
    "NCCL without peer-to-peer": {"mode": "Safe"},
}


@dataclass(frozen=True)
class Case:
    """A checkpoint and its expected outcome."""

    name: str
    variant: str
    reason: str
    check: str = "as the operator says"
    acceptance: tuple[float, float] | None = None
    """The least and the most percent of drafts accepted."""
    message: str = ""
    """Text that the verdict or the end of the engine's log must contain."""

    @property
    def looks_first(self) -> bool:
        return self.check != "off"


ALL, NONE = (99.0, 100.0), (0.0, 2.0)

ON_GPU = (
    Case("good", "good", "Passed", acceptance=ALL),
    Case("dead", "dead", "DraftDead", acceptance=NONE),
    Case("lacking", "lacking", "ModelRejected", message="mtp.0.e_proj.weight"),
    Case("lacking-unseen", "lacking", "EngineExited", check="off", message="mtp.0.e_proj.weight"),
    Case("poisoned", "poisoned", "EngineExited", message="no numbers"),
)
ON_CPU = (
    Case("good", "good", "Passed", acceptance=ALL),
    Case("dead", "dead", "DraftDead", acceptance=NONE),
    Case("lacking", "partial", "EngineExited", message="eh_proj"),
)
"""A tiny DeepSeek-V3, which the plugin ignores. It tests this program, not the product."""


@dataclass(frozen=True)
class Scale:
    """How large an engine is asked for."""

    gpus: int
    context: int = 8192
    sequences: int = 4
    memory_percent: int = 60
    extra: Sequence[str] = ()
    hang_seconds: int = 90
    drafts: int = 1
    """Tokens that the MTP head drafts per step; 0 without drafts."""
    features: str = "Warn"
    """spec.readiness.features."""

    @property
    def speculation(self) -> dict[str, Any]:
        return {"tokens": self.drafts} if self.drafts else {"method": "Disabled"}


def on_gpu(scale: Scale, **interconnect: Any) -> FlashDeployment:
    """The profile with less context, because the KV cache is not tested."""
    engine = {
        "contextTokens": scale.context,
        "maxSequences": scale.sequences,
        "memoryPercent": scale.memory_percent,
        "extraArgs": [f"--tensor-parallel-size={scale.gpus}", *scale.extra],
    }
    return a_flash(
        model={"source": "pvc://models", "servedNames": ["tiny"]},
        engine=engine,
        speculation=scale.speculation,
        interconnect={"hangSeconds": scale.hang_seconds, **interconnect},
        readiness={"golden": GOLDEN, "minDecodeTokensPerSecond": 5, "decodeTokens": 512, "features": scale.features},
    )


def on_cpu(scale: Scale, **interconnect: Any) -> FlashDeployment:
    """As examples/tiny.yaml."""
    arguments = [f"--tensor-parallel-size={scale.gpus}", "--dtype=bfloat16", "--enforce-eager", *scale.extra]
    return a_flash(
        model={"source": "pvc://models", "servedNames": ["tiny"]},
        engine={"profile": "Custom", "contextTokens": 1024, "maxSequences": 4, "extraArgs": arguments},
        speculation=scale.speculation,
        interconnect={"hangSeconds": scale.hang_seconds, **interconnect},
        readiness={"golden": GOLDEN, "minDecodeTokensPerSecond": 2, "decodeTokens": 64},
    )


def flags_of(flash: FlashDeployment, facts: NodeFacts | None) -> FlagSet:
    return derive(facts, flash.spec.interconnect, {})


def fault(case: Case, result: dict[str, Any], said: str) -> str | None:
    """The deviation from the expected outcome, or None."""
    if result.get("reason") != case.reason:
        return f"{case.reason} was expected, and the gate says {result.get('reason')}: {result.get('message')}"
    accepted = (result.get("measurement") or {}).get("acceptancePercent")
    if case.acceptance and (accepted is None or not case.acceptance[0] <= accepted <= case.acceptance[1]):
        return f"{accepted} % of the drafts were accepted, and it must be {case.acceptance[0]} to {case.acceptance[1]}"
    if case.message not in f"{result}{said}":
        return f"nobody says {case.message!r}"
    return None


def model_of(folder: Path, case: Case) -> Path:
    return folder / case.variant
