"""`mtp-quantise restore` does its work once per folder, however often it is run or killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from huggingface_hub.hf_api import RepoFile
from safetensors.torch import load_file, save_file

import tiny_checkpoints as tiny
from mtp_quantiser.__main__ import main
from mtp_quantiser.checkpoint import Checkpoint
from mtp_quantiser.restoration import RECORD
from mtp_quantiser.shard import MANIFEST, SHARD
from mtp_quantiser.splice import ALIAS_SHARD
from waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, CONTRACTS = ROOT / "images" / "quantiser", ROOT / "contracts"
MANY = {**tiny.CONFIG, "n_routed_experts": 24}
"""Enough experts for a run to be killed halfway."""


class Claim(NamedTuple):
    """A volume with a stripped checkpoint, beside which the restored one is written."""

    folder: Path
    source: Path
    capture: Path | None = None

    @property
    def base(self) -> Path:
        return self.folder / "v4"

    @property
    def out(self) -> Path:
        return self.folder / "v4-with-mtp"

    @property
    def work(self) -> Path:
        return self.folder / ".v4-with-mtp.work"

    @property
    def arguments(self) -> list[str]:
        given = ["restore", "--base", str(self.base), "--source", str(self.source), "--out", str(self.out)]
        return [*given, "--device", "cpu", *(["--capture", str(self.capture)] if self.capture else [])]

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


def a_claim(folder: Path, source: Path, capture: Path | None = None, config: Mapping[str, Any] = tiny.CONFIG) -> Claim:
    claim = Claim(folder, source, capture)
    tiny.write_base(claim.base)
    document = json.loads((claim.base / "config.json").read_text())
    (claim.base / "config.json").write_text(json.dumps({**document, "n_routed_experts": config["n_routed_experts"]}))
    return claim


def run(claim: Claim, capsys: pytest.CaptureFixture[str], *more: str, code: int = 0) -> dict[str, Any]:
    """The result; the whole of stdout is its one line."""
    capsys.readouterr()
    assert main([*claim.arguments, *more]) == code
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    assert result["version"] == 1
    return result


def start(claim: Claim) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(PACKAGE), str(CONTRACTS)])
    command = [sys.executable, "-m", "mtp_quantiser", *claim.arguments, "--batch", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def claim(tmp_path: Path, official: Path, capture: Path) -> Claim:
    return a_claim(tmp_path / "claim", official, capture)


def test_a_stripped_checkpoint_is_made_whole(
    claim: Claim, official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(claim, capsys, "--result", str(tmp_path / "termination-log"))
    assert result["state"] == "Restored"
    assert json.loads((tmp_path / "termination-log").read_text()) == result
    figures = result["figures"]
    assert figures["gptq"] + figures["rtn"] == 12
    assert figures["gptq"] > 0
    assert 0 < figures["worstError"] < 0.1
    assert f"{figures['gptq']} matrices by GPTQ" in result["message"]
    assert main(["verify", str(claim.out), "--source", str(official)]) == 0
    assert claim.names() == {"v4", "v4-with-mtp", ".v4-with-mtp.lock"}, "nothing unfinished is left"
    made = [RECORD, "mtp-report.html", "mtp-report.json", SHARD, MANIFEST, ALIAS_SHARD, "config.json"]
    assert {(claim.out / name).stat().st_mode & 0o777 for name in made} == {0o644}, "an engine is another user"


def test_without_a_capture_everything_is_rounded(
    tmp_path: Path, official: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = run(a_claim(tmp_path / "claim", official), capsys)["figures"]
    assert (figures["gptq"], figures["rtn"], figures["worstError"]) == (0, 12, None)


def test_a_complete_result_is_found_without_its_source_and_not_rewritten(
    tmp_path: Path, official: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "official"
    shutil.copytree(official, source)
    claim = a_claim(tmp_path / "claim", source)
    first = run(claim, capsys)
    before = {path: path.stat().st_mtime_ns for path in claim.out.iterdir()}
    shutil.rmtree(source)
    again = run(claim, capsys)
    assert again["state"] == "AlreadyRestored"
    assert again["figures"] == first["figures"]
    assert {path: path.stat().st_mtime_ns for path in claim.out.iterdir()} == before


@pytest.mark.parametrize("what", ["source", "base", "capture"])
def test_a_result_of_other_inputs_is_rejected_by_name(
    what: str, claim: Claim, official: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(claim, capsys)
    if what == "base":
        config = json.loads((claim.base / "config.json").read_text())
        (claim.base / "config.json").write_text(json.dumps({**config, "bos_token_id": 7}))
    other = claim._replace(source=official.parent) if what == "source" else claim
    other = claim._replace(capture=None) if what == "capture" else other
    result = run(other, capsys, code=1)
    assert result["state"] == "Failed"
    assert f"was made from other inputs: {what} was" in result["message"]


def test_a_folder_of_another_origin_is_not_changed(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    claim.out.mkdir()
    assert "so this tool did not create it" in run(claim, capsys, code=1)["message"]
    assert list(claim.out.iterdir()) == []


def test_a_base_that_has_its_head_is_taken_as_it_is(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    run(claim, capsys)
    whole = Claim(claim.folder / "second", claim.folder / "nowhere")
    shutil.copytree(claim.out, whole.base)
    result = run(whole, capsys)
    assert result["state"] == "NotNeeded"
    assert "already has an MTP head" in result["message"]
    assert (whole.out / SHARD).stat().st_ino == (whole.base / SHARD).stat().st_ino
    assert Checkpoint.open(whole.out).shard_of == Checkpoint.open(whole.base).shard_of
    assert run(whole, capsys) == result, "asked again"


def test_a_file_that_lost_its_end_is_damage(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    run(claim, capsys)
    with (claim.out / SHARD).open("r+b") as file:
        file.truncate(1000)
    assert (
        f"has been damaged since it was restored: {SHARD} is of a different size"
        in run(claim, capsys, code=1)["message"]
    )


def test_a_file_that_was_touched_is_read_again(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    run(claim, capsys)
    os.utime(claim.out / SHARD)
    assert run(claim, capsys)["state"] == "AlreadyRestored"
    tensors = load_file(claim.out / SHARD)
    tensors[f"{tiny.expert(1, 'w2')}.weight_packed"][0, 0] ^= 1
    save_file(tensors, claim.out / SHARD, metadata={"format": "pt"})
    message = run(claim, capsys, code=1)["message"]
    assert "mtp.0.ffn.experts.1.w2.weight_packed does not have the manifest's checksum" in message


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tiny.write_official(tmp_path / "official", config=MANY)
    claim = a_claim(tmp_path / "killed", source, config=MANY)
    with start(claim) as process:
        wait_for(claim.work / ".mtp-work" / "expert-002.safetensors", process)
        process.kill()
    assert not claim.out.exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (claim.work / ".mtp-work").glob("expert-*.safetensors")}
    assert len(kept) >= 3

    with start(claim) as process:
        wait_for(claim.work / ".mtp-work" / f"expert-{len(kept) + 1:03}.safetensors", process)
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(stdout)["message"] == "interrupted; run the same command again to resume"
    now = {path.name: path.stat().st_mtime_ns for path in (claim.work / ".mtp-work").glob("expert-*.safetensors")}
    assert kept.items() <= now.items(), "what was finished is not made again"

    assert run(claim, capsys, "--batch", "1")["state"] == "Restored"
    straight = a_claim(tmp_path / "straight", source, config=MANY)
    run(straight, capsys, "--batch", "1")
    assert (claim.out / SHARD).read_bytes() == (straight.out / SHARD).read_bytes()


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    def last_words() -> str:
        return process.stderr.read() if process.stderr and process.poll() is not None else "its process runs"

    def runs() -> bool:
        return process.poll() is None

    eventually(path.exists, str(path), seconds=120, pause=0.002, alive=runs, seen=last_words)


def test_a_source_that_was_brought_anew_begins_anew(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    store = claim.work / ".mtp-work"
    store.mkdir(parents=True)
    (store / "state.json").write_text(json.dumps({"madeFrom": {"version": 2, "source": "another"}}))
    capsys.readouterr()
    assert main(claim.arguments) == 0
    assert "starting over" in capsys.readouterr().err


def test_two_at_once_do_it_once(tmp_path: Path) -> None:
    claim = a_claim(tmp_path / "claim", tiny.write_official(tmp_path / "official", config=MANY), config=MANY)
    processes = [start(claim), start(claim)]
    ended = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    states = sorted(json.loads(stdout)["state"] for stdout, _ in ended)
    assert states == ["AlreadyRestored", "Restored"]


def test_a_full_disk_is_refused_before_anything_is_written(
    claim: Claim, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "free")  # noqa: PYI024 - as the standard library's own
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage(1000))
    result = run(claim, capsys, code=1)
    assert "0.0 GB free, but 0.0 GB are needed" in result["message"]
    assert list(claim.work.iterdir()) == []


def test_a_hub_that_does_not_answer_may_answer_later(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--source", "hf://nobody/nothing@main"]
    result = run(claim, capsys, *arguments, code=75)
    assert result["message"].startswith("hf://nobody/nothing@main cannot be fetched")


def test_a_download_that_does_not_fit_is_found_before_it_begins(
    claim: Claim, official: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hub is a stub: it has the official checkpoint, whose shards it says are of a terabyte each."""
    fetched: list[str] = []

    def download(_name: str, *, allow_patterns: list[str], **_: object) -> str:
        fetched.extend(allow_patterns)
        return str(official)

    def infos(*_: object) -> list[RepoFile]:
        return [RepoFile(path=f"{number}", size=10**12, oid="") for number in range(2)]  # type: ignore[no-untyped-call]

    monkeypatch.setattr("mtp_quantiser.sources.snapshot_download", download)
    monkeypatch.setattr("mtp_quantiser.sources._infos", infos)
    result = run(claim, capsys, "--source", "hf://owner/name@main", code=1)
    assert "GB free, but 2000.0 GB are needed" in result["message"]
    assert fetched == ["config.json", "model.safetensors.index.json"]


def test_a_signal_while_torch_is_imported_gets_an_answer_too(claim: Claim, tmp_path: Path) -> None:
    """The torch of this process ends it as a kubelet would that stops the pod while it starts."""
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub/torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    path = os.pathsep.join([str(tmp_path / "stub"), str(PACKAGE), str(CONTRACTS)])
    command = [sys.executable, "-m", "mtp_quantiser", *claim.arguments, "--result", str(tmp_path / "result")]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=60
    )
    assert done.returncode == 130, done.stderr
    assert json.loads(done.stdout)["message"] == "interrupted; run the same command again to resume"
    assert (tmp_path / "result").read_text() == done.stdout.strip()


def test_an_unexpected_error_is_one_sentence(
    claim: Claim, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("mtp_quantiser.restoration.splice", broken)
    assert run(claim, capsys, code=70)["message"].startswith("ZeroDivisionError: by nothing; this is a bug")


@pytest.fixture
def _no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux has it for files of others (fs.protected_hardlinks), and some file systems for all."""

    def forbidden(_target: Path, _source: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", forbidden)


@pytest.mark.usefixtures("_no_links")
def test_a_file_that_cannot_be_hard_linked_is_symlinked(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing permission must not cause a copy of 149 GiB."""
    run(claim, capsys)
    shard = claim.out / "model-00001-of-00001.safetensors"
    assert shard.readlink() == Path("../v4/model-00001-of-00001.safetensors")
    assert not (claim.out / SHARD).is_symlink(), "what lay in the unfinished folder is gone with it"
    moved = claim.folder.rename(claim.folder.with_name("mounted-elsewhere"))
    for path in (moved / "v4-with-mtp").iterdir():
        assert path.stat().st_size > 0
    assert run(Claim(moved, claim.source, claim.capture), capsys)["state"] == "AlreadyRestored"


def test_leftovers_of_a_killed_run_are_removed(claim: Claim, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (".v4-with-mtp.whole", "..v4-with-mtp.whole.77"):
        (claim.folder / name).mkdir()
        (claim.folder / name / "half").touch()
    run(claim, capsys)
    assert claim.names() == {"v4", "v4-with-mtp", ".v4-with-mtp.lock"}
