"""Keeping the bitmaps of popular libraries up to date: by every worker, one at a time."""

from __future__ import annotations

import logging

from image_registry.storage import library_bitmaps
from image_registry.storage.database import Connection, Database

log = logging.getLogger(__name__)

LONG_LOG = 500  # entries; every page that bitmaps are needed for looks all of them up
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
