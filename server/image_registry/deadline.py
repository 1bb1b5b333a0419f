"""The deadline of the call under way: set by the API, honoured by the storage, passed through no signature between."""

from __future__ import annotations

import time
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def set_remaining(seconds: float | None) -> None:
    """Bound what this task does from here on; None: unbounded."""
    _deadline.set(None if seconds is None else time.monotonic() + seconds)


def remaining() -> float | None:
    """Seconds left (negative when over); None: unbounded."""
    deadline = _deadline.get()
    return None if deadline is None else deadline - time.monotonic()
