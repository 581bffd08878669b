"""The chart with real helm: what it renders, what it rejects, and that its roles match the code's calls."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flash_contracts.names import GROUP, PLURAL
from flash_operator.runtime.cluster import RESOURCES
from flash_operator.runtime.settings import DEFAULT_QUANTISER_IMAGE, OperatorSettings
from flash_operator.runtime.store import CHILD_KINDS
from rendered_chart import CHART, granted, helm, only, render

ROOT = Path(__file__).resolve().parents[2]

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def test_lint_is_clean() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


def test_the_chart_installs_the_committed_crd_and_keeps_it() -> None:
    """If the CRD were deleted, uninstalling the chart by mistake would delete every deployment."""
    source = yaml.safe_load((ROOT / "crds" / "deepseekflashdeployments.yaml").read_text())
    rendered = only(render(), "CustomResourceDefinition", f"{PLURAL}.{GROUP}")
    assert rendered["spec"] == source["spec"]
    assert rendered["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_crd_can_be_left_out() -> None:
    assert not any(document["kind"] == "CustomResourceDefinition" for document in render("crds.install=false"))


EXPRESSION = "networkPolicy.engineFrom[0].podSelector.matchExpressions[0]"
BAD_VALUES = {
    "the former name of a value": ("probe.enabled=false", "the value probe was renamed to p2pTest"),
    "an unknown value": ("replica=2", "replica"),
    "an unknown value inside": ("image.name=x", "name"),
    "no replicas": ("replicas=0", "replicas"),
    "replicas as a word": ("replicas=many", "replicas"),
    "an unknown log format": ("logFormat=xml", "logFormat"),
    "an unknown value of the labeller": ("labeller.image.name=x", "name"),
    "an interval of nothing": ("labeller.intervalSeconds=0", "intervalSeconds"),
    "a class with other letters": ("operatorClass=Blue", "operatorClass"),
    "an unknown pull policy": ("image.pullPolicy=Maybe", "pullPolicy"),
    "a digest that is cut short": ("image.digest=sha256:abc", "digest"),
    "a label that the chart sets": ("commonLabels.helm\\.sh/chart=x", "commonLabels"),
    "a spread without a key": ("topologySpreadConstraints[0].maxSkew=1", "topologySpreadConstraints"),
    "a budget that is a number": ("podDisruptionBudget=1", "podDisruptionBudget"),
    "a policy that is a word": ("podTemplatePolicy.enabled=yes please", "podTemplatePolicy"),
    "a priority class in capitals": ("priorityClassName=High", "priorityClassName"),
    "a namespace in capitals": ("watchNamespace=Team", "watchNamespace"),
    "a namespace with a dot": ("watchNamespace=team.a", "watchNamespace"),
    "a namespace that is too long": (f"watchNamespace={'n' * 64}", "watchNamespace"),
    "a repository in capitals": ("image.repository=example.org/Operator", "repository"),
    "a repository with a scheme": ("image.repository=https://example.org/operator", "repository"),
    "a repository with a tag": ("image.repository=example.org/operator:1", "repository"),
    "no repository": ("image.repository=", "repository"),
    "a tag with a space": ("image.tag=one two", "tag"),
    "a tag with a slash": ("labeller.image.tag=a/b", "tag"),
    "a digest that is too short": ("image.tag=v1@sha256:abc", "tag"),
    "an engine image with a space": ("engineImage=engine :1", "engineImage"),
    "an engine image with a short digest": ("engineImage=engine@sha256:abc", "engineImage"),
    "a quantiser image with two tags": ("quantiserImage=q:1:2", "quantiserImage"),
    "an image of the link test without a name": ("p2pTest.image=:1", "image"),
    "a pull secret with an underscore": ("imagePullSecrets[0].name=my_secret", "imagePullSecrets"),
    "a pull secret that is a word": ("imagePullSecrets={mine}", "imagePullSecrets"),
    "a pull secret with another key": ("imagePullSecrets[0].secret=x", "secret"),
    "a pull secret of the link test in capitals": ("p2pTest.pullSecrets={Mine}", "pullSecrets"),
    "a runtime class in capitals": ("labeller.runtimeClassName=NVIDIA", "runtimeClassName"),
    "a runtime class of the link test with a space": ("p2pTest.runtimeClassName=a b", "runtimeClassName"),
    "a ConfigMap with a slash": ("labeller.dumpConfigMap=a/b", "dumpConfigMap"),
    "an account that ends with a hyphen": ("serviceAccount.name=flash-", "serviceAccount"),
    "a quantity with the wrong unit": ("resources.limits.memory=512MB", "memory"),
    "a negative quantity": ("resources.requests.cpu=-1", "cpu"),
    "a quantity of the labeller in words": ("labeller.resources.limits.memory=lots", "memory"),
    "an unknown part of resources": ("resources.limit.memory=1Gi", "limit"),
    "a toleration's unknown effect": ("tolerations[0].key=a,tolerations[0].effect=NoRun", "effect"),
    "a toleration's unknown operator": ("tolerations[0].key=a,tolerations[0].operator=In", "operator"),
    "a toleration's misspelt key": ("labeller.tolerations[0].keys=a", "tolerations"),
    "a toleration of everything by mistake": ("tolerations[0].value=a", "tolerations"),
    "a toleration that exists with a value": (
        "tolerations[0].key=a,tolerations[0].operator=Exists,tolerations[0].value=b",
        "tolerations",
    ),
    "seconds without NoExecute": ("tolerations[0].key=a,tolerations[0].tolerationSeconds=5", "tolerations"),
    "a node label with a space": ("nodeSelector.pool=gpu nodes", "nodeSelector"),
    "a node label with a bad key": ("labeller.nodeSelector.-pool=gpu", "nodeSelector"),
    "a pod label that is too long": (f"podLabels.team={'t' * 64}", "podLabels"),
    "a pod label of the selector": (r"podLabels.app\.kubernetes\.io/name=other", "podLabels"),
    "an annotation with a bad key": ("podAnnotations.a b=c", "podAnnotations"),
    "an unknown affinity": ("affinity.nodeAfinity.x=y", "affinity"),
    "a namespace of deployments in capitals": ("networkPolicy.deploymentNamespaces={Team}", "deploymentNamespaces"),
    "a peer without a selector": ("networkPolicy.engineFrom[0]=gateway", "engineFrom"),
    "a peer's misspelt selector": ("networkPolicy.engineFrom[0].namespaceSelektor.x=y", "engineFrom"),
    "a block that is no network": ("networkPolicy.metricsFrom[0].ipBlock.cidr=monitoring", "metricsFrom"),
    "a network of IPv4 with too long a prefix": ("networkPolicy.metricsFrom[0].ipBlock.cidr=10.0.0.0/33", "cidr"),
    "a network of IPv6 with too long a prefix": ("networkPolicy.engineFrom[0].ipBlock.cidr=fd00::/129", "cidr"),
    "a network with a number above 255": ("networkPolicy.engineFrom[0].ipBlock.cidr=10.0.300.0/24", "cidr"),
    "an exception that is an address": (
        "networkPolicy.engineFrom[0].ipBlock.cidr=10.0.0.0/8,networkPolicy.engineFrom[0].ipBlock.except={10.1.0.1}",
        "except",
    ),
    "a selector's value with a space": (
        "networkPolicy.engineFrom[0].namespaceSelector.matchLabels.team=a b",
        "matchLabels",
    ),
    "a selector without its part": ("networkPolicy.engineFrom[0].podSelector.app=x", "podSelector"),
    "a selector's unknown operator": (f"{EXPRESSION}.key=a,{EXPRESSION}.operator=Has", "matchExpressions"),
    "a namespace of deployments twice": ("networkPolicy.deploymentNamespaces={team,team}", "deploymentNamespaces"),
    "an operator's port above 65535": ("activator.operatorUrl=http://operator:65536", "operatorUrl"),
    "an operator's address of another scheme": ("activator.operatorUrl=ftp://operator", "operatorUrl"),
    "a negative number of bytes": ("activator.maxTotalBytes=-1", "maxTotalBytes"),
    "a body that does not fit": (
        "activator.enabled=true,activator.maxTotalBytes=4096",
        "activator.maxBodyBytes is more than activator.maxTotalBytes",
    ),
    "more requests for one deployment than for all": (
        "activator.enabled=true,activator.maxRequests=10",
        "activator.maxRequestsPerDeployment is more than activator.maxRequests",
    ),
    "an engine image that is too long": (f"engineImage={'e' * 513}", "engineImage"),
    "an object that is a word": ("image=operator:1", "image"),
    "a list that is a word": ("tolerations=all", "tolerations"),
    "a switch that is a number": ("crds.install=1", "install"),
    "a switch that is a word": ("rbac.create=yes", "create"),
    "a fraction of a replica": ("replicas=1.5", "replicas"),
    "more replicas than one can lead": ("replicas=1000", "replicas"),
    "an empty quantity": ("resources.limits.memory=", "memory"),
    "a digest of another kind": ("labeller.image.digest=md5:abc", "digest"),
    "a class that is too long": (f"operatorClass={'c' * 41}", "operatorClass"),
    "an account that is too long": (f"serviceAccount.name={'a' * 254}", "serviceAccount"),
    "two namespaces to watch": ("watchNamespace={a,b}", "watchNamespace"),
    "a resync every second": ("resyncSeconds=1", "resyncSeconds"),
    "a name of the chart's that is overridden": ("nameOverride=x", "nameOverride"),
    "an operator's address with a path": ("activator.operatorUrl=http://a/b", "operatorUrl"),
    "no activators": ("activator.replicas=0", "replicas"),
    "an unknown value of the activator": ("activator.port=1", "port"),
    "an activator that holds nothing": ("activator.maxRequests=0", "maxRequests"),
    "an activator that cannot ask the operator": (
        "activator.enabled=true,metrics.service.enabled=false",
        "metrics.service.enabled",
    ),
    "a monitor's label with a slash": ("metrics.serviceMonitor.labels.release=a/b", "labels"),
    "a misspelt monitor": ("metrics.podMonitor.enabled=true", "podMonitor"),
    "a runbook's address with a quote": ('metrics.rules.runbookUrl=a"b', "runbookUrl"),
}

DIGEST = f"sha256:{'0a' * 32}"
GOOD_VALUES = [
    "networkPolicy.engineFrom[0].ipBlock.cidr=255.10.0.0/32",
    "networkPolicy.engineFrom[0].ipBlock.cidr=fd00::/8",
    "networkPolicy.engineFrom[0].ipBlock.cidr=::ffff:10.0.0.0/128",
    "networkPolicy.engineFrom[0].namespaceSelector.matchLabels.example\\.org/team=search",
    f"{EXPRESSION}.key=a,{EXPRESSION}.operator=Exists",
    "activator.operatorUrl=http://10.0.0.1:65535",
    "activator.operatorUrl=https://[fd00::1]:8080",
    "image.repository=localhost:5000/team/flash__operator",
    f"image.tag=v1.2_x@{DIGEST}",
    "labeller.image.repository=[fd00::1]:5000/node",
    f"engineImage=registry.example.org/a/b-c.d@{DIGEST}",
    f"quantiserImage=q:1@{DIGEST}",
    "watchNamespace=team-1",
    "imagePullSecrets[0].name=pull.example",
    "resources.limits.memory=1.5Gi",
    "resources.requests.cpu=2",
    "resources.requests.cpu=0.5",
    "resources.limits.memory=1e9",
    r"resources.limits.example\.org/card=1",
    "tolerations[0].operator=Exists",
    "tolerations[0].key=a/b,tolerations[0].effect=NoExecute,tolerations[0].tolerationSeconds=5",
    "tolerations[0].key=a,tolerations[0].value=b,tolerations[0].effect=NoSchedule",
    r"nodeSelector.kubernetes\.io/arch=amd64",
    r"podAnnotations.example\.org/note=any text: at all",
    "podLabels.team=",
]


@pytest.mark.test  # each starts helm
@pytest.mark.parametrize(("value", "named"), BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_a_bad_value_is_rejected_with_its_name(value: str, named: str) -> None:
    done = helm("template", "flash", str(CHART), f"--set={value}")
    assert done.returncode != 0
    assert named in done.stderr


@pytest.mark.test  # likewise
@pytest.mark.parametrize("value", GOOD_VALUES)
def test_a_value_that_kubernetes_takes_is_taken(value: str) -> None:
    assert only(render(value), "Deployment")


def test_the_operator_runs_restricted() -> None:
    pod = only(render(), "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == RESTRICTED
    assert "cpu" not in container["resources"]["limits"], "a throttled leader loses its lease"


LOCAL_VOLUMES = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"


@pytest.mark.parametrize(
    ("name", "values"), [("flash", "podAnnotations"), ("flash-activator", "activator.podAnnotations")]
)
def test_cluster_autoscaler_may_remove_the_node_of_a_pod(name: str, values: str) -> None:
    template = only(render("activator.enabled=true", f"{values}.team=search"), "Deployment", name)["spec"]["template"]
    local = [volume["name"] for volume in template["spec"]["volumes"] if {"emptyDir", "hostPath"} & volume.keys()]
    assert template["metadata"]["annotations"] == {LOCAL_VOLUMES: ",".join(local), "team": "search"}
    key = LOCAL_VOLUMES.replace(".", r"\.")
    yours = only(render("activator.enabled=true", f"{values}.{key}="), "Deployment", name)
    assert yours["spec"]["template"]["metadata"]["annotations"] == {LOCAL_VOLUMES: ""}


def test_the_operator_understands_the_arguments_it_is_given() -> None:
    settings = operator_settings(render("engineImage=e:1", "quantiserImage=q:1", "watchNamespace=team"))
    assert (settings.engine_image, settings.namespace, settings.lease_namespace) == ("e:1", "team", "system")
    assert settings.plan.quantiser_image == "q:1"
    assert operator_settings(render()).plan.quantiser_image == DEFAULT_QUANTISER_IMAGE


def test_the_p2p_test_uses_the_operators_pull_secrets_by_default() -> None:
    ours = "imagePullSecrets[0].name=ours"
    assert pulled_with(ours) == (("ours",), None)
    assert pulled_with(ours, "p2pTest.pullSecrets={a,b}", "p2pTest.runtimeClassName=nvidia") == (("a", "b"), "nvidia")
    assert pulled_with() == ((), None)


def pulled_with(*values: str) -> tuple[tuple[str, ...], str | None]:
    settings = operator_settings(render(*values)).p2p_test
    assert settings is not None
    return settings.pull_secrets, settings.runtime_class


def test_an_operator_with_a_class_does_not_label_nodes() -> None:
    documents = render("operatorClass=blue")
    settings = operator_settings(documents)
    assert (settings.operator_class, settings.p2p_test) == ("blue", None)
    assert [document["kind"] for document in documents if document["kind"] in ("DaemonSet", "PriorityClass")] == []


def needed() -> set[tuple[str, str, str]]:
    """What cluster.py, observer.py and watches.py ask of the API server."""

    def of(kind: str, *verbs: str) -> set[tuple[str, str, str]]:
        resource = RESOURCES[kind]
        group = resource.prefix.removeprefix("/apis/").rpartition("/")[0] if "/apis/" in resource.prefix else ""
        return {(group, resource.plural, verb) for verb in verbs}

    children = {access for kind in CHILD_KINDS for access in of(kind, "list", "watch", "create", "patch")}
    deleted = {access for kind in ("ControllerRevision", "ConfigMap", "Job") for access in of(kind, "delete")}
    return (
        children
        | deleted
        | of("DeepSeekFlashDeployment", "get", "list", "watch", "create")
        | {(GROUP, f"{PLURAL}/status", "patch")}
        | of("Pod", "list", "watch", "patch", "delete")
        | {("", "pods/eviction", "create")}
        | of("Node", "get", "list", "watch", "patch")
        | of("Event", "get", "create", "patch")
        | of("HorizontalPodAutoscaler", "list", "create", "patch", "delete")
        | of("ScaledObject", "list", "create", "patch", "delete")
        | of("EndpointSlice", "list", "create", "patch", "delete")
    )


def test_the_cluster_role_is_exactly_what_the_code_calls() -> None:
    """tests/runtime/test_each_right.py takes each of them away."""
    assert granted(only(render(), "ClusterRole")) == needed()


def test_with_one_watched_namespace_only_nodes_are_accessible_outside_it() -> None:
    documents = render("watchNamespace=team")
    nodes = {("", "nodes", verb) for verb in ("get", "list", "watch", "patch")}
    assert granted(only(documents, "ClusterRole")) == nodes
    watched = only(documents, "Role", "flash-watched")
    assert watched["metadata"]["namespace"] == "team"
    assert granted(watched) == needed() - nodes
    binding = only(documents, "RoleBinding", "flash-watched")
    assert binding["metadata"]["namespace"] == "team"
    assert [subject["namespace"] for subject in binding["subjects"]] == ["system"]


def test_the_release_namespace_grants_only_the_lease_and_p2p_test_jobs() -> None:
    role = only(render(), "Role")
    assert role["metadata"]["namespace"] == "system"
    leases = {("coordination.k8s.io", "leases", verb) for verb in ("get", "create", "update")}
    jobs = {("batch", "jobs", verb) for verb in ("get", "create", "patch", "delete")}
    assert granted(role) == leases | jobs
    activators = granted(only(render("activator.enabled=true"), "Role")) - granted(role)
    assert activators == {("discovery.k8s.io", "endpointslices", "list")}


def test_the_labeller_may_read_and_patch_nodes_and_create_events() -> None:
    role = only(render(), "ClusterRole", "flash-labeller")
    nodes = {("", "nodes", verb) for verb in ("get", "patch")}
    assert granted(role) == nodes | {("events.k8s.io", "events", "create")}


def test_the_labeller_runs_restricted_and_mounts_nothing_of_its_host() -> None:
    pod = only(render(), "DaemonSet", "flash-labeller")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == RESTRICTED
    assert [set(volume) - {"name"} for volume in pod["volumes"]] == [{"emptyDir"}]


def test_selectors_of_the_two_workloads_do_not_overlap() -> None:
    documents = render()
    daemon, operator = only(documents, "DaemonSet", "flash-labeller"), only(documents, "Deployment")
    for selecting, selected in ((daemon, operator), (operator, daemon)):
        labels = selected["spec"]["template"]["metadata"]["labels"]
        assert not selecting["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_p2p_tests_have_a_lower_priority_than_pods_without_one() -> None:
    documents = render()
    priority = only(documents, "PriorityClass", "flash-p2p-test")
    assert priority["value"] < 0
    assert priority["preemptionPolicy"] == "Never"
    assert operator_settings(documents).p2p_test_priority_class == "flash-p2p-test"


def test_p2p_tests_can_be_switched_off() -> None:
    documents = render("p2pTest.enabled=false")
    assert operator_settings(documents).p2p_test is None
    assert not any(document["kind"] == "PriorityClass" for document in documents)


def operator_settings(documents: list[dict[str, Any]]) -> OperatorSettings:
    (container,) = only(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    return OperatorSettings.parse(container["args"])


@pytest.mark.parametrize("class_name", ["", "blue"])
def test_keda_asks_the_operators_own_service_for_the_demand(class_name: str) -> None:
    documents = render(f"operatorClass={class_name}")
    service = only(documents, "Service", "flash-metrics")
    (port,) = service["spec"]["ports"]
    assert operator_settings(documents).demand_url == f"http://flash-metrics.system.svc:{port['port']}"
    assert operator_settings(render("metrics.service.enabled=false")).demand_url == ""


def test_an_operator_knows_its_own_address() -> None:
    (container,) = only(render(), "Deployment")["spec"]["template"]["spec"]["containers"]
    env = {variable["name"]: variable["valueFrom"]["fieldRef"]["fieldPath"] for variable in container["env"]}
    assert env["POD_IP"] == "status.podIP"
    assert "--pod-ip=$(POD_IP)" in container["args"]
    arguments = [argument.replace("$(POD_IP)", "fd00::7") for argument in container["args"]]
    assert OperatorSettings.parse(arguments).address == "http://[fd00::7]:8080"


def test_people_get_roles_by_aggregation() -> None:
    documents = render()
    edit = only(documents, "ClusterRole", "flash-edit")
    view = only(documents, "ClusterRole", "flash-view")
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert {verb for _, _, verb in granted(view)} == {"get", "list", "watch"}


def test_monitoring_is_opt_in() -> None:
    assert not any(document["kind"] == "ServiceMonitor" for document in render())
    assert any(document["kind"] == "ServiceMonitor" for document in render("metrics.serviceMonitor.enabled=true"))


def operator_of(*values: str) -> dict[str, Any]:
    pod: dict[str, Any] = only(render(*values), "Deployment")["spec"]["template"]["spec"]
    return pod


def test_two_operators_are_spread_and_a_drain_takes_one_at_a_time() -> None:
    documents = render()
    deployment, budget = only(documents, "Deployment")["spec"], only(documents, "PodDisruptionBudget")["spec"]
    (spread,) = deployment["template"]["spec"]["topologySpreadConstraints"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["replicas"] == 2
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    assert budget["maxUnavailable"] == 1
    for selector in (budget["selector"], spread["labelSelector"], deployment["selector"]):
        assert selector["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("values", [["replicas=1"], ["podDisruptionBudget.enabled=false"]])
def test_a_single_operator_blocks_no_drain(values: list[str]) -> None:
    assert not [document for document in render(*values) if document["kind"] == "PodDisruptionBudget"]


def test_a_digest_pins_both_images() -> None:
    digest = f"sha256:{'a' * 64}"
    documents = render(f"image.digest={digest}", f"labeller.image.digest={digest}", "image.tag=1.2.3")
    images = {
        d["kind"]: d["spec"]["template"]["spec"]["containers"][0]["image"]
        for d in documents
        if d["kind"] in ("Deployment", "DaemonSet")
    }
    assert images["Deployment"] == f"deepseek-flash/operator:1.2.3@{digest}"
    assert images["DaemonSet"].endswith(f"@{digest}")


def test_common_labels_are_on_every_object_and_in_no_selector() -> None:
    documents = [d for d in render("commonLabels.team=search") if d["kind"] != "CustomResourceDefinition"]
    assert [d["metadata"]["name"] for d in documents if d["metadata"]["labels"].get("team") != "search"] == []
    for document in documents:
        assert "team" not in str((document.get("spec") or {}).get("selector", ""))


def test_the_operators_place_is_the_owners_choice() -> None:
    spread = "topologySpreadConstraints[0]"
    values = [f"{spread}.maxSkew=1", f"{spread}.topologyKey=zone", f"{spread}.whenUnsatisfiable=DoNotSchedule"]
    pod = operator_of("priorityClassName=high", *values)
    assert pod["priorityClassName"] == "high"
    assert [one["topologyKey"] for one in pod["topologySpreadConstraints"]] == ["zone"]


def test_the_pod_template_policy_can_be_left_out() -> None:
    names = [document["metadata"]["name"] for document in render("podTemplatePolicy.enabled=false")]
    assert not [name for name in names if name.endswith("pod-templates")]
