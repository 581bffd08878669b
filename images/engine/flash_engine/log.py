"""Logs as JSON lines on standard error: one set-up for every process of the engine pod.

Each line has `time`, `level`, `logger` and `event`, as the operator's and the labeller's have, and any other fields.
Secrets are left out.
"""

import json
import logging
from typing import Any

from flash_contracts.document import now
from flash_contracts.redaction import redact, redact_fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        level = record.levelname.lower()
        said = {"event": redact(record.getMessage()), **redact_fields(fields)}
        line = {"time": now(), "level": level, "logger": record.name, **said}
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


class Logger:
    """Named fields beside the event: `log.info("engine started", pid=7)`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def info(self, event: str, **fields: Any) -> None:
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: Any) -> None:
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, **fields: Any) -> None:
        self._logger.error(event, extra={"fields": fields})


def set_up() -> None:
    """Call once, first of all, in a process's entry point."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
