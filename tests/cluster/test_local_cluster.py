"""Parts of the local cluster that need neither root nor a cluster."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from local_cluster import binaries
from local_cluster.go_module import content_key
from local_cluster.machine import Holder
from local_cluster.mounts import remove_folder
from local_cluster.network import Network
from local_cluster.oci_archive import images_in, write_archive
from local_cluster.packages import install_command
from local_cluster.processes import is_alive, start_of

PACKAGE = Path(binaries.__file__).parent


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "go.mod").write_text("module local-cluster/programs\n")
    (tmp_path / "go.sum").write_text("go.etcd.io/etcd/server/v3 v3.6.16 h1:abc=\n")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "main.go").write_text("package main\n")
    return tmp_path


def test_a_binary_is_kept_under_the_same_key_while_nothing_changes(module: Path) -> None:
    assert content_key(module, ["-s"], "go1.26.8", {}) == content_key(module, ["-s"], "go1.26.8", {})


def test_a_change_of_pins_checksums_flags_sources_or_compiler_makes_another_key(module: Path) -> None:
    keys = [content_key(module, ["-s"], "go1.26.8", {}), content_key(module, ["-s"], "go1.26.9", {})]
    keys.append(content_key(module, ["-s", "-w"], "go1.26.8", {}))
    for file, text in (
        ("go.sum", "go.etcd.io/etcd/server/v3 v3.6.16 h1:def=\n"),
        ("go.mod", "module local-cluster/other\n"),
        ("web/main.go", "package main // changed\n"),
    ):
        (module / file).write_text(text)
        keys.append(content_key(module, ["-s"], "go1.26.8", {}))
    assert len(set(keys)) == len(keys)


def test_an_image_archive_names_its_image_and_is_the_same_for_the_same_program(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    for name in ("a.tar", "b.tar"):
        write_archive(tmp_path / name, "localhost/x:1", program)

    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert list(images_in(tmp_path / "a.tar")) == ["localhost/x:1"]


def test_names_and_addresses_can_be_moved_by_the_environment() -> None:
    moved = Network.chosen({"FLASH_CLUSTER_BRIDGE": "other0", "FLASH_CLUSTER_PODS": "10.99.0.0/24", "HOME": "/root"})
    assert moved == Network(bridge="other0", pods="10.99.0.0/24")
    assert moved.gateway == "10.99.0.1"


def test_the_message_to_a_second_starter_says_who_and_how_to_stop_it(tmp_path: Path) -> None:
    holder = Holder.process(os.getpid(), tmp_path / "run" / "cluster", Network(), kept=False)
    assert f"(pid {os.getpid()})" in holder.describe()
    assert f"FLASH_CACHE={tmp_path} " in holder.describe()
    assert "FLASH_KUBECONFIG" not in holder.describe()
    assert f"FLASH_KUBECONFIG={tmp_path}/run/cluster/admin.conf" in replace(holder, kept=True).describe()


def test_a_cluster_is_used_by_its_own_test_run_or_by_all_if_it_is_kept(tmp_path: Path) -> None:
    of_a_run = Holder.process(os.getpid(), tmp_path, Network(), kept=False)
    kept = replace(of_a_run, kept=True)
    assert of_a_run.is_for(os.getpid(), kept=False)
    assert not of_a_run.is_for(os.getppid(), kept=False)
    assert not of_a_run.is_for(os.getpid(), kept=True)
    assert kept.is_for(os.getppid(), kept=True)
    assert not kept.is_for(os.getpid(), kept=False)


def test_a_process_is_identified_by_pid_and_start_time() -> None:
    start = start_of(os.getpid())
    assert start is not None
    assert is_alive(os.getpid(), start)
    assert not is_alive(os.getpid(), start - 1)


def test_a_folder_is_deleted_with_all_it_holds(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").touch()

    remove_folder(folder)

    assert not folder.exists()


def test_the_error_for_missing_packages_names_them_in_one_command() -> None:
    assert install_command(["runc", "conntrack"]).endswith("install -y --no-install-recommends runc conntrack")


def test_a_binary_that_does_not_exist_is_refused_with_those_that_do() -> None:
    command = [sys.executable, "-m", "local_cluster", "build", "--only", "etcd,kubecuttle"]
    environment = dict(os.environ)
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "kubecuttle: not one of etcd, kube-apiserver" in refused.stderr


def test_the_module_pins_the_versions_that_the_readme_names() -> None:
    readme = (PACKAGE / "README.md").read_text()
    pins = dict(re.findall(r"^\t(\S+) v(\S+)$", (PACKAGE / "tools" / "go.mod").read_text(), re.MULTILINE))
    for path in (
        "k8s.io/kubernetes",
        "go.etcd.io/etcd/server/v3",
        "github.com/containerd/containerd/v2",
        "helm.sh/helm/v4",
        "github.com/distribution/distribution/v3",
    ):
        assert f" {pins[path]}" in readme, path
    assert pins["k8s.io/kubernetes"] == binaries.KUBERNETES_VERSION
