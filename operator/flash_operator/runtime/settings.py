"""Settings of the operator, each a flag and an environment variable."""

import argparse
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from flash_operator.core.observed.snapshot import PlanSettings
from flash_operator.core.p2p_test.job import P2pTestSettings

DEFAULT_ENGINE_IMAGE = "deepseek-flash/engine:0.1.0-cuda"
DEFAULT_QUANTISER_IMAGE = "deepseek-flash/quantiser:0.1.0"

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

    quantiser_image: str
    probe_image: str
    """Image of the links' test; the engine's where empty."""
    probe_priority_class: str
    probes: str

    @property
    def probe(self) -> P2pTestSettings | None:
        """None where no node is to be tested."""
        if self.probes == "off":
            return None
        image = self.probe_image or self.engine_image
        return P2pTestSettings(self.lease_namespace, image, self.probe_priority_class or None)

    @property
    def plan(self) -> PlanSettings:
        return PlanSettings(engine_image=self.engine_image, quantiser_image=self.quantiser_image)

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
    told = "image with mtp-quantise for deployments that ask for their MTP head to be restored"
    _add(parser, "--quantiser-image", DEFAULT_QUANTISER_IMAGE, told)
    _add(parser, "--namespace", None, "watch this namespace only (default: all)")
    _add(parser, "--lease-namespace", "default", "namespace of the Lease that elects the leader")
    _add(parser, "--identity", socket.gethostname(), "name of this process in the Lease")
    _add(parser, "--workers", 4, "reconciles at the same time, each of another deployment", of=int)
    _add(parser, "--resync-seconds", 300.0, "look at every deployment at least this often", of=float)
    _add(parser, "--probes", "on", "on or off: test the links of nodes whose GPUs are free", choices=("on", "off"))
    _add(parser, "--probe-image", "", "image with flash-probe (default: the engine image)")
    _add(parser, "--probe-priority-class", "", "priority class of the test's pods; lower than the engines'")
    _add(parser, "--health-port", 8080, "port of /healthz, /readyz and /metrics", of=int)
    _add(parser, "--log-format", "json", "json or console")
    return parser


def _add(
    parser: argparse.ArgumentParser,
    flag: str,
    default: object,
    told: str,
    *,
    of: type[str | int | float] = str,
    choices: Sequence[str] | None = None,
) -> None:
    variable = f"FLASH_{flag.removeprefix('--').replace('-', '_').upper()}"
    # A default that is a string goes through `type`, so a bad environment variable is refused like a bad flag.
    parser.add_argument(flag, type=of, choices=choices, default=os.environ.get(variable, default), help=told)
