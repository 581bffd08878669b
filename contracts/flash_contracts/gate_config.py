"""`gate.json`: the gate's configuration, which the operator writes into a ConfigMap.

This is the only module of the package that needs pydantic. The launcher does not import it.
"""

import hashlib
import json
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
    """gate.json is invalid. The message names the file and the field."""


class _ConfigModel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class ExpectedSpeculation(_ConfigModel):
    """Whether the engine should draft, and how many tokens per step."""

    expected: bool = True
    tokens: int = 1


class GoldenQuestion(_ConfigModel):
    """The question that the engine must answer correctly."""

    kind: Literal["chat", "completion"] = "chat"
    prompt: str
    expect: str | None = None
    """Regular expression that must match in the answer. Without one, only a degenerate answer fails."""
    max_tokens: Annotated[int, Field(ge=1)] = 32

    @property
    def identity(self) -> str:
        """A hash of the question and its expected answer."""
        parts = json.dumps([self.kind, self.prompt, self.expect, self.max_tokens])
        return hashlib.sha256(parts.encode(errors="surrogatepass")).hexdigest()[:16]

    @field_validator("expect")
    @classmethod
    def is_an_expression(cls, expect: str | None) -> str | None:
        try:
            re.compile(expect or "")
        except re.error as error:
            raise ValueError(f"{expect!r} is not a regular expression: {error}") from error
        return expect


class DecodeTest(_ConfigModel):
    """What is timed, and the floor for a single stream in tokens per second."""

    min_tokens_per_second: Bound
    prompt: str
    tokens: Annotated[int, Field(ge=2)] = 128
    samples: Annotated[int, Field(ge=1)] = 3
    """Most timed streams. The gate stops earlier once the result is clear."""
    streams: Annotated[int, Field(ge=1)] = 1
    """Concurrent requests in a last, untimed round, because kernel faults show under load first."""


class LongPromptTest(_ConfigModel):
    """What is timed with a prompt of realistic length, in addition to the short one."""

    tokens: Annotated[int, Field(ge=1)]
    min_prefill_tokens_per_second: Annotated[int, Field(gt=0)] | Annotated[float, Field(gt=0)] | None = None
    min_decode_percent: Bound = 75
    """Lowest decode speed after it, in percent of a short prompt's floor."""
    text_is_judged: bool = False
    """Whether the text decoded after it is checked for nonsense. A tiny model cannot pass that."""


class FullDepthTest(_ConfigModel):
    """One measurement after a prompt that fills the context, while the engine serves and is idle."""

    tokens: Annotated[int, Field(ge=1)]
    min_prefill_tokens_per_second: Annotated[int, Field(gt=0)] | Annotated[float, Field(gt=0)] | None = None
    min_decode_percent: Bound = 40
    """Decode speed below which there is a warning, in percent of a short prompt's floor."""
    quiet_seconds: Seconds = 60
    """How long the engine must have been idle."""
    text_is_judged: bool = False


class FeatureTests(_ConfigModel):
    """The enabled features, which the gate tests."""

    tool_calls: bool = False
    reasoning: bool = False
    json_schema: bool = False
    required: bool = False
    """Whether a broken feature fails the replica instead of causing a warning."""


class ServingWatch(_ConfigModel):
    """How an engine that has passed is monitored."""

    watch_seconds: Seconds = 5
    windows: Annotated[int, Field(ge=1)] = 3
    """Bad windows in a row before the engine is measured again."""
    tolerance_percent: Annotated[int, Field(ge=0, lt=100)] | Annotated[float, Field(ge=0, lt=100)] = 10
    """Percent by which traffic may decode below the floor, because users' prompts draft worse than the gate's."""
    stall_seconds: Seconds = 60
    """An engine with requests that makes no progress for this long counts as hung."""
    idle_check_seconds: Seconds = 3600
    """How often to measure an idle engine even if nothing looks bad, because light traffic shows little."""
    on_degraded: Literal["Report", "Quarantine", "Restart"] = "Quarantine"


class StartupBudget(_ConfigModel):
    """How long a start may take, depending on the size of the checkpoint."""

    base_seconds: Seconds = 900
    seconds_per_gibibyte: Bound = 18


class PodFloor(_ConfigModel):
    """What the operator expects of one pod's decode speed, passed in an annotation of the pod."""

    min_tokens_per_second: Bound
    """The floor, learned from comparable replicas. It applies if `floorFrom` is Learned."""
    explanation: str = Field(default="", alias="told")
    """How it was learned, for messages."""
    measure_again_below: Bound | None = None
    """During a rollout: the speed below which the operator rolls back to the previous template."""

    def to_text(self) -> str:
        """The value of the annotation."""
        return self.model_dump_json(by_alias=True, exclude_none=True)


class GateConfig(_ConfigModel):
    """All of gate.json. If a floor changes while the pod runs, the existing figures are judged again."""

    WRITER: ClassVar[str] = "operator"
    READERS: ClassVar[tuple[str, ...]] = ("gate",)

    model: str
    speculation: ExpectedSpeculation = ExpectedSpeculation()
    plugin_required: bool = False
    """Whether the engine's log must have shown that the vLLM plugin is active."""
    golden: GoldenQuestion
    long_answer: GoldenQuestion | None = None
    """A question whose right answer has dozens of tokens, so that it shows faults of decoding."""
    deterministic: bool = False
    """Whether the engine's results do not depend on its other work, so that two answers to one question are equal."""
    decode: DecodeTest
    long_prompt: LongPromptTest | None = None
    full_depth: FullDepthTest | None = None
    features: FeatureTests | None = None
    min_acceptance_percent: Bound = 40
    """Lowest share of accepted tokens. With n tokens per draft, it is a mean acceptance length of 1 + n times this."""
    min_first_draft_percent: Bound | None = None
    """Lowest share of drafts whose first token is accepted. It does not depend on how many tokens follow."""
    max_first_token_millis: Bound | None = None
    startup_timeout_seconds: Seconds = 3600
    startup_budget: StartupBudget | None = None
    """Replaces `startup_timeout_seconds` once the checkpoint's size is known."""
    request_timeout_seconds: Seconds = 120
    retry_seconds: Bound = 30
    floor_from: Literal["Fixed", "Learned"] = "Fixed"
    serving: ServingWatch = ServingWatch()
    learned: PodFloor | None = None
    """Not in the file: each pod has its own, in its annotations."""
    measure_again_below: Bound | None = None
    """Likewise. An engine that passes below this speed is measured twice before it is ready: a busy neighbour may cause
    one bad figure, and a single measurement must not decide a rollout."""

    @property
    def floor(self) -> float:
        """Lowest decode speed of a single stream: the fixed floor, or the learned one if it is higher."""
        fixed = self.decode.min_tokens_per_second
        return max(fixed, self.learned.min_tokens_per_second) if self.learned else fixed

    @property
    def depth_floor(self) -> float:
        """Lowest decode speed after the long prompt."""
        return self.floor * self.long_prompt.min_decode_percent / 100 if self.long_prompt else 0.0

    @property
    def min_acceptance_length(self) -> float:
        """Lowest mean number of tokens per step."""
        return 1 + self.speculation.tokens * self.min_acceptance_percent / 100

    def startup_seconds(self, checkpoint_bytes: int | None) -> float:
        """Longest time from the engine's start until it is healthy."""
        budget = self.startup_budget
        if budget is None or not checkpoint_bytes:
            return self.startup_timeout_seconds
        return budget.base_seconds + budget.seconds_per_gibibyte * checkpoint_bytes / GIB

    @property
    def floor_origin(self) -> Literal["Fixed", "Learned"]:
        return "Learned" if self.floor > self.decode.min_tokens_per_second else "Fixed"

    def to_json(self) -> dict[str, Any]:
        """The content of gate.json, without the fields that were not set."""
        return {
            "version": VERSION,
            **self.model_dump(by_alias=True, exclude_unset=True, exclude={"learned", "measure_again_below"}),
        }

    @classmethod
    def read(cls, path: Path) -> "GateConfig":
        """Read gate.json. Raises BadConfigError."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise BadConfigError(f"{path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadConfigError(f"{path}: {where}: {first['msg']}") from error

    def measures_like(self, other: "GateConfig") -> bool:
        """Whether a trial made under `other` is still valid under this configuration."""
        return self.asked == other.asked

    def as_launched(self, first: "GateConfig") -> "GateConfig":
        """This configuration, adapted to an engine that was launched under `first`.

        The model name and speculation are arguments of the engine's process, so changed values apply only to new pods.
        Old pods must not all fail at once because the file changed. A second measurement requested after the first must
        not make a serving engine unready.
        """
        kept = {"model", "speculation", "measure_again_below"}
        return self.model_copy(update={name: getattr(first, name) for name in kept})

    @property
    def asked(self) -> tuple[object, ...]:
        """What is sent to the engine: not the floors, the expected answers or the number of samples."""
        golden, decode = self.golden, self.decode
        return (
            self.model,
            golden.kind,
            golden.prompt,
            golden.max_tokens,
            decode.prompt,
            decode.tokens,
            decode.streams,
            self.long_prompt.tokens if self.long_prompt else None,
            (self.long_answer.kind, self.long_answer.prompt, self.long_answer.max_tokens) if self.long_answer else None,
            (self.features.tool_calls, self.features.reasoning, self.features.json_schema) if self.features else None,
        )
