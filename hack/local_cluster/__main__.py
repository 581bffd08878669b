"""The local cluster from the shell.

python -m local_cluster packages         install the Debian packages that are missing
python -m local_cluster build            build every binary but those of the long tests (cached by content)
python -m local_cluster up               start the cluster and leave it running
python -m local_cluster free             clean up after a killed test run; --wait SECONDS for one that still runs
python -m local_cluster status           what runs, and what is left over
python -m local_cluster import FILE...   import image archives
python -m local_cluster kubectl ARGS...  kubectl as the administrator
python -m local_cluster kubeconfig       the path of the administrator's kubeconfig
python -m local_cluster down             stop it and leave nothing behind
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from failure_reason import of_system
from local_cluster import machine
from local_cluster.binaries import FOR_MOST_TESTS, MODULE_OF, build
from local_cluster.cluster import LocalCluster, NotRootError
from local_cluster.go_module import BuildError
from local_cluster.go_toolchain import MissingGoError
from local_cluster.machine import OccupiedError
from local_cluster.network import AddressesTakenError
from local_cluster.packages import MissingPackagesError, ensure_packages
from waiting import NotReadyError

MENDABLE = (
    AddressesTakenError,
    BuildError,
    MissingGoError,
    MissingPackagesError,
    NotReadyError,
    NotRootError,
    OccupiedError,
)


def main(arguments: Sequence[str]) -> int:
    """Run one command. An error that the user can fix is one sentence."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except MENDABLE as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        if not (sentence := of_system(error)):
            raise
        print(f"error: {sentence}", file=sys.stderr)
    return 1


def _run(options: argparse.Namespace) -> int:
    cluster = LocalCluster()
    match options.command:
        case "build":
            build(options.only)
        case "packages":
            ensure_packages()
        case "up":
            seconds = cluster.up()
            print(f"up in {seconds:.1f} s; export KUBECONFIG={cluster.kubeconfig}")
        case "down":
            cluster.down()
        case "free":
            _free(cluster, patience=options.wait)
        case _:
            return _ask(cluster, options)
    return 0


def _ask(cluster: LocalCluster, options: argparse.Namespace) -> int:
    """Commands for a cluster that runs already."""
    match options.command:
        case "status":
            return _status(cluster)
        case "import":
            for archive in options.archives:
                print(f"{archive}: {cluster.import_image(archive):.1f} s")
        case "kubectl":
            command = [str(cluster.kubectl_path), f"--kubeconfig={cluster.kubeconfig}", *options.arguments]
            return subprocess.run(command, check=False).returncode
        case "kubeconfig":
            print(cluster.kubeconfig)
    return 0


def _free(cluster: LocalCluster, *, patience: float) -> None:
    """Two test runs on one machine run one after the other. A kept cluster does not end, so it is not waited for."""
    deadline = time.monotonic() + patience
    message = False
    while True:
        try:
            return cluster.free()
        except OccupiedError as error:
            holder = machine.holder()
            if time.monotonic() > deadline or (holder and holder.kept):
                raise
            if not message:
                print(f"waiting for at most {patience:.0f} s: {error}", file=sys.stderr, flush=True)
                message = True
        time.sleep(1)


def _status(cluster: LocalCluster) -> int:
    running = cluster.running()
    print("running" if running else "not running")
    holder = machine.holder()
    if holder:
        print(f"  {holder.describe()}")
    for kind, items in cluster.leftovers().items():
        print(f"  {kind}: {len(items)}")
    return 0 if running else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="local_cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    builder = commands.add_parser("build", help="build the binaries")
    builder.add_argument(
        "--only", type=_names, default=list(FOR_MOST_TESTS), metavar="NAME,NAME...", help="these instead"
    )
    commands.add_parser("packages", help="install the Debian packages that are missing")
    commands.add_parser("up", help="start the cluster")
    commands.add_parser("down", help="stop it and leave nothing behind")
    free = commands.add_parser("free", help="clean up after a killed test run")
    free.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="for a test run that still goes on")
    commands.add_parser("status", help="what runs")
    importer = commands.add_parser("import", help="import image archives")
    importer.add_argument("archives", nargs="+", type=Path)
    kubectl = commands.add_parser("kubectl", help="kubectl as the administrator")
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER)
    commands.add_parser("kubeconfig", help="path of the kubeconfig")
    return parser


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in MODULE_OF]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(MODULE_OF)}")
    return names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
