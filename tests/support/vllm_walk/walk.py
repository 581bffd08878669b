"""Walks from a test's view: the walker's process, and the outcome for each checkpoint."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from vllm_walk.environment import Environment

SAID = re.compile(r"checkpoint repaired \((\w+)\): ")
MTP = {"method": "mtp", "num_speculative_tokens": 1}
DSPARK = {"method": "dspark", "num_speculative_tokens": 5}

SHARED = ("embed_tokens.weight", "shared_head.head.weight", "lm_head.weight")
"""A drafter's parameters that vLLM fills from the model afterwards."""

IDLE = ("_weight_g_idx", "_g_idx_sort_indices")
"""Parameters for an activation order, which vLLM 0.26 creates and drops after loading if there is none."""


@dataclass(frozen=True)
class Side:
    """The model, or its drafter."""

    error: str | None = None
    message: str = ""
    at: str = ""
    unfilled: tuple[str, ...] = ()
    values: dict[str, list[float]] = field(default_factory=dict)
    reached: bool = True

    @classmethod
    def parse(cls, raw: dict[str, Any] | None) -> "Side":
        if raw is None:
            return cls(reached=False)
        unfilled = tuple(name for name in raw.get("unfilled", ()) if not name.endswith((*SHARED, *IDLE)))
        return cls(raw.get("error"), raw.get("message", ""), raw.get("at", ""), unfilled, raw.get("values", {}))

    @property
    def whole(self) -> bool:
        return self.reached and self.error is None and not self.unfilled

    def is_whole_but_for(self, unread: str) -> bool:
        """Whether only parameters that end so are empty, because nothing reads them."""
        return replace(self, unfilled=tuple(name for name in self.unfilled if not name.endswith(unread))).whole

    @property
    def silent(self) -> bool:
        """vLLM would serve with parameters that were never loaded."""
        return self.error is None and bool(self.unfilled)


@dataclass(frozen=True)
class Walk:
    """What vLLM made of one checkpoint."""

    config: Side
    main: Side
    draft: Side
    said: tuple[str, ...]
    """Codes of the findings that the plugin reported as repaired."""

    @property
    def whole(self) -> bool:
        return self.main.whole and self.draft.whole

    @property
    def message(self) -> str:
        """The first error."""
        return next(
            (f"{side.error}: {side.message}" for side in (self.config, self.main, self.draft) if side.error), ""
        )


@dataclass(frozen=True)
class Plan:
    """The size of the KV cache that vLLM would log, or the error that would stop it."""

    tokens: int | None = None
    requests: float | None = None
    error: str | None = None


class Walker:
    """One process that walks any number of checkpoints."""

    def __init__(
        self, environment: Environment, scratch: Path, *, cuda: bool = True, older: Path | None = None
    ) -> None:
        """With the vLLM of the CUDA image, of the CPU image, or with the sources in `older`."""
        lay_out_entry_point(scratch)
        path = (scratch, older) if older else (scratch,)
        self._log = (scratch / "walker.log").open("w")
        self._process = subprocess.Popen(
            [environment.python, "-m", "vllm_walk.walker"], env=environment.variables(*path, cuda=cuda and not older),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip

    def walk(
        self,
        checkpoint: Path,
        *,
        plugin: bool,
        speculation: dict[str, Any] | None = MTP,
        overrides: dict[str, Any] | None = None,
        show: tuple[str, ...] = (),
        lose: tuple[str, ...] = (),
        arguments: dict[str, Any] | None = None,
    ) -> Walk:
        """`show` names parameters; `lose` tensors that get lost on their way; `arguments` are vLLM's own."""
        asked = {
            "checkpoint": str(checkpoint), "plugin": plugin, "speculation": speculation,
            "overrides": overrides or {}, "show": list(show), "lose": list(lose),
            "arguments": arguments or {},
        }  # fmt: skip
        before = len(self.log)
        answer = self._ask({"task": "walk", **asked})
        config, main, draft = (Side.parse(answer.get(name)) for name in ("config", "main", "draft"))
        return Walk(config, main, draft, tuple(SAID.findall(self.log[before:])))

    def judge(self, arguments: list[list[str]]) -> list[str | None]:
        """vLLM's error for each list of arguments; None if it accepts it."""
        answer: list[str | None] = self._ask({"task": "judge", "arguments": arguments})
        return answer

    def options(self) -> list[str]:
        """Every option that its parser has."""
        answer: list[str] = self._ask({"task": "options"})
        return answer

    def plan(self, checkpoint: Path, budgets: list[list[int]], speculation: dict[str, Any] | None) -> list[Plan]:
        """vLLM's plan of the KV cache for each [context, sequences, batched tokens, bytes]."""
        asked = {"task": "plan", "checkpoint": str(checkpoint), "budgets": budgets, "speculation": speculation}
        return [Plan(**one) for one in self._ask(asked)]

    def _ask(self, asked: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(asked)}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the walker died: {self.log[-3000:]}"
        answer = json.loads(line)
        assert not isinstance(answer, dict) or "died" not in answer, f"a task died ({answer}): {self.log[-3000:]}"
        return answer

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text()

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()
        self._log.close()


def lay_out_entry_point(folder: Path) -> None:
    """What announces our plugin to vLLM, as it was installed here: the metadata alone, beside our code on the path."""
    metadata = Path(str(distribution("flash-engine").locate_file("flash_engine-0.1.0.dist-info")))
    shutil.copytree(metadata, folder / metadata.name)
