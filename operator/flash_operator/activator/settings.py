"""Settings of the activator, each a flag and an environment variable."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from flash_contracts.activation import CONTROL_PORT
from flash_operator.activator.admission import Limits

_DESCRIPTION = """\
Holds requests of deployments that are at zero until a replica serves, and passes them on.

Every flag can be given as an environment variable instead: --operator-url is FLASH_OPERATOR_URL.
"""


@dataclass(frozen=True)
class ActivatorSettings:
    """The activator's command line."""

    operator_url: str
    """The address of the operator's Service."""
    control_port: int
    max_requests: int
    max_requests_of_one: int
    max_body_bytes: int
    max_total_bytes: int
    linger_seconds: float
    """How long it still answers after SIGTERM: until no Service has its address, and the operator has asked again."""
    grace_seconds: float
    """How long requests that were passed on may go on after SIGTERM."""
    log_format: str

    @property
    def limits(self) -> Limits:
        return Limits(self.max_requests, self.max_requests_of_one, self.max_body_bytes, self.max_total_bytes)

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "ActivatorSettings":
        """Reads flags and environment; exits with a message if a value is invalid."""
        return cls(**vars(_parser().parse_args(arguments)))


FLAGS: tuple[tuple[str, str | int | float, str], ...] = (
    ("--operator-url", "", "address of the operator's Service, such as http://NAME.NAMESPACE.svc:8080"),
    ("--control-port", CONTROL_PORT, "port of /healthz, /readyz, /metrics and /held"),
    ("--max-requests", 256, "most requests at a time"),
    ("--max-requests-of-one", 64, "most of them for one deployment"),
    ("--max-body-bytes", 4 << 20, "most bytes of one request's body"),
    ("--max-total-bytes", 128 << 20, "most bytes of all bodies"),
    ("--linger-seconds", 6.0, "how long it still answers after SIGTERM"),
    ("--grace-seconds", 110.0, "how long requests that were passed on may go on after SIGTERM"),
    ("--log-format", "json", "json or console"),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flash-activator", description=_DESCRIPTION, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for flag, default, text in FLAGS:
        variable = f"FLASH_{flag.removeprefix('--').replace('-', '_').upper()}"
        # A default that is a string goes through `type`, so a bad variable is refused like a bad flag.
        parser.add_argument(flag, type=type(default), default=os.environ.get(variable, default), help=text)
    return parser
