"""Lines of the log that leave together: one write for many."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TextIO


@contextmanager
def together() -> Iterator[None]:
    """What is logged in this block is written at its end, all at once; other threads wait with theirs. For short blocks
    without `await`."""
    with ExitStack() as stack:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):
                stack.enter_context(_held(handler))
        yield


@contextmanager
def _held(handler: logging.StreamHandler[TextIO]) -> Iterator[None]:
    handler.acquire()
    out, held = handler.stream, io.StringIO()
    handler.stream = held
    try:
        yield
    finally:
        handler.stream = out
        with suppress(OSError, ValueError):  # nobody reads it any more: no reason to end what was logged
            out.write(held.getvalue())
            out.flush()
        handler.release()
