"""vLLM's own argument parser, its registries and its whole configuration, asked of argument lists."""

import contextlib
import io
import os
from typing import Any

from vllm_walk import fake_cuda

fake_cuda.install()

from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: E402 - after the platform

try:
    from vllm.entrypoints.common.cli_args import make_arg_parser, validate_parsed_serve_args

    RUNNER = "1"
except ModuleNotFoundError:  # vLLM 0.26
    from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args

    RUNNER = "0"
from vllm.reasoning import ReasoningParserManager  # noqa: E402
from vllm.tool_parsers import ToolParserManager  # noqa: E402
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402


def judge(arguments: list[str]) -> str | None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
            parsed = parser.parse_args(arguments[1:])
            validate_parsed_serve_args(parsed)
    except SystemExit:
        return said.getvalue().strip().rpartition("\n")[2]
    try:
        parsed.model = parsed.model_tag
        require_registered(parsed.tool_call_parser, ToolParserManager.list_registered())
        require_registered(parsed.reasoning_parser, ReasoningParserManager.list_registered())
        AsyncEngineArgs.from_cli_args(parsed).create_engine_config()
    except Exception as error:  # noqa: BLE001 - whatever vLLM raises is the answer
        return f"{type(error).__name__}: {error}"
    return None


def require_registered(name: str | None, registered: list[str]) -> None:
    """vLLM itself looks up the name only at the first request that needs it."""
    if name and name not in registered:
        raise KeyError(f"no parser is named {name}")


def options(_asked: dict[str, Any]) -> list[str]:
    """Every option of `vllm serve`, in every spelling but abbreviations."""
    return sorted(make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))._option_string_actions)  # noqa: SLF001


def judge_all(asked: dict[str, Any]) -> list[str | None]:
    """Of each list in `arguments`, as it follows `vllm`: None, or why it is not taken."""
    # The second runner, as where Triton is; DSpark needs it. 0.26 does not even look at it without Triton.
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = RUNNER
    return [judge(one) for one in asked["arguments"]]
