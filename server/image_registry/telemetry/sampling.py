"""Readings that have to be awaited, for threads that ask for them: made at most every so often, in the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent import futures
from typing import Generic, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)

LONGEST_READ = 3.0  # seconds; a scrape waits no longer


class Sampler(Generic[T]):
    """Keeps what `read` returned for `keep` seconds. Make it in the event loop that `read` is to run in."""

    def __init__(self, read: Callable[[], Awaitable[T]], keep: float) -> None:
        self._read = read
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._last: T | None = None
        self._until = 0.0

    def latest(self) -> T | None:
        """The reading, at most `keep` seconds old; None: it can't be had. For other threads than the loop's."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._last = self._fresh()
                self._until = time.monotonic() + self._keep
            return self._last

    def _fresh(self) -> T | None:
        reading = self._bounded()
        try:
            return asyncio.run_coroutine_threadsafe(reading, self._loop).result(LONGEST_READ + 1)
        except RuntimeError:  # the loop has ended
            reading.close()
            return None
        except (futures.TimeoutError, futures.CancelledError):  # the latter while the loop ends
            return None

    async def _bounded(self) -> T | None:
        try:
            async with asyncio.timeout(LONGEST_READ):
                return await self._read()
        except Exception as error:  # noqa: BLE001 (a scrape without this reading is better than none)
            log.debug("a reading for the metrics failed: %s", error)
            return None
