"""Log lines of LUMOS's own processes, as text or as JSON, one object per line.

Facts are passed with a record as ``extra={"facts": {...}}``: text lines end with them as
``key=value``, JSON lines hold them as keys. Of exceptions only the type is logged, because their
texts may quote paths, titles or histories; a node keeps text and traceback in its own ``node.log``.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any

from lumos_core.config import LogFormat, LogLevel

NODE_LOG = "node.log"
"""In a node's state folder: texts and tracebacks of its errors, for its owner alone."""
PACKAGES = ("lumos_core", "server_app", "client_app")
"""Loggers that :func:`configure` sets up; Flower's keep their own format."""


def configure(
    log_format: LogFormat = "text",
    level: LogLevel = "info",
    stream: IO[str] | None = None,
    others: Sequence[str] = (),
) -> None:
    """Send the log of LUMOS's packages to ``stream`` (standard error by default).

    Args:
        log_format: text or json.
        level: of LUMOS's packages.
        stream: where to.
        others: loggers of libraries whose warnings and errors are written in the same way, so that
            no exception of theirs appears with its text.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    for name in (*PACKAGES, *others):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper() if name in PACKAGES else logging.WARNING)
        logger.propagate = False


class TextLines(logging.Formatter):
    """``2026-01-31 12:00:00,000 INFO server_app: round finished round=3 seconds=1.2``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        told = [f"{key}={value}" for key, value in {**_facts(record), **_error(record)}.items()]
        return " ".join([self._line(record), *told])

    def _line(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        return self.formatMessage(record)  # unlike format(), without tracebacks


class JsonLines(logging.Formatter):
    """``{"time": …, "level": "info", "logger": …, "message": …, facts…}``."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC)
        line = {
            **_facts(record),
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_error(record),
        }
        return json.dumps(line, ensure_ascii=False, default=str)


def _facts(record: logging.LogRecord) -> Mapping[str, Any]:
    facts = getattr(record, "facts", None)
    return facts if isinstance(facts, Mapping) else {}


def _error(record: logging.LogRecord) -> Mapping[str, str]:
    if record.exc_info and record.exc_info[0] is not None:
        return {"error": record.exc_info[0].__name__}
    return {}
