"""Settings of the operator, each a flag and an environment variable."""

import argparse
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from flash_operator.core.observed import PlanSettings

DEFAULT_ENGINE_IMAGE = "deepseek-flash/engine:0.1.0-cuda"

_DESCRIPTION = """\
Reconciles DeepSeekFlashDeployments. Runs in a pod (service account) or outside a cluster (KUBECONFIG).

Every flag can be given as an environment variable instead: --engine-image is FLASH_ENGINE_IMAGE.
"""


@dataclass(frozen=True)
class Settings:
    """How this process runs."""

    engine_image: str
    namespace: str | None
    """Watch this namespace only; None for all."""
    lease_namespace: str
    identity: str
    workers: int
    resync_seconds: float
    health_port: int
    log_format: str

    @property
    def plan(self) -> PlanSettings:
        return PlanSettings(engine_image=self.engine_image)

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "Settings":
        """Read flags and environment; exits with a message for a value that makes no sense."""
        options = _parser().parse_args(arguments)
        return cls(**vars(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flash-operator", description=_DESCRIPTION, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    _add(parser, "--engine-image", DEFAULT_ENGINE_IMAGE, "engine image for deployments that name none")
    _add(parser, "--namespace", None, "watch this namespace only (default: all)")
    _add(parser, "--lease-namespace", "default", "namespace of the Lease that elects the leader")
    _add(parser, "--identity", socket.gethostname(), "name of this process in the Lease")
    _add(parser, "--workers", 4, "reconciles at the same time, each of another deployment", of=int)
    _add(parser, "--resync-seconds", 300.0, "look at every deployment at least this often", of=float)
    _add(parser, "--health-port", 8080, "port of /healthz, /readyz and /metrics", of=int)
    _add(parser, "--log-format", "json", "json or console")
    return parser


def _add(
    parser: argparse.ArgumentParser, flag: str, default: object, told: str, *, of: type[str | int | float] = str
) -> None:
    variable = f"FLASH_{flag.removeprefix('--').replace('-', '_').upper()}"
    # A default that is a string goes through `type`, so a bad environment variable is refused like a bad flag.
    parser.add_argument(flag, type=of, default=os.environ.get(variable, default), help=told)
