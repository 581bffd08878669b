"""Settings of the operator, each a flag and an environment variable."""

import argparse
import os
import re
import socket
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flash_operator.api.v1alpha1 import CLASS_PATTERN
from flash_operator.core.observed.snapshot import PlanSettings
from flash_operator.core.p2p_test.job import P2pTestSettings

DEFAULT_ENGINE_IMAGE = "deepseek-flash/engine:0.1.0-cuda"
DEFAULT_QUANTISER_IMAGE = "deepseek-flash/quantiser:0.1.0"

_DESCRIPTION = """\
Reconciles DeepSeekFlashDeployments. Runs in a pod (service account) or outside a cluster (KUBECONFIG).

Every flag can be given as an environment variable instead: --engine-image is FLASH_ENGINE_IMAGE.
"""


@dataclass(frozen=True)
class OperatorSettings:
    """The operator's command line."""

    engine_image: str
    namespace: str | None
    """Watch this namespace only; None for all."""
    operator_class: str
    """Responsible for deployments with this spec.operatorClass; empty for those without one."""
    lease_namespace: str
    identity: str
    workers: int
    resync_seconds: float
    health_port: int
    pod_ip: str
    """Empty where it is unknown: standbys then cannot pass on what only the leader answers."""
    demand_url: str
    """The address of the operator's Service, for KEDA; empty where there is none."""
    activator_service: str
    """Name of the activators' Service in the lease namespace; empty where none is installed."""
    log_format: str

    quantiser_image: str
    p2p_test_image: str
    """Empty for the engine image."""
    p2p_test_priority_class: str
    p2p_test_pull_secrets: str
    """Names, separated by commas."""
    p2p_test_runtime_class: str
    p2p_tests: str

    @property
    def p2p_test(self) -> P2pTestSettings | None:
        """None if no node is to be tested."""
        if self.p2p_tests == "off":
            return None
        image = self.p2p_test_image or self.engine_image
        return P2pTestSettings(
            self.lease_namespace,
            image,
            self.p2p_test_priority_class or None,
            tuple(filter(None, (name.strip() for name in self.p2p_test_pull_secrets.split(",")))),
            self.p2p_test_runtime_class or None,
        )

    @property
    def plan(self) -> PlanSettings:
        return PlanSettings(
            engine_image=self.engine_image, quantiser_image=self.quantiser_image, demand_url=self.demand_url
        )

    @property
    def address(self) -> str:
        """Where other operators reach this one; empty where it is unknown."""
        host = f"[{self.pod_ip}]" if ":" in self.pod_ip else self.pod_ip
        return f"http://{host}:{self.health_port}" if host else ""

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> "OperatorSettings":
        """Reads flags and environment; exits with a message if a value is invalid."""
        options = _parser().parse_args(arguments)
        return cls(**vars(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flash-operator", description=_DESCRIPTION, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    _add(parser, "--engine-image", DEFAULT_ENGINE_IMAGE, "default engine image")
    _add(parser, "--quantiser-image", DEFAULT_QUANTISER_IMAGE, "default image with mtp-quantise, for model.restoreMtp")
    _add(parser, "--namespace", None, "watch this namespace only (default: all)")
    _add(parser, "--operator-class", "", "reconcile only deployments with this spec.operatorClass", of=_class)
    _add(parser, "--lease-namespace", "default", "namespace of the leader election Lease and of p2p test Jobs")
    _add(parser, "--identity", f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}", "name of this process in the Lease")
    _add(parser, "--workers", 16, "concurrent reconciles", of=int)
    _add(parser, "--resync-seconds", 300.0, "reconcile every deployment at least this often", of=float)
    _add(parser, "--p2p-tests", "on", "on or off: test the links of nodes whose GPUs are free", choices=("on", "off"))
    _add(parser, "--p2p-test-image", "", "image with flash-p2p-test (default: the engine image)")
    _add(parser, "--p2p-test-priority-class", "", "priority class of p2p test pods; must be lower than the engines'")
    _add(parser, "--p2p-test-pull-secrets", "", "its pull secrets in the lease namespace, separated by commas")
    _add(parser, "--p2p-test-runtime-class", "", "runtime class of p2p test pods, where NVIDIA's is not the default")
    _add(parser, "--health-port", 8080, "port of /healthz, /readyz, /metrics and /demand", of=int)
    _add(parser, "--pod-ip", "", "address of this process for the other operators, which pass /demand on to the leader")
    _add(
        parser,
        "--demand-url",
        "",
        "address of this operator's Service for KEDA, such as http://NAME.NAMESPACE.svc:8080",
    )
    _add(
        parser, "--activator-service", "", "Service of the activators, in the lease namespace (default: there is none)"
    )
    _add(parser, "--log-format", "json", "json or console")
    return parser


LONGEST_CLASS = 40


def _class(text: str) -> str:
    """It is part of the Lease's name."""
    if text and (len(text) > LONGEST_CLASS or not re.fullmatch(CLASS_PATTERN, text)):
        raise argparse.ArgumentTypeError("at most 40 lower-case letters, digits and dashes")
    return text


def _add(
    parser: argparse.ArgumentParser,
    flag: str,
    default: object,
    description: str,
    *,
    of: Callable[[str], object] = str,
    choices: Sequence[str] | None = None,
) -> None:
    variable = f"FLASH_{flag.removeprefix('--').replace('-', '_').upper()}"
    # A default that is a string goes through `type`, so a bad environment variable is refused like a bad flag.
    parser.add_argument(flag, type=of, choices=choices, default=os.environ.get(variable, default), help=description)
