"""`kubectl dsf bench`: has the gate of an idle replica measure its engine, beside its verdict.

`flash-measure` in the gate's container asks for it (docs/operations.md). That needs the right to run commands in the
pod, and no port: everybody in the cluster may reach the gate's.
"""

import shutil
import subprocess
from collections.abc import Sequence
from typing import Annotated

import typer

from flash_contracts.names import DEPLOYMENT_LABEL, KIND
from flash_operator.core.observed.kube import is_ready, is_terminating
from flash_operator.core.observed.snapshot import RawObject
from flashctl import completion
from flashctl.actions.figures import figures_of, lines
from flashctl.actions.order import NameArgument, NotDoneError, NothingToDoError
from flashctl.actions.quarantine import is_ordered_out
from flashctl.errors import CommandError, NotFoundError, UnreachableError, UsageError
from flashctl.exits import Exit
from flashctl.failures import Request, no_right
from flashctl.kinds import RESOURCES
from flashctl.session import Session, on_cluster

PodOption = Annotated[
    str | None, typer.Option("--pod", help="Which replica. Default: one that is out of service, or else the first.",
                             autocompletion=completion.pods)
]  # fmt: skip
SECONDS = 330.0
"""More than flash-measure waits."""
NOT_MEASURED = 1
COMMAND = "flash-measure"


@on_cluster
def bench(session: Session, *, name: NameArgument, pod: PodOption = None) -> Exit:
    """Measure an idle replica: the samples, their median and spread, and the acceptance, beside the floor.

    It takes up to a minute, and changes no verdict. Ends with 1 if the replica is slower than its floor.
    """
    raw = session.cluster.get(KIND, name)
    namespace = raw["metadata"].get("namespace") or session.cluster.namespace
    chosen = replica(session.cluster.listed("Pod", namespace, labels={DEPLOYMENT_LABEL: name}), name, pod)
    figures = figures_of(_measure(session, namespace, chosen), namespace, name, chosen)
    session.show(figures, lines(figures))
    return Exit.DONE if figures.is_fast else Exit.NOT_READY


def replica(pods: Sequence[RawObject], name: str, wanted: str | None) -> str:
    """The pod to measure. Raises NotFoundError, NothingToDoError."""
    alive = sorted((pod for pod in pods if not is_terminating(pod)), key=lambda pod: str(pod["metadata"]["name"]))
    names = [str(pod["metadata"]["name"]) for pod in alive]
    if wanted is not None:
        if wanted not in names:
            raise NotFoundError(f"{wanted} is no replica of {name}; it has {', '.join(names) or 'none'}")
        return wanted
    able = [pod for pod in alive if is_ready(pod) or is_ordered_out(pod)]
    if not able:
        raise NothingToDoError(f"no replica of {name} serves; kubectl dsf explain {name} says why")
    return str(min(able, key=lambda pod: not is_ordered_out(pod))["metadata"]["name"])


def _measure(session: Session, namespace: str, pod: str) -> str:
    """What flash-measure prints. Raises CommandError."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise UsageError("kubectl is not in PATH: bench runs a command in the pod with it")
    target = [f"--namespace={namespace}", pod, "--container=gate", "--", COMMAND]
    try:
        done = subprocess.run(
            [kubectl, "exec", *session.kubectl, *target], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"{pod} did not answer within {SECONDS:g} s") from error
    if done.returncode and not (done.returncode == NOT_MEASURED and done.stdout.strip()):
        raise failure(done.stderr, namespace, pod)
    return done.stdout


def failure(stderr: str, namespace: str, pod: str) -> CommandError:
    """The error for a command that could not run."""
    said = " ".join(stderr.split())[:400]
    if "cannot create resource" in said or "is forbidden" in said:
        return no_right(Request("create", RESOURCES["Pod"], namespace, pod, "exec"), said)
    if "executable file not found" in said or "no such file" in said:
        return NotDoneError(f"the engine image of {pod} has no {COMMAND}: take the engine update of its operator first")
    return NotDoneError(f"{pod} could not be measured: {said or 'the command ended without a word'}")
