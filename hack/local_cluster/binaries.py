"""The cluster's programs: which Go module each is built from.

`tools/` pins Kubernetes, etcd, containerd and helm, so these share one version of each library. The autoscalers have
modules of their own, because they need other versions, and only some tests need them.
"""

from collections.abc import Iterable
from pathlib import Path

from local_cluster.autoscalers.keda.sources import MODULE as KEDA
from local_cluster.autoscalers.keda.sources import write_sources as write_keda
from local_cluster.go_module import GoModule

TOOLS = Path(__file__).with_name("tools")
AUTOSCALERS = Path(__file__).with_name("autoscalers")
KUBERNETES_VERSION = "1.36.3"

_KUBERNETES = "k8s.io/kubernetes/cmd"
_CONTAINERD = "github.com/containerd/containerd/v2/cmd"
_KARPENTER = "sigs.k8s.io/karpenter"

_MAJOR, _MINOR, _ = KUBERNETES_VERSION.split(".")
_VERSION = "k8s.io/component-base/version"
# Without the versions the API server reports 0.0 and clients refuse it. What is no part of a program is not set in it.
_LDFLAGS = (
    f"-s -w -X {_VERSION}.gitVersion=v{KUBERNETES_VERSION} "
    f"-X {_VERSION}.gitMajor={_MAJOR} -X {_VERSION}.gitMinor={_MINOR}"
)
# What debuggers read is left out at the end, so it is not written before: a tenth less to compile.
FLAGS = ("-ldflags", _LDFLAGS, "-gcflags", "all=-dwarf=false")

CLUSTER_MODULE = GoModule(
    TOOLS,
    {
        "etcd": "go.etcd.io/etcd/server/v3",
        "kube-apiserver": f"{_KUBERNETES}/kube-apiserver",
        "kubectl": f"{_KUBERNETES}/kubectl",
        "kube-controller-manager": f"{_KUBERNETES}/kube-controller-manager",
        "kube-scheduler": f"{_KUBERNETES}/kube-scheduler",
        "kubelet": f"{_KUBERNETES}/kubelet",
        "kube-proxy": f"{_KUBERNETES}/kube-proxy",
        "containerd": f"{_CONTAINERD}/containerd",
        "containerd-shim-runc-v2": f"{_CONTAINERD}/containerd-shim-runc-v2",
        "ctr": f"{_CONTAINERD}/ctr",
        "helm": "helm.sh/helm/v4/cmd/helm",
        # The only file in the pause image.
        "pause": "./pause",
        # The image that tests of the cluster itself run.
        "web": "./web",
        # The image that replaces the p2p test where there are no GPUs.
        "p2p-test-stub": "./p2p-test-stub",
        # The registry to which tests push models.
        "registry": "./registry",
    },
    FLAGS,
)
KEDA_MODULE = GoModule(
    AUTOSCALERS / "keda",
    {"keda-operator": "./cmd/operator", "keda-adapter": "./cmd/adapter"},
    FLAGS,
    write_keda,
    {"keda-config": (KEDA, "config")},
)
KARPENTER_MODULE = GoModule(
    AUTOSCALERS / "karpenter",
    {"karpenter": f"{_KARPENTER}/kwok"},
    FLAGS,
    manifests={"crds": (_KARPENTER, "pkg/apis/crds"), "kwok-crds": (_KARPENTER, "kwok/apis/crds")},
)
KWOK_MODULE = GoModule(AUTOSCALERS / "kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}, FLAGS)

MODULE_OF = {
    name: module for module in (CLUSTER_MODULE, KEDA_MODULE, KARPENTER_MODULE, KWOK_MODULE) for name in module.packages
}
"""Program -> the module it is built from."""

PROGRAMS = tuple(name for name in CLUSTER_MODULE.packages if name not in ("web", "p2p-test-stub", "registry"))
CONTROL_PLANE = ("etcd", "kube-apiserver", "kubectl")
OF_LONG_TESTS = ("karpenter", "kwok")
FOR_MOST_TESTS = tuple(name for name in MODULE_OF if name not in OF_LONG_TESTS)


def binary(name: str) -> Path:
    """The program of that name, built if it is missing."""
    return build([name])[name]


def build(names: Iterable[str] = FOR_MOST_TESTS) -> dict[str, Path]:
    """Build missing programs, one module after the other. Returns all paths by name."""
    wanted = list(names)
    paths: dict[str, Path] = {}
    for module in {id(MODULE_OF[name]): MODULE_OF[name] for name in wanted}.values():
        paths |= module.build([name for name in wanted if MODULE_OF[name] is module])
    return {name: paths[name] for name in wanted}
