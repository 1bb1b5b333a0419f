"""Pages of images in name order: by key, so that each costs the same however deep it is.

A page with several conditions is read off the rarest of them: the names that meet it are taken in order from the index,
and each is looked up for the others. Which is the rarest is seen from the index too, right behind the page's position,
since Postgres' own estimates know neither the position nor which libraries go together. Conditions that are all common
and yet hardly ever meet would make that walk long. When the `FIRST` names have shown that the page won't be full
after `CANDIDATES`, the bitmaps of popular libraries say which images may meet them all; where those don't help, whole
lists are joined. Measurements are in docs/performance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg.rows import tuple_row

from image_registry import limits
from image_registry.models import LibraryFilter, ListedImage
from image_registry.requirements import library_key, version_key
from image_registry.storage import library_bitmaps
from image_registry.storage.database import Connection
from image_registry.storage.queries import load
from image_registry.storage.rows import present

SAMPLE = 500  # entries behind the position: the condition that gets farthest with as many names is the rarest
FIRST = 100  # names of the rarest condition that are looked up to see whether `CANDIDATES` would fill the page
CANDIDATES = 3_000  # names of the rarest condition that are looked up at most
FEW_IDS = 5_000  # of bitmaps, that are looked up sooner than as many names
MOST_IDS = 20_000  # of bitmaps, that are looked up sooner than lists are joined
_SQL = load("image_pages.sql")


async def page(
    conn: Connection, *, after: str, size: int, filters: Sequence[LibraryFilter]
) -> tuple[list[ListedImage], bool]:
    """Up to `size` images behind the name `after`, each meeting every filter, and whether there are more.

    The page ends before its definitions exceed `limits.PAGE_BYTES`, though not before its first image.
    """
    values: dict[str, Any] = {"after": after, "limit": size + 1, "bytes": limits.PAGE_BYTES}
    rows = await _rows(conn, [_condition(number, wanted, values) for number, wanted in enumerate(filters)], values)
    found = [image for image in rows[:size] if image.definition is not None]
    return found, len(rows) > len(found)


async def _rows(conn: Connection, conditions: list[_Condition], values: dict[str, Any]) -> list[ListedImage]:
    if not conditions:
        return await _fetch(conn, _SQL["all_images"], values)
    if len(conditions) == 1:
        return await _fetch(conn, _named(_list(conditions[0], "limit")), values)
    reached = await _reached(conn, conditions, values)
    conditions = sorted(conditions, key=lambda one: reached[one] or _THE_END, reverse=True)
    walk = _named(_looked_up(_list(conditions[0], "walked"), conditions[1:]))
    short = reached[conditions[0]] is None
    first = SAMPLE if short else FIRST
    rows = await _fetch(conn, walk, values | {"walked": first})
    if short or len(rows) == values["limit"]:
        return rows
    if len(rows) * CANDIDATES < values["limit"] * first:
        few = await _of_bitmaps(conn, conditions, values, FEW_IDS)
        if few is not None:
            return few
    rows = await _fetch(conn, walk, values | {"walked": CANDIDATES})
    if len(rows) == values["limit"]:
        return rows
    many = await _of_bitmaps(conn, conditions, values, MOST_IDS)
    return many if many is not None else await _fetch(conn, _named(_joined(conditions)), values)


async def _of_bitmaps(
    conn: Connection, conditions: Sequence[_Condition], values: dict[str, Any], most: int
) -> list[ListedImage] | None:
    """The page, from what bitmaps let through; None: that is more than `most` images, or there is no telling."""
    wanted = [(values["library" + one.number], values.get("version" + one.number)) for one in conditions]
    ids = await library_bitmaps.candidates(conn, wanted, most)
    if ids is None:
        return None
    return await _fetch(conn, _named(_looked_up(_fill("of_ids"), conditions)), values | {"ids": ids})


async def _fetch(conn: Connection, images: LiteralString, values: dict[str, Any]) -> list[ListedImage]:
    """Rows in binary (as text, bytes come twice as long), and as tuples: a thousand dicts take longer than the rest."""
    cursor = conn.cursor(binary=True, row_factory=tuple_row)
    await cursor.execute(_fill("page", images=images), values)
    return list(map(ListedImage._make, await cursor.fetchall()))


@dataclass(frozen=True, slots=True)
class _Condition:
    """One filter: its number, and what a row `l` of image_libraries must meet."""

    number: LiteralString
    sql: LiteralString


def _condition(number: int, wanted: LibraryFilter, values: dict[str, Any]) -> _Condition:
    """One filter as SQL; its values go into `values` under numbered names, never into the text."""
    place: LiteralString = _NUMBERS[number]
    values["library" + place] = library_key(wanted.name)
    condition: LiteralString = "l.library = %(library" + place + ")s"
    if wanted.version is not None:
        public, local = version_key(wanted.version)
        values["version" + place] = public
        condition += " and l.version = %(version" + place + ")s"
        if local:  # PEP 440: a wanted public version matches whatever local part an installed one has
            values["local" + place] = local
            condition += " and l.local = %(local" + place + ")s"
    return _Condition(place, condition)


async def _reached(
    conn: Connection, conditions: Sequence[_Condition], values: dict[str, Any]
) -> dict[_Condition, str | None]:
    """The SAMPLE-th name behind the position that meets each condition; None: fewer do."""
    statement: LiteralString = "select " + ", ".join(
        _fill("reach", condition=one.sql, number=one.number) for one in conditions
    )
    row = present(await (await conn.execute(statement, values | {"sample": SAMPLE - 1})).fetchone())
    return {one: row["reach" + one.number] for one in conditions}


def _named(names: LiteralString) -> LiteralString:
    return _fill("named_images", names=names)


def _list(condition: _Condition, limit: LiteralString) -> LiteralString:
    return _fill("list", condition=condition.sql, limit=limit)


def _looked_up(names: LiteralString, conditions: Sequence[_Condition]) -> LiteralString:
    lookups: LiteralString = " and ".join(_fill("lookup", condition=one.sql) for one in conditions)
    return _fill("looked_up", walked=names, lookups=lookups)


def _joined(conditions: Sequence[_Condition]) -> LiteralString:
    lists: LiteralString = " natural join ".join(
        _fill("whole_list", condition=one.sql, number=one.number) for one in conditions
    )
    return _fill("joined", lists=lists)


def _fill(name: str, **parts: LiteralString) -> LiteralString:
    statement = _SQL[name]
    for part, text in parts.items():
        statement = statement.replace(_PLACES[part], text)
    return statement


_PLACES: dict[str, LiteralString] = {
    "condition": "<condition>",
    "images": "<images>",
    "limit": "<limit>",
    "lists": "<lists>",
    "lookups": "<lookups>",
    "names": "<names>",
    "number": "<number>",
    "walked": "<walked>",
}
_THE_END = chr(0x10FFFF)  # behind every name
_NUMBERS: tuple[LiteralString, ...] = (
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19",
)  # fmt: skip
