"""What the gate must hold the engine to: `gate.json`, written by the operator into a ConfigMap."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.alias_generators import to_camel

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Floor = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class BadConfigError(ValueError):
    """gate.json cannot be read; the message names the file and the field."""


class _Document(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class Speculation(_Document):
    """Whether drafts are expected."""

    expected: bool = True
    tokens: int = 1


class Golden(_Document):
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


class Decode(_Document):
    """What is timed, and the floor in tokens per second of one stream."""

    min_tokens_per_second: Floor
    prompt: str
    tokens: Annotated[int, Field(ge=2)] = 128
    samples: Annotated[int, Field(ge=1)] = 3


class GateConfig(_Document):
    """The whole of gate.json. Floors may change while the pod runs; they re-judge and never re-measure."""

    model: str
    speculation: Speculation = Speculation()
    golden: Golden
    decode: Decode
    min_acceptance_percent: Floor = 40
    max_first_token_millis: Floor | None = None
    startup_timeout_seconds: Seconds = 3600
    request_timeout_seconds: Seconds = 120
    retry_seconds: Floor = 30

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
        return (self.model, golden.kind, golden.prompt, golden.max_tokens, decode.prompt, decode.tokens)
