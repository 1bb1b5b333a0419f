"""Fills a registry's database with sample images by COPY: `python -m benchmarks.load --images 1000000 --dsn …`.

The tables must be empty. One process for each core makes rows and copies them; the indexes of the libraries are dropped
before and made again after, which is several times faster than keeping them. A load that was broken off leaves a
database without them: drop it and begin anew.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import islice
from multiprocessing import get_context

import psycopg
from psycopg import sql

from benchmarks import data
from image_registry.requirements import version_key
from image_registry.storage import migrations

PART = 5_000  # images that are copied in one transaction


def fill(dsn: str, images: int, libraries: int = 60, processes: int | None = None) -> None:
    """Bring an empty database to the current schema and fill it, with as many processes as there are cores."""
    asyncio.run(migrations.migrate(dsn, lambda _: None))
    with psycopg.connect(dsn, autocommit=True) as conn:
        _refuse_used(conn)
        base = _system_image(conn)
        with _without_indexes(conn, "image_libraries"):
            _copy_all(dsn, images, libraries, base, processes or os.cpu_count() or 1)
        conn.execute("vacuum (analyze)")
        conn.execute("checkpoint")


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


def _copy_all(dsn: str, images: int, libraries: int, base: int, processes: int) -> None:
    parts = [(dsn, images, libraries, base, first) for first in range(0, images, PART)]
    if min(processes, len(parts)) == 1:
        for part in parts:
            _copy(*part)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(_copy, *part) for part in parts]:
            done.result()


def _copy(dsn: str, images: int, libraries: int, base: int, first: int) -> None:
    """Copy PART images from number `first` on."""
    found = list(islice(data.samples(images, libraries, first=first), PART))
    with psycopg.connect(dsn) as conn, conn.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")  # no triggers: what is loaded keeps their rules anyway
        cursor.execute("set synchronous_commit = off")  # the checkpoint at the end makes all of it durable
        with cursor.copy(
            "copy images (name, role, status, python_version, platform_tag, base_image_id,"
            " definition, library_count) from stdin"
        ) as rows:
            for sample in found:
                definition = "\\\\x" + sample.definition().hex()
                rows.write(f"{sample.name}\t2\t3\t{data.PYTHON}\tv1\t{base}\t{definition}\t{len(sample.libraries)}\n")
        with cursor.copy("copy image_libraries (library, image_name, version) from stdin") as rows:
            for sample in found:
                rows.write("".join(f"{one}\t{sample.name}\t{_key(version)}\n" for one, version in sample.libraries))


@cache
def _key(version: str) -> str:
    return version_key(version)[0]


@contextmanager
def _without_indexes(conn: psycopg.Connection, table: str) -> Iterator[None]:
    """Drop the table's keys and indexes, and make them again."""
    keys = conn.execute(
        "select conname, pg_get_constraintdef(oid) from pg_constraint where conrelid = %s::regclass and contype = 'p'",
        [table],
    ).fetchall()
    indexes = conn.execute(
        "select indexrelid::regclass::text, pg_get_indexdef(indexrelid) from pg_index"
        " where indrelid = %s::regclass and not indisprimary",
        [table],
    ).fetchall()
    for key, _ in keys:
        conn.execute(sql.SQL("alter table {} drop constraint {}").format(sql.Identifier(table), sql.Identifier(key)))
    for index, _ in indexes:
        conn.execute(sql.SQL("drop index {}").format(sql.Identifier(index)))
    yield
    conn.execute("set maintenance_work_mem = '1GB'")
    for key, definition in keys:
        statement = sql.SQL("alter table {} add constraint {} ").format(sql.Identifier(table), sql.Identifier(key))
        conn.execute(statement + sql.SQL(definition))
    for _, definition in indexes:
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
    print(f"{chosen.images} images with {chosen.libraries} libraries each in {time.monotonic() - began:.0f} s")  # noqa: T201


if __name__ == "__main__":
    main()
