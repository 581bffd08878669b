"""Logs as JSON lines on standard error: one set-up for every process of the engine pod.

Like the operator's and the labeller's, each line has `time`, `level`, `logger`, `event` and any other fields. Secrets
are removed.
"""

import json
import logging
from typing import Any

from flash_contracts.document import now
from flash_contracts.redaction import redact, redact_fields


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        level = record.levelname.lower()
        content = {"event": redact(record.getMessage()), **redact_fields(fields)}
        line = {"time": now(), "level": level, "logger": record.name, **content}
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


class Logger:
    """Logs an event with named fields: `log.info("engine started", pid=7)`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def info(self, event: str, **fields: Any) -> None:
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: Any) -> None:
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, **fields: Any) -> None:
        self._logger.error(event, extra={"fields": fields})


def set_up() -> None:
    """Call once, at the beginning of a process's entry point."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
