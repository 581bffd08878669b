"""Recognises log lines about users' requests, which are never quoted and never count as the cause of an exit.

A request's text gets into an engine's log by `--enable-log-requests`, by debug logs, and by errors that quote what they
reject. Without this, anybody who sends requests could write the text of a verdict.
"""

import re

from flash_engine.engine_log.line import LogLine

WITHHELD = "[text of a request withheld]"

_SOURCE = re.compile(
    r"(?:^|/)(?:serving\w*|\w*tool_?parser\w*|\w*reasoning\w*|\w*renderer\w*|logger|request_logger|chat_utils|protocol"
    r"|preprocess\w*|input_processor|processor|dump_input|harmony_utils|api_router|error_response|exception_handlers?"
    r"|server_utils|structured_outputs?|sampling_params|detokenizer)\.py$"
)
"""Files of vLLM that work on single requests."""

_BEGINS = re.compile(
    r"(?:Received request|Generated response|Request \S+ (?:details|failed|dropped|aborted)"
    r"|Error in (?:preprocessing|chat|completion|extracting|trying|streaming|handling)|Added request|Aborted request"
    r"|response_body)\b|Exception in ASGI application",
    re.IGNORECASE,
)
_ACCESS = re.compile(r'^\S+ - "(?:GET|POST|PUT|HEAD|OPTIONS|DELETE|PATCH) (\S*) HTTP/')
_QUOTES = re.compile(
    r"\b(prompt|prompts|prompt_token_ids|messages|content|input_value|output|output_token_ids|input_text|text|body"
    r"|token_ids|query)(['\"]?\s*[:=]\s*)(?=[\[{(]|b?['\"])(.*)",
    re.DOTALL,
)
_OPEN_QUOTE = re.compile(
    r"\b(?:prompt|output|content|text|messages)\b['\"]?\s*[:=]\s*(['\"])(?!.*\1\s*(?:[,)}\]]|$))", re.DOTALL
)


def is_about_a_request(line: LogLine) -> bool:
    return bool(_SOURCE.search(line.source) or _BEGINS.match(line.text) or _ACCESS.match(line.text))


def goes_on_below(line: LogLine) -> bool:
    """Whether the lines below may belong to a request, although they have no prefix.

    Uvicorn prints the traceback of a failed request like this, and a prompt may have several lines.
    """
    if "Exception in ASGI application" in line.text:
        return True
    return is_about_a_request(line) and bool(_OPEN_QUOTE.search(line.text))


def without_user_text(raw: str, line: LogLine, *, of_a_request: bool) -> str:
    """The line without users' text, safe to keep. `raw` is the whole line, with its prefixes."""
    if of_a_request:
        access = _ACCESS.match(line.text)
        if access:
            return raw.replace(access[1], access[1].partition("?")[0])
        known = _BEGINS.match(line.text)
        prefix = raw[: max(0, raw.find(line.text))]
        return f"{prefix}{known[0] + ' ' if known else ''}{WITHHELD}"
    return without_quotes(raw)


def without_quotes(text: str) -> str:
    """The text without the values of fields that contain a request's text, such as `prompt: '...'`."""
    return _QUOTES.sub(lambda found: f"{found[1]}{found[2]}{WITHHELD}", text)
