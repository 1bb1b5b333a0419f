"""Logging of the processes: to standard error, as text or as one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

from image_registry.registry.keys import SECRET_PART


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339), level, logger, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class CarefulHandler(logging.StreamHandler[TextIO]):
    """Writes no API key, wherever in a line or a traceback one stands: its prefix stays, the secret part goes."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, without secrets."""
        return SECRET_PART.sub("…", super().format(record))


def set_up_logging(form: str) -> None:
    """`form` is `console` or `json`."""
    handler = CarefulHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("psycopg.pool", "httpx", "grpc"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
