"""A model from a hub: which container fetches it, where it is stored, who sees the token, and what status shows."""

from typing import Any

import pytest

from builders import SETTINGS, a_flash, a_gate, a_live_deployment, a_node, a_pod, an_observed, condition
from flash_contracts.gate_result import GateResult
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.plan import plan
from flash_operator.core.resources.deployment import deployment, pod_template
from flash_operator.core.resources.gate_config import gate_settings

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40


def template(**model: Any) -> RawObject:
    return pod_template(a_flash(model={"source": "hf://owner/name", **model}), SETTINGS)


def container(made: RawObject, name: str) -> RawObject:
    spec = made["spec"]
    (found,) = [one for one in (*spec["initContainers"], *spec["containers"]) if one["name"] == name]
    return dict(found)


def env(made: RawObject, name: str) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(made, name)["env"]}


def volume(made: RawObject, name: str) -> RawObject | None:
    found: RawObject | None = next((one for one in made["spec"]["volumes"] if one["name"] == name), None)
    return found


def test_the_container_that_fetches_in_full() -> None:
    made = template(
        revision=COMMIT,
        credentialsSecret="hub-token",
        hubEndpoint="https://mirror.example/hub",
        cache={"type": "Node", "maxGibibytes": 400},
    )
    assert container(made, "fetch") == {
        "name": "fetch",
        "image": "registry.example/flash/engine:1",
        "imagePullPolicy": "IfNotPresent",
        "command": ["flash-fetch"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "FLASH_RUN_DIR", "value": "/run/flash"},
            {"name": "FLASH_MODEL_SOURCE", "value": "hf://owner/name"},
            {"name": "FLASH_MODEL_CACHE", "value": "/models"},
            {"name": "HF_HUB_OFFLINE", "value": "0"},
            {"name": "FLASH_MODEL_REVISION", "value": COMMIT},
            {"name": "FLASH_MODEL_CACHE_KIND", "value": "Node"},
            {"name": "FLASH_MODEL_CACHE_NAME", "value": "/var/lib/deepseek-flash/models"},
            {"name": "FLASH_MODEL_CACHE_GIBIBYTES", "value": "400"},
            {"name": "FLASH_HUB_TOKEN_FILE", "value": "/etc/flash/hub/token"},
            {"name": "FLASH_HUB_SECRET", "value": "hub-token"},
            {"name": "HF_ENDPOINT", "value": "https://mirror.example/hub"},
        ],
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}},
        "volumeMounts": [
            {"name": "run", "mountPath": "/run/flash"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "model", "mountPath": "/models"},
            {"name": "hub", "mountPath": "/etc/flash/hub", "readOnly": True},
        ],
    }


def test_fetch_starts_after_the_gate_which_reports_its_progress() -> None:
    assert [one["name"] for one in template()["spec"]["initContainers"]] == ["gate", "fetch"]


def test_a_mounted_model_is_not_fetched() -> None:
    made = pod_template(a_flash(model={"source": "pvc://claim/folder"}), SETTINGS)
    assert [one["name"] for one in made["spec"]["initContainers"]] == ["gate"]
    assert volume(made, "hub") is None


def test_the_token_is_a_file_in_the_fetch_container_only() -> None:
    made = template(credentialsSecret="hub-token")
    assert volume(made, "hub") == {
        "name": "hub",
        "secret": {
            "secretName": "hub-token",
            "items": [{"key": "token", "path": "token"}],
            "defaultMode": 0o440,
            "optional": True,
        },
    }
    for name in ("engine", "gate"):
        assert "hub" not in [mount["name"] for mount in container(made, name)["volumeMounts"]]
    assert volume(template(), "hub") is None


CACHES: dict[str, tuple[RawObject | None, RawObject, bool]] = {
    "none": (None, {"emptyDir": {}}, False),
    "in the pod": ({"type": "Pod"}, {"emptyDir": {}}, False),
    "on the node": (
        {"type": "Node"}, {"hostPath": {"path": "/var/lib/deepseek-flash/models", "type": "DirectoryOrCreate"}}, True),
    "on the node, elsewhere": (
        {"type": "Node", "path": "/data/m"}, {"hostPath": {"path": "/data/m", "type": "DirectoryOrCreate"}}, True),
    "on a claim": ({"type": "Claim", "claimName": "c"}, {"persistentVolumeClaim": {"claimName": "c"}}, True),
}  # fmt: skip


@pytest.mark.parametrize(("cache", "expected", "shared"), CACHES.values(), ids=CACHES.keys())
def test_the_volume_of_each_cache(cache: RawObject | None, expected: RawObject, *, shared: bool) -> None:
    """The engine locks a shared cache and compiles into it; it mounts the pod's own cache read-only."""
    made = template(cache=cache)

    assert volume(made, "model") == {"name": "model", **expected}
    mount = {"name": "model", "mountPath": "/models"}
    assert (mount if shared else {**mount, "readOnly": True}) in container(made, "engine")["volumeMounts"]
    assert ("FLASH_MODEL_CACHE" in env(made, "engine")) is shared
    assert env(made, "engine").get("FLASH_JIT_DIR") == ("/models/jit" if shared else None)


def test_the_engine_loads_a_folder_and_contacts_no_hub() -> None:
    made = template(revision="main")
    arguments = container(made, "engine")["args"]
    assert arguments[:2] == ["serve", "/run/flash/model"]
    assert not [argument for argument in arguments if argument.startswith("--revision")]
    assert env(made, "engine")["HF_HUB_OFFLINE"] == "1"
    assert {"HF_ENDPOINT", "FLASH_MODEL_SOURCE"} & env(made, "engine").keys() == set()


def test_fetch_gets_the_engines_proxy_variables_and_no_others() -> None:
    extra = [{"name": name, "value": "x"} for name in ("HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE", "SECRET_OF_MINE")]
    flash = a_flash(model={"source": "hf://owner/name"}, engine={"extraEnv": extra})
    made = env(pod_template(flash, SETTINGS), "fetch")
    assert {"HTTPS_PROXY", "no_proxy", "SSL_CERT_FILE"} <= made.keys()
    assert "SECRET_OF_MINE" not in made


def test_the_fetch_container_can_be_changed_in_the_pod_template() -> None:
    theirs = {"spec": {"initContainers": [{"name": "fetch", "env": [{"name": "FLASH_FETCH_STREAMS", "value": "2"}]}]}}
    made = pod_template(a_flash(model={"source": "hf://owner/name"}, podTemplate=theirs), SETTINGS)
    assert env(made, "fetch")["FLASH_FETCH_STREAMS"] == "2"
    assert env(made, "fetch")["FLASH_MODEL_SOURCE"] == "hf://owner/name"


def test_the_deployment_does_not_give_up_a_model_that_is_still_coming() -> None:
    fetched, mounted = a_flash(model={"source": "hf://owner/name"}), a_flash()
    assert deployment(mounted, template())["spec"]["progressDeadlineSeconds"] == 3582 + 300
    assert deployment(fetched, template())["spec"]["progressDeadlineSeconds"] == 3582 + 300 + 24 * 3600


def test_a_time_that_the_user_gave_is_not_scaled() -> None:
    given = gate_settings(a_flash(readiness={"startupTimeoutSeconds": 60}).spec).to_json()
    assert (given["startupTimeoutSeconds"], given["startupBudget"]) == (60, None)


def a_delivery(phase: str = "Downloading", *, at: str = "2026-11-24T12:00:00.000Z", **figures: Any) -> RawObject:
    return {"phase": phase, "commit": COMMIT, "bytes": 10, "totalBytes": 40, "attempts": 1, "at": at, **figures}


def fetching(delivery: RawObject, live: RawObject | None = None, message: str = "fetching 10 of 40") -> Observed:
    gate = a_gate("EngineStarting", message, delivery=delivery)
    pod = a_pod(phase="Pending")
    return an_observed(
        a_flash(model={"source": "hf://owner/name"}),
        pods=(pod,), nodes=(a_node(),), gates={"flash-a": gate}, live_status=live,
    )  # fmt: skip


def status_of(observed: Observed) -> RawObject:
    status = plan(observed).status
    assert status is not None
    return status


def test_status_shows_the_progress() -> None:
    observed = fetching(a_delivery(bytesPerSecond=2.5, etaSeconds=12, warning="main is a branch"))
    status = status_of(observed)

    assert status["pods"][0]["delivery"] == {
        "phase": "Downloading",
        "commit": COMMIT,
        "fetchedBytes": 10,
        "totalBytes": 40,
        "bytesPerSecond": 2,
        "etaSeconds": 12,
        "warning": "main is a branch",
        "attempts": 1,
        "reportedTime": "2026-11-24T12:00:00.000Z",
    }
    assert "fetching 10 of 40" in condition(status, "Ready")["message"]
    assert condition(status, "Progressing")["status"] == "True"


def test_a_delivered_model_gets_one_event_and_an_unpinned_branch_another() -> None:
    complete = a_delivery("Complete", totalBytes=3 << 30, warning=f"set model.revision to {COMMIT}")
    made = plan(fetching(complete, status_of(fetching(a_delivery()))))
    reported = [(event.type, event.reason, event.message) for event in made.events]
    assert reported == [
        ("Normal", "ModelDelivered", f"flash-a: 3.0 GiB at commit {COMMIT}"),
        ("Warning", "RevisionNotPinned", f"flash-a: set model.revision to {COMMIT}"),
    ]
    assert plan(fetching(complete, made.status)).events == ()


LOOKS: dict[str, tuple[RawObject, bool]] = {
    "a moment later": (a_delivery(at="2026-11-24T12:00:09.000Z", bytes=20), False),
    "ten seconds later": (a_delivery(at="2026-11-24T12:00:10.000Z", bytes=20), True),
    "another phase": (a_delivery("Verifying", at="2026-11-24T12:00:01.000Z", bytes=40), True),
    "another commit": (a_delivery(at="2026-11-24T12:00:01.000Z", commit=OTHER), True),
    "a time that is none": (a_delivery(at="soon", bytes=20), True),
}


@pytest.mark.parametrize(("delivery", "written"), LOOKS.values(), ids=LOOKS.keys())
def test_changed_figures_alone_are_not_written_at_every_reconcile(delivery: RawObject, *, written: bool) -> None:
    live = status_of(fetching(a_delivery()))
    assert (plan(fetching(delivery, live, "fetching 20 of 40")).status is not None) is written


def test_an_unavailable_model_sets_progressing_false() -> None:
    gate = a_gate("ModelUnavailable", "no revision c0ffee: set model.revision", measurement=None)
    status = status_of(an_observed(pods=(a_pod(),), nodes=(a_node(),), gates={"flash-a": gate}))
    progressing = condition(status, "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "ModelUnavailable")
    assert "set model.revision" in progressing["message"]


def served(*commits: str) -> Observed:
    """A summary of replicas that all passed, each with a commit."""
    flash = a_flash(replicas=len(commits), model={"source": "hf://owner/name"})
    names = [f"flash-{number}" for number in range(len(commits))]
    gates: dict[str, GateResult] = {
        name: a_gate(delivery=a_delivery("Complete", commit=commit))
        for name, commit in zip(names, commits, strict=True)
    }
    pods = tuple(a_pod(name, ready=True) for name in names)
    return an_observed(flash, pods=pods, nodes=(a_node(),), gates=gates, children=(a_live_deployment(flash),))


def test_a_revision_that_moved_between_two_replicas_is_reported_with_both_commits() -> None:
    found = condition(status_of(served(COMMIT, OTHER)), "Degraded")
    assert (found["status"], found["reason"]) == ("True", "RevisionMoved")
    assert f"{COMMIT} on flash-0" in found["message"]
    assert f"{OTHER} on flash-1" in found["message"]


def test_it_is_still_reported_while_a_gate_fails_to_answer_once() -> None:
    observed = served(COMMIT, OTHER)
    live = status_of(observed)
    silent = {**observed.gates, "uid-of-flash-0": GateResult.unreachable("no answer in time")}
    again = an_observed(
        observed.flash, pods=observed.pods, nodes=(a_node(),), children=tuple(observed.children.values()),
        gates={name.removeprefix("uid-of-"): gate for name, gate in silent.items()}, live_status=live,
    )  # fmt: skip
    assert plan(again).status is None


def test_replicas_of_one_commit_are_not_degraded() -> None:
    assert condition(status_of(served(COMMIT, COMMIT)), "Degraded")["reason"] == "AsWanted"
