"""Wakes tasks of this process by what Postgres notifies: one connection and one channel for all of them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from image_registry.storage.database import Database

log = logging.getLogger(__name__)

SWEEP = 15.0  # seconds after which everybody is woken without a notice: a net below what may have been lost


class Notices:
    """An async context manager: within it the channel is listened to, again and again if the connection breaks."""

    def __init__(self, db: Database, channel: str) -> None:
        self._db = db
        self._channel = channel
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Notices:
        """Begin to listen."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._sweep())]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextmanager
    def about(self, topic: str) -> Iterator[asyncio.Event]:
        """An event that is set by each notice with this payload, and whenever one may have been missed."""
        event = asyncio.Event()
        self._waiting.setdefault(topic, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[topic].discard(event)
            if not self._waiting[topic]:
                del self._waiting[topic]

    def wake_all(self) -> None:
        """Set every event."""
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            self.wake_all()

    async def _listen(self) -> None:
        while True:
            try:
                async with self._db.listen(self._channel) as payloads:
                    self.wake_all()  # whatever was said while nobody listened
                    async for topic in payloads:
                        for event in self._waiting.get(topic, ()):
                            event.set()
            except (psycopg.Error, OSError) as error:
                cause = (str(error).splitlines() or [type(error).__name__])[0]
                log.warning("no notices on %s for now: %s", self._channel, cause)
            await asyncio.sleep(random.uniform(0.2, 0.6))  # noqa: S311
