"""Reads the file of prompts."""

import json
from pathlib import Path

from flash_engine.errors import EngineError


def prompts_of(path: Path) -> list[str]:
    """The distinct texts of a file of JSON lines, each with a text under `prompt`.

    A repeated prompt could be used for both calibration and evaluation. Raises EngineError naming the line.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"{path} cannot be read ({error})") from error
    prompts = [_prompt_of(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise EngineError(f"{path} has no prompts", 'write one JSON object per line, such as {"prompt": "Hello"}')
    return list(dict.fromkeys(prompts))


def _prompt_of(line: str, where: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EngineError(
            f"{where} is not a JSON object with `prompt`", 'each line must be like {"prompt": "Hello"}'
        ) from error
    if not isinstance(prompt, str) or not prompt.strip():
        raise EngineError(f"{where}: `prompt` is not a text", 'each line must be like {"prompt": "Hello"}')
    return prompt
