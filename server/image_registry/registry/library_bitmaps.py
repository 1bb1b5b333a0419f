"""Keeping the bitmaps of popular libraries up to date: by every worker, one at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable

from image_registry.storage import library_bitmaps
from image_registry.storage.database import Connection, Database
from image_registry.storage.library_bitmaps import Lag
from image_registry.telemetry import catalogue
from image_registry.telemetry.metrics import Reading, Source
from image_registry.telemetry.sampling import Sampler

log = logging.getLogger(__name__)

LONG_LOG = 500  # entries; every page that bitmaps are needed for looks all of them up
KEEP = 5.0  # seconds; scrapes of several Prometheus servers cost one look
SURVEY_PAUSE = 30.0  # seconds between two looks at some libraries, whether they have become popular


async def tend(db: Database, *, long_log: int = LONG_LOG) -> bool:
    """Bring the bitmaps up to date, and make some of libraries that have become popular; whether there is more to do.

    Pages are right at any time without it, but some get slower.
    """

    async def work(conn: Connection) -> tuple[list[str], bool]:
        if not await library_bitmaps.hold(conn):
            return [], False
        folded = await library_bitmaps.fold(conn, long_log)
        mapped, more = await library_bitmaps.survey(conn, SURVEY_PAUSE)
        return mapped, folded or more

    mapped, more = await db.write(work)
    if mapped:
        log.info("popular libraries have bitmaps now: %s", ", ".join(mapped))
    return more


async def lag(db: Database) -> Lag:
    """How far the bitmaps are behind."""
    return await db.read(lambda conn: library_bitmaps.lag(conn, LONG_LOG))


def bitmap_readings(db: Database) -> list[Source]:
    """What the metrics say about the bitmaps; without the database they say nothing."""
    sampler = Sampler(lambda: lag(db), KEEP)

    def source(read: Callable[[Lag], float]) -> Callable[[], Reading]:
        def look() -> Reading:
            found = sampler.latest()
            return {} if found is None else {(): read(found)}

        return look

    return [
        (catalogue.BITMAPS_BEHIND, source(lambda found: found.builds)),
        (catalogue.BITMAPS_OVERDUE, source(lambda found: found.overdue)),
    ]
