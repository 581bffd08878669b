"""Kept folders are complete and built once per content, and a failure is one sentence."""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from image_builder.debian import SetupError
from torch_environments.installing import run
from torch_environments.kept import IN_USE, Kept, ensure
from waiting import eventually

KEY = "0123456789abcdef"


def a_kept(make: Callable[[Path], None], key: str = KEY) -> Kept:
    return Kept("torch-trial", key, make)


def write_one_file(folder: Path) -> None:
    (folder / "file").write_text("whole")


def no_more(_folder: Path) -> None:
    raise AssertionError("it was there")


def test_an_existing_folder_is_kept_and_marked_as_used(tmp_path: Path) -> None:
    ensure(tmp_path, [a_kept(write_one_file)])
    folder = a_kept(no_more).folder(tmp_path)
    os.utime(folder, (1, 1))
    ensure(tmp_path, [a_kept(no_more)])
    assert (folder / "file").read_text() == "whole"
    assert folder.stat().st_mtime > 1


def test_other_content_is_another_folder(tmp_path: Path) -> None:
    ensure(tmp_path, [a_kept(write_one_file), a_kept(write_one_file, "f" * 16)])
    assert len([*tmp_path.glob("torch-trial-*/file")]) == 2


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write_one_file(folder)
        raise SetupError("no such package")

    with pytest.raises(SetupError, match="no such package"):
        ensure(tmp_path, [a_kept(fail)])
    assert [path.name for path in tmp_path.iterdir()] == [".torch.lock"]


def test_a_folder_left_by_a_killed_run_is_rebuilt(tmp_path: Path) -> None:
    half = tmp_path / f".torch-trial-{KEY}.part"
    half.mkdir()
    (half / "half").touch()

    ensure(tmp_path, [a_kept(write_one_file)])
    assert [path.name for path in a_kept(no_more).folder(tmp_path).iterdir()] == ["file"]
    assert not half.exists()


def test_two_at_once_make_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began, go_on = threading.Event(), threading.Event()
    made: list[Path] = []
    said: list[str] = []

    def printed() -> str:
        said.append(capsys.readouterr().err)
        return "".join(said)

    def slowly(folder: Path) -> None:
        made.append(folder)
        began.set()
        assert go_on.wait(60)
        write_one_file(folder)

    runs = [threading.Thread(target=ensure, args=(tmp_path, [a_kept(slowly)])) for _ in range(2)]
    runs[0].start()
    assert began.wait(60)
    runs[1].start()
    eventually(lambda: "waiting" in printed() or None, "word of waiting")
    go_on.set()
    for one in runs:
        one.join()
    assert printed() == f"  another run is making environments in {tmp_path}; waiting for it ...\n"
    assert len(made) == 1


def test_the_two_last_used_stay_and_what_another_checkout_may_be_using(tmp_path: Path) -> None:
    now = time.time()
    ages = {"a" * 16: 3 * IN_USE, "b" * 16: 2 * IN_USE, "c" * 16: IN_USE / 2}
    for key, age in ages.items():
        ensure(tmp_path, [a_kept(write_one_file, key)])
        os.utime(a_kept(no_more, key).folder(tmp_path), (now - age, now - age))
    other = tmp_path / f"torch-trial-of-another-kind-{'d' * 16}"
    other.mkdir()
    os.utime(other, (1, 1))

    ensure(tmp_path, [a_kept(write_one_file)])
    left = {path.name.removeprefix("torch-trial-") for path in tmp_path.glob("torch-*")}
    assert left == {KEY, "c" * 16, other.name.removeprefix("torch-trial-")}


def test_a_full_disk_is_a_sentence_that_says_what_helps(tmp_path: Path) -> None:
    def full(_folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SetupError, match=r"^The disk of \S+ is full: .* set FLASH_CACHE .*$"):
        ensure(tmp_path, [a_kept(full)])


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"^The environments for tests cannot be made in \S+/file: .*$"):
        ensure(tmp_path / "file", [a_kept(no_more)])


# As uv 0.13 says it.
UNREACHABLE = """error: Failed to fetch: `https://registry.invalid/simple/torch/`
  cause: Request failed after 3 retries
  cause: error sending request for url (https://registry.invalid/simple/torch/)
  cause: client error (Connect)
  cause: dns error
  cause: failed to lookup address information: Temporary failure in name resolution
"""
FULL = """error: Failed to install: torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (torch==2.13.0)
  cause: failed to copy file from a to b: No space left on device (os error 28)
"""
OTHER = "error: Hash mismatch for `einops==0.8.2`\n"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            UNREACHABLE,
            "The package registry cannot be reached (failed to lookup address information: Temporary failure in ",
        ),
        (FULL, "The disk of CACHE is full: "),
        (OTHER, "error: Hash mismatch for `einops==0.8.2`\n`sh -c "),
        ("", "\n`sh -c "),
    ],
)
def test_a_failed_program_is_reported_in_one_sentence(said: str, message: str) -> None:
    command = ["sh", "-c", f"cat <<'END'\n{said}END\nexit 2"]
    with pytest.raises(SetupError) as caught:
        run(Path("CACHE"), command)
    assert str(caught.value).startswith(message)


def test_a_program_that_succeeds_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    run(Path("CACHE"), ["sh", "-c", "echo much; echo more >&2"])
    assert capfd.readouterr() == ("", "")


def test_a_program_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    """Otherwise it would write into a folder that the next run cleans up."""
    message = tmp_path / "pid"
    command = ["sh", "-c", f"echo $$ > {message}.part; mv {message}.part {message}; exec sleep 300"]
    code = f"from pathlib import Path; from torch_environments.installing import run; run(Path(), {command!r})"
    with subprocess.Popen([sys.executable, "-c", code]) as one:
        eventually(lambda: message.exists() or None, "the program")
        one.kill()
    program = Path("/proc", message.read_text().strip())
    eventually(lambda: not program.exists() or None, "its end")
    assert not program.exists()
