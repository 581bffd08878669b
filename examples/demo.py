"""The demo: a cluster, the images, the chart, one CR and one chat completion.

    make demo                 a real Kubernetes on this machine, from Go modules (root)
    make demo CLUSTER=kind    on kind, where Docker runs
    make demo-down            stop it and leave nothing behind

Every step shows its time. Expensive builds are kept in the cache folder (`make clean-cache` removes them).
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from demo_kind import KindCluster

import tiny_model
from direct_http import WITHOUT_PROXY
from e2e_env import (
    ROOT,
    Cluster,
    Flash,
    a_restricted_namespace,
    apply,
    install_operator,
    model_claim,
    wait_until,
)
from failure_reason import of_system
from image_builder.build import ensure_images
from image_builder.layout import cache_root, image_named
from local_cluster.binaries import PROGRAMS
from local_cluster.cluster import LocalCluster, NotRootError
from local_cluster.packages import ensure_packages

NAMESPACE = "demo"
START_SECONDS = 600


class Steps:
    """Times each step and prints the list at the end."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, float]] = []

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        print(f"\n==> {title}", flush=True)
        began = time.monotonic()
        yield
        self.taken.append((title, time.monotonic() - began))

    def report(self) -> None:
        print("\nTime taken")
        for title, seconds in self.taken:
            print(f"  {seconds:7.1f} s  {title}")
        print(f"  {sum(seconds for _, seconds in self.taken):7.1f} s  in all")


class DemoCluster(LocalCluster):
    """The local cluster; its node is this machine, so the models need no mount."""

    programs: tuple[str, ...] = PROGRAMS

    def prepare(self) -> None:
        """The Debian packages that it needs."""
        if os.geteuid() != 0:
            raise NotRootError(
                "the local cluster runs a kubelet, containers and a network bridge, which needs root: "
                "sudo -E make demo; or, where Docker runs: make demo CLUSTER=kind"
            )
        ensure_packages()

    def start(self, _models: Path) -> None:
        self.up()


def main() -> int:
    """Run the demo. An error that the user can fix is one sentence."""
    options = _options()
    try:
        cluster = _cluster(options.cluster)
        if options.down:
            cluster.down()
        else:
            run(cluster, options.cluster)
    except (RuntimeError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if not (sentence := of_system(error)):
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 1
    return 0


def run(cluster: DemoCluster | KindCluster, kind: str) -> None:
    """Every step, each timed."""
    steps = Steps()
    cluster.prepare()
    with steps.step(f"Build the cluster's programs ({kind}), the operator's image and the CPU engine's image"):
        images = _build(cluster.programs)
    with steps.step("Make the tiny DeepSeek-V3 model with an MTP layer"):
        models = tiny_model.build(cache_root() / "models")
        print(f"    {models}")
    with steps.step("Start the cluster"):
        cluster.start(models)
    with steps.step("Import the images"):
        for image in images:
            cluster.import_image(image)
    with steps.step("Install the chart with helm"):
        install_operator(cluster, images[0])
    with steps.step("Apply examples/tiny.yaml and wait until it has proved its speed"):
        flash = _serve(cluster, models)
    print(cluster.kubectl("get", "dsf", "-n", NAMESPACE).stdout)
    with steps.step("One chat completion through the Service"):
        _complete(cluster, flash)
    steps.report()
    print(f"\nIt is still running: export KUBECONFIG={cluster.kubeconfig}; make demo-down stops it.")


def _build(programs: Sequence[str]) -> list[Path]:
    """Runs both builds in parallel: programs compile while images wait for the network and the disk."""
    command = [sys.executable, "-m", "local_cluster", "build", "--only", ",".join(programs)]
    with subprocess.Popen(command) as compiling:
        try:
            images = ensure_images([image_named(name) for name in ("operator", "engine-cpu")], cache_root())
        except BaseException:
            compiling.terminate()
            raise
    if compiling.returncode != 0:
        raise RuntimeError("the cluster's programs could not be built: see above")
    return images


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", choices=["local", "kind"], default="local")
    parser.add_argument("--down", action="store_true", help="stop the cluster of an earlier demo")
    return parser.parse_args()


def _cluster(kind: str) -> DemoCluster | KindCluster:
    if kind == "kind":
        return KindCluster()
    return DemoCluster()


def _serve(cluster: Cluster, models: Path) -> Flash:
    apply(cluster, a_restricted_namespace(NAMESPACE))
    apply(cluster, *model_claim(NAMESPACE, str(models)))
    manifest = ROOT / "examples" / "tiny.yaml"
    cluster.kubectl("apply", "-n", NAMESPACE, "-f", str(manifest))
    flash = Flash(cluster, NAMESPACE, yaml.safe_load(manifest.read_text())["metadata"]["name"])
    said: set[str] = set()
    wait_until(lambda: _ready(flash, said), "READY True", seconds=START_SECONDS, pause=1)
    return flash


def _ready(flash: Flash, said: set[str]) -> bool:
    """Prints each change of the Ready condition, so that the wait can be followed."""
    ready = flash.condition("Ready")
    line = f"{ready.get('reason', '...')}: {ready.get('message', 'the operator has not seen it yet')}"
    if line not in said:
        said.add(line)
        print(f"    {line}", flush=True)
    return ready.get("status") == "True"


def _complete(cluster: Cluster, flash: Flash) -> None:
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "the quick brown fox"}],
        "max_tokens": 16,
    }
    with _forwarded(cluster, flash) as address:
        request = urllib.request.Request(  # noqa: S310 - this machine's loopback
            f"{address}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with WITHOUT_PROXY.open(request, timeout=60) as answer:
            reply = json.load(answer)
    print(f"    POST /v1/chat/completions {json.dumps(body)}")
    print(f"    -> {json.dumps(reply['choices'][0]['message']['content'])} {json.dumps(reply['usage'])}")


@contextmanager
def _forwarded(cluster: Cluster, flash: Flash) -> Iterator[str]:
    """`kubectl port-forward` to the Service, the way a user without a route into the cluster would go."""
    command = ["port-forward", "-n", flash.namespace, f"service/{flash.name}", ":8000"]
    process = subprocess.Popen(
        [cluster.kubectl_path, f"--kubeconfig={cluster.kubeconfig}", *command],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        port = line.split("127.0.0.1:")[1].split()[0]
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
