"""What the gate must hold the engine to: `gate.json`, written by the operator into a ConfigMap."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel


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

    kind: str = "chat"
    prompt: str
    expect: str | None = None
    max_tokens: int = 32


class Decode(_Document):
    """What is timed, and the floor in tokens per second of one stream."""

    min_tokens_per_second: float
    prompt: str
    tokens: int = 128
    samples: int = 3


class GateConfig(_Document):
    """The whole of gate.json. Floors may change while the pod runs; they re-judge and never re-measure."""

    model: str
    speculation: Speculation = Speculation()
    golden: Golden
    decode: Decode
    min_acceptance_percent: float = 40
    max_first_token_millis: float | None = None
    startup_timeout_seconds: float = 3600
    request_timeout_seconds: float = 120
    retry_seconds: float = 30

    @classmethod
    def read(cls, path: Path) -> "GateConfig":
        """Raises BadConfigError."""
        try:
            return cls.model_validate_json(path.read_text())
        except OSError as error:
            raise BadConfigError(f"{path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadConfigError(f"{path}: {where}: {first['msg']}") from error

    def measures_like(self, other: "GateConfig") -> bool:
        """A measurement made under `other` still says what this configuration wants to know."""
        mine, theirs = (c.decode.model_copy(update={"min_tokens_per_second": 0}) for c in (self, other))
        return (mine, self.golden, self.model, self.speculation) == (
            theirs,
            other.golden,
            other.model,
            other.speculation,
        )
