"""The best READY images that hold a whole set of libraries, extras and system packages, at any number of images.

A range of versions becomes the list of those present versions that lie in it; then everything is a search in the index
of `image_libraries`. Whatever way is taken, the answer is the same:

- Something is rare (fewer than `LISTED` images hold it): its list is short, each image in it is looked up for the rest.
- All of it is common: images are looked at in the order of the best, which ends soon, for many hold it all.
- All of it is common, yet seldom together: after `WALKED` images the two rarest lists are intersected instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import DictRow

from image_registry.storage.database import Connection
from image_registry.storage.queries import load

LISTED = 3_000  # images that hold the rarest, up to which its list is gone through
COUNTED = 60_000  # index entries that are read to find the rarest
LEAST_COUNTED = 100  # of each, however many are wanted
WALKED = 3_000  # images that are looked at in the order of the best
_SQL = load("image_finder.sql")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key of `findable.py` and which of its versions fit; None: any does.

    `fits` is asked about versions as they are kept, public and local part. With `binds_local` it looks at the local
    part, which PEP 440 otherwise leaves out of account.
    """

    key: str
    fits: Callable[[str, str], bool] | None = None
    binds_local: bool = False


@dataclass(frozen=True, slots=True)
class _Condition:
    key: str
    versions: str | None = None
    exact: str | None = None


async def find(conn: Connection, wanted: Sequence[Wanted], *, python_version: str, limit: int) -> list[DictRow]:
    """`definition` and `status` of up to `limit` READY images that hold everything, the best first."""
    conditions = await _conditions(conn, wanted)
    if conditions is None:
        return []
    enough = max(LEAST_COUNTED, min(LISTED, COUNTED // len(conditions)))
    rarest, conditions = await _rarest_first(conn, conditions, enough)
    values = _values(conditions) | {"python_version": python_version, "limit": limit}
    if rarest < enough:
        return await _run(conn, "from_list", values | {"listed": 1})
    least = sum("[" not in one.key and ":" not in one.key for one in conditions)  # distinct libraries
    found = await _run(conn, "walked", values | {"least": least, "walked": WALKED, "listed": 0})
    return found if len(found) == limit else await _run(conn, "joined", values | {"listed": 2})


async def _rarest_first(conn: Connection, conditions: list[_Condition], enough: int) -> tuple[int, list[_Condition]]:
    """How many images meet the rarest, counted no further than `enough`, and all of them in that order.

    Those that reach `enough` are in the order of the planner's statistics. These may be old: only time hangs on them.
    """
    counts = {
        row["number"] - 1: int(row["holders"])
        for row in await _run(conn, "holders", _values(conditions) | {"enough": enough})
    }
    keys = [one.key for number, one in enumerate(conditions) if counts[number] == enough]
    shares = {row["key"]: float(row["share"]) for row in (await _run(conn, "shares", {"keys": keys}) if keys else ())}
    order = sorted(counts, key=lambda number: (counts[number], shares.get(conditions[number].key, 0.0)))
    return counts[order[0]], [conditions[number] for number in order]


async def _conditions(conn: Connection, wanted: Sequence[Wanted]) -> list[_Condition] | None:
    """What is wanted with the present versions that fit; None: of something, none does."""
    plain = await _present(conn, "versions", [one.key for one in wanted if one.fits and not one.binds_local])
    local = await _present(conn, "local_versions", [one.key for one in wanted if one.binds_local])
    conditions = []
    for one in wanted:
        if one.fits is None:
            conditions.append(_Condition(one.key))
            continue
        fitting = [pair for pair in (local if one.binds_local else plain).get(one.key, ()) if one.fits(*pair)]
        if not fitting:
            return None
        versions = " ".join(dict.fromkeys(public for public, _ in fitting))
        exact = " ".join(f"{public}+{local_part}" for public, local_part in fitting) if one.binds_local else None
        conditions.append(_Condition(one.key, versions, exact))
    return conditions


async def _present(conn: Connection, statement: str, keys: list[str]) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for row in await _run(conn, statement, {"keys": keys}) if keys else ():
        found.setdefault(row["key"], []).append((row["version"], row.get("local", "")))
    return found


def _values(conditions: Iterable[_Condition]) -> dict[str, Any]:
    listed = list(conditions)
    return {
        "keys": [one.key for one in listed],
        "versions": [one.versions for one in listed],
        "exact": [one.exact for one in listed],
    }


async def _run(conn: Connection, statement: str, values: dict[str, Any]) -> list[DictRow]:
    """Planned for these very values: a general plan doesn't know which lists are short."""
    return await (await conn.execute(_SQL[statement], values, prepare=False, binary=True)).fetchall()
