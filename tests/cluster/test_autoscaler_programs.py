"""What is left of KEDA's sources, and with which versions the autoscalers are built."""

import re
from pathlib import Path

import pytest

from local_cluster.autoscalers.keda import sources
from local_cluster.autoscalers.keda.sources import MODULE, ChangedSourcesError, trim, write_sources
from local_cluster.binaries import CLUSTER_MODULE, FOR_MOST_TESTS, KARPENTER_MODULE, KEDA_MODULE, KWOK_MODULE, MODULE_OF
from local_cluster.go_module import GoModule

NEWER = {"github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"}
"""KEDA does not compile with the cluster's version."""

AUTOSCALERS = (KEDA_MODULE, KARPENTER_MODULE, KWOK_MODULE)

BUILDER = """\
package scaling

func buildScaler(triggerType string) (scalers.Scaler, error) {
	// TRIGGERS-START
	switch triggerType {
	case "activemq":
		return scalers.NewActiveMQScaler(config)
	// a comment between cases
	case "cpu":
		return scalers.NewCPUMemoryScaler(corev1.ResourceCPU, config)
	case "metrics-api":
		return scalers.NewMetricsAPIScaler(config)
	case "prometheus":
		if config == nil {
			return nil, errNoConfig
		}
		return scalers.NewPrometheusScaler(config)
	case "zookeeper":
		return scalers.NewZookeeperScaler(config)
	default:
		return nil, fmt.Errorf("no scaler found for type: %s", triggerType)
	}
	// TRIGGERS-END
}
"""

FILES = {
    "cmd/operator/main.go": f'import "{MODULE}/pkg/scaling"',
    "cmd/adapter/main.go": f'import (\n\tkeda "{MODULE}/pkg/provider"\n)',
    "cmd/webhooks/main.go": f'import "{MODULE}/pkg/hooks"',
    "pkg/hooks/hooks.go": "package hooks",
    "pkg/provider/provider.go": "package provider",
    "pkg/provider/provider_test.go": "package provider",
    "pkg/scaling/scalers_builder.go": BUILDER + f'import "{MODULE}/pkg/scalers"',
    "pkg/scalers/scaler.go": "package scalers",
    "pkg/scalers/activemq_scaler.go": "func NewActiveMQScaler() {",
    "pkg/scalers/cpu_memory_scaler.go": "func NewCPUMemoryScaler() {",
    "pkg/scalers/metrics_api_scaler.go": "func NewMetricsAPIScaler() {",
    "pkg/scalers/prometheus_scaler.go": "func NewPrometheusScaler() {",
    "pkg/scalers/zookeeper_scaler.go": f'import "{MODULE}/pkg/scalers/zoo"\nfunc NewZookeeperScaler() {{',
    "pkg/scalers/zoo/zoo.go": "package zoo",
    "apis/keda/types.go": "package keda",
    "config/rbac/role.yaml": "kind: ClusterRole",
    "controllers/controller.go": "package controllers",
    "version/version.go": "package version",
}


@pytest.fixture
def keda(tmp_path: Path) -> Path:
    """A module that is laid out as KEDA is, with read-only files as in Go's cache."""
    module = tmp_path / "keda@v2"
    for name, text in FILES.items():
        (module / name).parent.mkdir(parents=True, exist_ok=True)
        (module / name).write_text(text)
        (module / name).chmod(0o444)
    return module


def test_of_kedas_scalers_those_that_are_used_are_left(keda: Path, tmp_path: Path) -> None:
    trim(keda, tmp_path / "trimmed")
    left = sorted(path.name for path in (tmp_path / "trimmed/pkg/scalers").glob("*_scaler.go"))
    assert left == ["cpu_memory_scaler.go", "metrics_api_scaler.go", "prometheus_scaler.go"]
    builder = (tmp_path / "trimmed/pkg/scaling/scalers_builder.go").read_text()
    assert re.findall(r'case "([\w-]+)"', builder) == ["cpu", "metrics-api", "prometheus"]
    assert "errNoConfig" in builder, "a case is kept whole"
    assert builder.count("{") == builder.count("}")


def test_packages_that_neither_program_imports_go_and_manifests_stay(keda: Path, tmp_path: Path) -> None:
    trim(keda, tmp_path / "trimmed")
    trimmed = tmp_path / "trimmed"
    folders = {str(path.parent.relative_to(trimmed)) for path in trimmed.rglob("*.go")}
    assert folders == {"cmd/operator", "cmd/adapter", "pkg/provider", "pkg/scaling", "pkg/scalers"}
    assert not list(trimmed.rglob("*_test.go"))
    assert (trimmed / "config/rbac/role.yaml").read_text() == "kind: ClusterRole"


@pytest.mark.parametrize("checksum", [sources.CHECKSUM, "h1:another="])
def test_an_archive_with_another_checksum_is_refused(keda: Path, tmp_path: Path, checksum: str) -> None:
    def go(arguments: object) -> str:
        assert arguments == ["mod", "download", "-json", f"{MODULE}@{sources.VERSION}"]
        return f'{{"Dir": "{keda}", "Sum": "{checksum}"}}'

    if checksum == sources.CHECKSUM:
        write_sources(tmp_path / "trimmed", go)
        assert (tmp_path / "trimmed/cmd/operator/main.go").exists()
    else:
        with pytest.raises(ChangedSourcesError, match="h1:another="):
            write_sources(tmp_path / "trimmed", go)


def pins(module: GoModule) -> dict[str, str]:
    """Go modules and their versions; a replacement wins."""
    text = (module.pins / "go.mod").read_text()
    required = re.findall(r"^\s*([\w./~-]+) (v\S+)(?: // indirect)?$", text, re.MULTILINE)
    replaced = re.findall(r"^\s*([\w./~-]+) => \S+ (v\S+)$", text, re.MULTILINE)
    return {**dict(required), **dict(replaced)}


@pytest.mark.parametrize("module", AUTOSCALERS, ids=lambda module: module.pins.name)
def test_what_an_autoscaler_shares_with_the_cluster_has_its_version_and_is_compiled_once(module: GoModule) -> None:
    cluster, autoscaler = pins(CLUSTER_MODULE), pins(module)
    shared = (cluster.keys() & autoscaler.keys()) - NEWER
    assert len(shared) > 30
    assert {name: autoscaler[name] for name in shared} == {name: cluster[name] for name in shared}


def test_the_readme_names_the_versions_and_only_long_tests_need_karpenter() -> None:
    readme = (CLUSTER_MODULE.pins.parent / "README.md").read_text()
    versions = {
        "KEDA": sources.VERSION,
        "Karpenter": pins(KARPENTER_MODULE)["sigs.k8s.io/karpenter"],
        "kwok": pins(KWOK_MODULE)["sigs.k8s.io/kwok"],
    }
    assert all(f"{name} {version.removeprefix('v')}" in readme for name, version in versions.items()), versions
    assert MODULE_OF.keys() - set(FOR_MOST_TESTS) == {"karpenter", "kwok"}
