"""`kubectl dsf topology`: what each kind of node is shown as."""

from typing import Any

import pytest

from builders import a_node, a_pod
from flash_operator.core.observed.snapshot import RawObject
from flashctl.exits import Exit
from flashctl.topology_table import has_gpus, node_topology
from flashctl_runs import ScriptedServer, flashctl, kubeconfig


def an_engine(name: str = "flash-a", node: str = "node-1", gpus: str = "2", **status: Any) -> RawObject:
    pod = a_pod(name, node=node, **status)
    pod["metadata"]["labels"] = {"deepseekflash.dev/deployment": "flash"}
    pod["spec"]["containers"] = [{"name": "engine", "resources": {"limits": {"nvidia.com/gpu": gpus}}}]
    return pod


@pytest.mark.parametrize(
    ("labels", "row", "seen"),
    [
        ({"gpu_link": "phb", "gpu_p2p": "verified"}, "T3", "gpu-link=phb, gpu-p2p=verified"),
        ({"gpu_link": "phb", "gpu_p2p": "granted"}, "T5", "gpu-p2p=granted"),
        ({"gpu_link": "sys", "gpu_p2p": "hang"}, "T7", "gpu-p2p=hang"),
        ({}, "T8", "gpu-link and gpu-p2p unknown"),
    ],
)
def test_the_row_and_what_selects_it(labels: dict[str, str], row: str, seen: str) -> None:
    found = node_topology(a_node(**labels), ())
    assert (found.row, found.seen) == (row, seen)
    assert found.means


def test_free_gpus_are_those_that_no_running_pod_holds() -> None:
    ended = an_engine("done", phase="Succeeded")
    elsewhere = an_engine("other", node="node-2")
    assert node_topology(a_node(), (ended, elsewhere)).free_gpus == 2
    found = node_topology(a_node(), (an_engine(), ended, elsewhere))
    assert (found.free_gpus, found.engines) == (0, ["team/done", "team/flash-a"])


def test_without_the_right_to_list_pods_free_gpus_are_unknown() -> None:
    assert node_topology(a_node(), None).free_gpus is None


def test_the_safe_flags_are_explained_where_nothing_is_known() -> None:
    flags = [flag for group in node_topology(a_node(), ()).flags for flag in group.flags]
    assert {"NCCL_P2P_DISABLE=1", "--disable-custom-all-reduce"} <= {*flags}


def test_warnings_name_what_is_wrong() -> None:
    assert "'fast' is not one of" in node_topology(a_node(gpu_link="fast"), ()).warnings[0]
    stale = a_node(gpu_link="phb", gpu_p2p="verified", gpu_driver="580.1", gpu_p2p_driver="570.1")
    assert node_topology(stale, ()).warnings == ["verified under driver 570.1, the node has 580.1"]
    single = a_node(gpu_link="phb", gpu_p2p="verified")
    single["status"]["allocatable"]["nvidia.com/gpu"] = "1"
    assert node_topology(single, ()).warnings == ["one GPU: a replica needs two"]


def test_a_labelled_node_whose_gpus_are_gone_is_still_shown() -> None:
    node = a_node(gpu_link="phb")
    node["status"] = {}
    assert has_gpus(node)
    assert not has_gpus({"metadata": {"name": "plain"}})


def test_the_command_shows_one_line_for_each_node_and_all_of_one(tmp_path: Any) -> None:
    nodes = {"items": [a_node(gpu_link="phb", gpu_p2p="verified"), {"metadata": {"name": "plain"}}]}
    answers = {"/api/v1/nodes": (200, nodes), "/api/v1/pods": (200, {"items": [an_engine()]})}
    with ScriptedServer(answers) as server:
        config = kubeconfig(tmp_path, server.url)
        table = flashctl("topology", "--kubeconfig", config)
        one = flashctl("topology", "node-1", "--kubeconfig", config)
        wrong = flashctl("topology", "nod-1", "--kubeconfig", config)
    assert table.exit_code == Exit.DONE
    assert [line.split()[:6] for line in table.stdout.splitlines()[1:]] == [
        ["node-1", "2", "0", "phb", "verified", "T3"]
    ]
    assert "engines: team/flash-a" in one.stdout
    assert "NCCL_P2P_LEVEL=PHB" in one.stdout
    assert "did you mean node-1?" in wrong.stderr


def test_no_gpus_at_all_is_an_answer(tmp_path: Any) -> None:
    with ScriptedServer({"/api/v1/nodes": (200, {"items": []}), "/api/v1/pods": (200, {"items": []})}) as server:
        done = flashctl("topology", "--kubeconfig", kubeconfig(tmp_path, server.url))
    assert done.exit_code == Exit.NOT_READY
    assert "is the device plugin installed?" in done.stdout
