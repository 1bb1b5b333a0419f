"""Fills a registry's database with sample images by COPY: `python -m benchmarks.load --images 1000000 --dsn …`.

The tables must be empty. One process for each core makes rows and copies them; indexes are dropped before and made
again after, which is several times faster than keeping them. A load that was broken off leaves a database without them:
drop it and begin anew. A server whose `max_wal_size` is some gigabytes loads a million faster.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cache
from itertools import islice
from multiprocessing import get_context

import psycopg
from psycopg import sql

from benchmarks import data
from benchmarks.console import say
from image_registry.registry import library_bitmaps
from image_registry.requirements import version_key
from image_registry.storage import migrations
from image_registry.storage.database import Database

PART = 5_000  # images that are copied in one transaction
SAY_EVERY = 10.0  # seconds between two lines about the progress


def fill(dsn: str, images: int, libraries: int = 60, processes: int | None = None) -> None:
    """Bring an empty database to the current schema and fill it, with as many processes as there are cores."""
    asyncio.run(migrations.migrate(dsn, lambda _: None))
    with psycopg.connect(dsn, autocommit=True) as conn:
        _refuse_used(conn)
        base = _system_image(conn)
        progress = _Progress(images)
        with _without_indexes(conn, progress):
            _copy_all(dsn, images, libraries, base, processes or os.cpu_count() or 1, progress)
        progress.say("looking over all of it (vacuum, analyze)")
        conn.execute("vacuum (analyze)")
        progress.say("making the bitmaps of popular libraries")
        make_bitmaps(dsn)
        conn.execute("checkpoint")


def make_bitmaps(dsn: str) -> None:
    """Do at once what workers do in time for lists of images that hardly ever meet."""

    async def make() -> None:
        db = Database(dsn, size=1, wait=30, statement_timeout=60)
        await db.open()
        try:
            while await library_bitmaps.tend(db, long_log=1):
                pass
        finally:
            await db.close()

    asyncio.run(make())


class _Progress:
    """Lines about a load, none for one that is done in no time."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._copied = 0
        self._began = self._said = time.monotonic()

    def copied(self, images: int) -> None:
        self._copied += images
        now = time.monotonic()
        if now - self._said > SAY_EVERY:
            self._said = now
            rate = self._copied / (now - self._began)
            self.say(f"{self._copied:,} of {self._images:,} images copied, {rate:,.0f} a second")

    def say(self, text: str) -> None:
        seconds = time.monotonic() - self._began
        if seconds > SAY_EVERY:
            say(f"  {seconds:4.0f} s: {text}")


def _refuse_used(conn: psycopg.Connection) -> None:
    row = conn.execute("select exists (select from images)").fetchone()
    if row is None or row[0]:
        raise SystemExit("the database holds images already: give an empty one")


def _system_image(conn: psycopg.Connection) -> int:
    row = conn.execute(
        "insert into images (name, role, status, python_version, platform_tag, definition)"
        " values (%s, 1, 3, %s, 'v1', '') returning id",
        [data.SYSTEM_IMAGE, data.PYTHON],
    ).fetchone()
    assert row is not None  # noqa: S101
    return int(row[0])


def _copy_all(dsn: str, images: int, libraries: int, base: int, processes: int, progress: _Progress) -> None:
    parts = [(dsn, images, libraries, base, first) for first in range(0, images, PART)]
    if min(processes, len(parts)) == 1:
        for part in parts:
            progress.copied(_copy(*part))
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_copy, *part) for part in parts]):
            progress.copied(done.result())


def _copy(dsn: str, images: int, libraries: int, base: int, first: int) -> int:
    """Copy PART images from number `first` on; returns how many there were."""
    found = list(islice(data.samples(images, libraries, first=first), PART))
    with psycopg.connect(dsn) as conn, conn.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")  # no triggers: what is loaded keeps their rules anyway
        cursor.execute("set synchronous_commit = off")  # the checkpoint at the end makes all of it durable
        with cursor.copy(
            "copy images (name, role, status, python_version, platform_tag, base_image_id,"
            " definition, library_count) from stdin"
        ) as rows:
            rows.write("".join([_image_row(sample, base) for sample in found]))
        with cursor.copy("copy image_libraries (library, image_name, version) from stdin") as rows:
            rows.write(
                "".join([f"{one}\t{sample.name}\t{_key(v)}\n" for sample in found for one, v in sample.libraries])
            )
    return len(found)


def _image_row(sample: data.Sample, base: int) -> str:
    definition = "\\\\x" + sample.definition().hex()
    return f"{sample.name}\t2\t3\t{data.PYTHON}\tv1\t{base}\t{definition}\t{len(sample.libraries)}\n"


@cache
def _key(version: str) -> str:
    return version_key(version)[0]


@contextmanager
def _without_indexes(conn: psycopg.Connection, progress: _Progress) -> Iterator[None]:
    """Drop what is dear to keep up to date: all but the keys of `images`. Make it again, with all cores."""
    keys = conn.execute(
        "select conname, pg_get_constraintdef(oid) from pg_constraint"
        " where conrelid = 'image_libraries'::regclass and contype = 'p'"
    ).fetchall()
    indexes = conn.execute(
        "select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index"
        " where indrelid in ('images'::regclass, 'image_libraries'::regclass) and not indisunique"
    ).fetchall()
    table = sql.SQL("alter table image_libraries")
    for key, _ in keys:
        conn.execute(table + sql.SQL(" drop constraint {}").format(sql.Identifier(key)))
    for index, _ in indexes:
        conn.execute(sql.SQL("drop index {}").format(sql.Identifier(index)))
    yield
    conn.execute("set maintenance_work_mem = '2GB'")
    conn.execute(f"set max_parallel_maintenance_workers = {(os.cpu_count() or 2) - 1}")
    for key, definition in keys:
        progress.say(f"making {key}")
        conn.execute(table + sql.SQL(" add constraint {} ").format(sql.Identifier(key)) + sql.SQL(definition))
    for index, definition in indexes:
        progress.say(f"making {index}")
        conn.execute(definition)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--libraries", type=int, default=60)
    parser.add_argument("--processes", type=int, help="that make rows [one for each core]")
    parser.add_argument("--dsn", required=True, help="an empty database")
    chosen = parser.parse_args()
    began = time.monotonic()
    fill(chosen.dsn, chosen.images, chosen.libraries, chosen.processes)
    say(f"{chosen.images:,} images with {chosen.libraries} libraries each in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
