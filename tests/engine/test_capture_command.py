"""flash-capture refuses what cannot work before an engine starts."""

from pathlib import Path

import pytest

from flash_engine.capture.__main__ import FAILED, main
from flash_engine.capture.prompts import prompts_of

GOOD = '{"prompt": "the quick brown fox"}\n'


def run(tmp_path: Path, prompts: str, *more: str) -> int:
    (tmp_path / "prompts.jsonl").write_text(prompts)
    (tmp_path / "model").mkdir(exist_ok=True)
    given = ["--model", str(tmp_path / "model"), "--prompts", str(tmp_path / "prompts.jsonl")]
    return main([*given, "--out", str(tmp_path / "out"), *more])


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("", "has no prompts"),
        ("\n \n", "has no prompts"),
        ("the quick brown fox", "line 1 is not a JSON object with `prompt`"),
        (GOOD + '{"text": "x"}', "line 2 is not a JSON object with `prompt`"),
        (GOOD + "\n[1]", "line 3 is not a JSON object with `prompt`"),
        ('{"prompt": 7}', "line 1: `prompt` is not a text"),
        ('{"prompt": " "}', "line 1: `prompt` is not a text"),
        ("[" * 100_000, "line 1 is not a JSON object with `prompt`"),
    ],
)
def test_prompts_that_are_none_are_named_by_line(
    prompts: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, prompts) == FAILED
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "missing.jsonl", tmp_path / "binary.jsonl"):
        (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe")
        assert main(["--model", str(tmp_path), "--prompts", str(path), "--out", str(tmp_path / "out")]) == FAILED
        assert f"{path} cannot be read" in capsys.readouterr().err


def test_a_folder_with_a_capture_is_not_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "capture-0.safetensors").write_bytes(b"kept")
    assert run(tmp_path, GOOD) == FAILED
    assert "already contains a capture" in capsys.readouterr().err
    assert (tmp_path / "out" / "capture-0.safetensors").read_bytes() == b"kept"


def test_outside_of_the_engines_image_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, GOOD) == FAILED
    assert "run flash-capture in the engine's image" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--tokens", "0"], ["--max-tokens", "-3"], ["--engine-args", "{"], ["--engine-args", "[1]"]]
)
def test_senseless_options_are_usage_errors(option: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path, GOOD, *option)


def test_a_repeated_prompt_is_asked_once(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(GOOD + '{"prompt": "jumps"}\n' + GOOD)
    assert prompts_of(tmp_path / "p.jsonl") == ["the quick brown fox", "jumps"]
