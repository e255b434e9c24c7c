"""Structured logs: one JSON object a line, with the request or job that a line belongs to and without secrets.

Every process writes to standard output; what collects it there is the deployment's business.
"""

import json
import logging
import logging.config
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request that the running code serves."""
job_id: ContextVar[str | None] = ContextVar("job_id", default=None)
"""The job that the running code works for."""

_SECRETS = (
    (re.compile(r"tm_[A-Za-z0-9_-]{8,}"), "tm_***"),
    (re.compile(r"(?i)\b(bearer\s+|token=|password=|secret=|signature=)[^\s&\"',;]+"), r"\1***"),
    (re.compile(r"(://[^\s:/@]*):[^\s@/]+@"), r"\1:***@"),  # a password within a URL
)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


def without_secrets(text: str) -> str:
    """`text` with bearer tokens, sign-in links' tokens and passwords in URLs blotted out."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


@contextmanager
def working_for_job(id: object) -> Iterator[None]:
    """Name the job in every line that this thread or coroutine logs inside the block."""
    reset = job_id.set(str(id))
    try:
        yield
    finally:
        job_id.reset(reset)


class JsonFormatter(logging.Formatter):
    """One line of JSON: time, level, logger, message, request_id, job_id, what `extra=` gave, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, variable in (("request_id", request_id), ("job_id", job_id)):
            if (value := variable.get()) is not None:
                line[name] = value
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # blotted out after the encoding: no field can slip a secret past it
        return without_secrets(json.dumps(line, default=str, ensure_ascii=False))


def logging_config(level: str = "INFO") -> dict[str, Any]:
    """The `logging.config` of every process; the web server takes it as it is."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "app.logs.JsonFormatter"}},
        "handlers": {"stdout": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "json"}},
        "root": {"level": level, "handlers": ["stdout"]},
        "loggers": {
            "httpx": {"level": "WARNING"},
            "alembic": {"level": "WARNING"},
        },
    }


def configure_logging(level: str = "INFO") -> None:
    """Send this process's logs to standard output as JSON."""
    logging.config.dictConfig(logging_config(level))
