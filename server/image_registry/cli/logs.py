"""Logging of the processes: to standard error, as text or as one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import TextIO

from image_registry.registry.keys import without_secrets
from image_registry.telemetry import fields, tracing

_SHOWN = frozenset({"request_id", "caller", "via", "job", "image", "attempt"})  # on the console; JSON has all fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339), level, logger, message, the fields of the call or job that it is about,
    the trace that it belongs to, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields.bound(),
            **getattr(record, "fields", {}),
        }
        if traceparent := tracing.traceparent():
            entry["trace_id"], entry["span_id"] = traceparent.split("-")[1:3]
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class ConsoleFormatter(logging.Formatter):
    """A line of text: time of day, level, logger, message; what identifies the call or job stands at its end."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        text, newline, rest = record.getMessage().partition("\n")
        known = {**fields.bound(), **getattr(record, "fields", {})}
        named = " ".join([f"{name}={value}" for name, value in known.items() if name in _SHOWN and value != ""])
        end = f"  [{named}]" if named else ""
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        time_of_day = _time_of_day(int(record.created))
        return f"{time_of_day} {record.levelname:<7} {record.name}: {text}{end}{newline}{rest}{trace}"


@lru_cache(2)
def _time_of_day(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))


class CarefulHandler(logging.StreamHandler[TextIO]):
    """Writes no API key, wherever in a line or a traceback one stands: its prefix stays, the secret part goes."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, without secrets."""
        return without_secrets(super().format(record))


def set_up_logging(form: str) -> None:
    """`form` is `console` or `json`."""
    handler = CarefulHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(ConsoleFormatter())
    # No line says where in the code it was written, nor by which thread or process: finding out costs half a line.
    logging._srcfile = None  # noqa: SLF001 (as the logging HOWTO, "Optimization", has it)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("psycopg.pool", "httpx", "grpc", "opentelemetry"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
