"""What the gate must hold the engine to: `gate.json`, which the operator writes into a ConfigMap.

The only module of this package that needs pydantic. The launcher does not import it.
"""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from flash_contracts.document import VERSION

FILE = "gate.json"
GIB = 1 << 30

Seconds = Annotated[int, Field(gt=0)] | Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bound = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, allow_inf_nan=False)]


class BadConfigError(ValueError):
    """gate.json cannot be read; the message names the file and the field."""


class _Document(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class ExpectedSpeculation(_Document):
    """Whether drafts are expected."""

    expected: bool = True
    tokens: int = 1


class GoldenQuestion(_Document):
    """The question that must be answered right."""

    kind: Literal["chat", "completion"] = "chat"
    prompt: str
    expect: str | None = None
    """A regular expression that the answer must contain; without one it must be no nonsense."""
    max_tokens: Annotated[int, Field(ge=1)] = 32

    @field_validator("expect")
    @classmethod
    def is_an_expression(cls, expect: str | None) -> str | None:
        try:
            re.compile(expect or "")
        except re.error as error:
            raise ValueError(f"{expect!r} is not a regular expression: {error}") from error
        return expect


class DecodeTest(_Document):
    """What is timed, and the floor in tokens per second of one stream."""

    min_tokens_per_second: Bound
    prompt: str
    tokens: Annotated[int, Field(ge=2)] = 128
    samples: Annotated[int, Field(ge=1)] = 3
    """Most timed streams; fewer where the figures are clear earlier."""
    streams: Annotated[int, Field(ge=1)] = 1
    """Requests at once in a last round that nothing is timed in: faults of kernels show under load first."""


class ServingWatch(_Document):
    """How an engine is watched that has passed."""

    watch_seconds: Seconds = 5
    windows: Annotated[int, Field(ge=1)] = 3
    """Bad looks in a row before anything is believed."""
    tolerance_percent: Annotated[int, Field(ge=0, lt=100)] | Annotated[float, Field(ge=0, lt=100)] = 10
    """How far below the floor traffic may be: users' prompts draft worse than the gate's."""
    stall_seconds: Seconds = 60
    """An engine with requests that makes no step for so long hangs."""
    on_degraded: Literal["Report", "Quarantine", "Restart"] = "Quarantine"


class StartupBudget(_Document):
    """How long a start may take by what has to be loaded."""

    base_seconds: Seconds = 900
    seconds_per_gibibyte: Bound = 18


class LearnedFloor(_Document):
    """The floor of one pod, handed over by the operator: learned from what others of its class have done."""

    min_tokens_per_second: Bound
    told: str = ""


class GateConfig(_Document):
    """The whole of gate.json. Floors may change while the pod runs; they re-judge and never re-measure."""

    WRITER: ClassVar[str] = "operator"
    READERS: ClassVar[tuple[str, ...]] = ("gate",)

    model: str
    speculation: ExpectedSpeculation = ExpectedSpeculation()
    plugin_required: bool = False
    """Whether the engine must have said that its vLLM plugin is active."""
    golden: GoldenQuestion
    decode: DecodeTest
    min_acceptance_percent: Bound = 40
    max_first_token_millis: Bound | None = None
    startup_timeout_seconds: Seconds = 3600
    startup_budget: StartupBudget | None = None
    """Holds instead of `startup_timeout_seconds` once the checkpoint's size is known."""
    request_timeout_seconds: Seconds = 120
    retry_seconds: Bound = 30
    floor_from: Literal["Fixed", "Learned"] = "Fixed"
    serving: ServingWatch = ServingWatch()
    learned: LearnedFloor | None = None
    """Not in the file: it is the pod's own, and comes with its annotations."""

    @property
    def floor(self) -> float:
        """Least decode speed of one stream; the fixed floor holds where a learned one would be lower."""
        fixed = self.decode.min_tokens_per_second
        return max(fixed, self.learned.min_tokens_per_second) if self.learned else fixed

    def startup_seconds(self, checkpoint_bytes: int | None) -> float:
        """Longest time from the engine's start to its health."""
        budget = self.startup_budget
        if budget is None or not checkpoint_bytes:
            return self.startup_timeout_seconds
        return budget.base_seconds + budget.seconds_per_gibibyte * checkpoint_bytes / GIB

    @property
    def floor_origin(self) -> Literal["Fixed", "Learned"]:
        return "Learned" if self.floor > self.decode.min_tokens_per_second else "Fixed"

    def to_json(self) -> dict[str, Any]:
        """The content of gate.json. What was left to its default is left out."""
        return {"version": VERSION, **self.model_dump(by_alias=True, exclude_unset=True, exclude={"learned"})}

    @classmethod
    def read(cls, path: Path) -> "GateConfig":
        """Raises BadConfigError."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise BadConfigError(f"{path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadConfigError(f"{path}: {where}: {first['msg']}") from error

    def measures_like(self, other: "GateConfig") -> bool:
        """A trial made under `other` still says what this configuration wants to know."""
        return self.asked == other.asked

    def as_launched(self, first: "GateConfig") -> "GateConfig":
        """This configuration for an engine that was launched under `first`.

        The engine's name and its speculation are arguments of its process. When they change, new pods get them; the
        old ones serve as they were launched, and must not all fail at once because the file changed under them.
        """
        return self.model_copy(update={"model": first.model, "speculation": first.speculation})

    @property
    def asked(self) -> tuple[object, ...]:
        """What reaches the engine; floors, the expected text and the number of samples do not."""
        golden, decode = self.golden, self.decode
        return (self.model, golden.kind, golden.prompt, golden.max_tokens, decode.prompt, decode.tokens, decode.streams)
