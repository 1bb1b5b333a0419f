"""The best READY images that hold a whole set of libraries, extras and system packages, at any number of images.

A range of versions becomes the list of those present versions that lie in it; then everything is a search in the index
of `image_libraries`. Whatever way is taken, the answer is the same:

- Something is rare (fewer than `LISTED` images hold it): its list is short, each image in it is looked up for the rest.
- All of it is common, yet seldom together: bitmaps of popular libraries give the few images that may hold all of it.
- All of it is common: images are looked at in the order of the best, which ends soon, for many hold it all.
- It didn't end soon: after `WALKED` images it is what bitmaps give, however many, or where there are none yet, what the
  two rarest lists have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import DictRow

from image_registry.storage import library_bitmaps
from image_registry.storage.database import Connection
from image_registry.storage.library_bitmaps import Candidates
from image_registry.storage.queries import load

LISTED = 3_000  # images that hold the rarest, up to which its list is gone through
COUNTED = 60_000  # index entries that are read to find the rarest
LEAST_COUNTED = 100  # of each, however many are wanted
WALKED = 3_000  # images that are looked at in the order of the best
MOST_IDS = 20_000  # of bitmaps, that are looked up sooner than lists are intersected
_SQL = load("image_finder.sql", "present_versions.sql")


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
    """A key and, if not any will do, its present versions that fit; `exact` has them with their local parts."""

    key: str
    versions: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()


async def find(conn: Connection, wanted: Sequence[Wanted], *, python_version: str, limit: int) -> list[DictRow]:
    """`definition` and `status` of up to `limit` READY images that hold everything, the best first."""
    conditions = await _conditions(conn, wanted)
    if conditions is None:
        return []
    found = await library_bitmaps.candidates(conn, [(one.key, one.versions) for one in conditions])
    enough = max(LEAST_COUNTED, min(LISTED, COUNTED // len(conditions)))
    rarest, conditions = await _rarest_first(conn, conditions, found, enough)
    values = _values(conditions) | {"python_version": python_version, "limit": limit}
    if rarest < enough and (found is None or rarest <= found.count):
        return await _run(conn, "from_list", values | {"listed": 1})
    if found is not None and found.count <= LISTED:
        return await _run(conn, "from_ids", values | {"listed": 0, "ids": found.ids()})
    least = sum("[" not in one.key and ":" not in one.key for one in conditions)  # distinct libraries
    best = await _run(conn, "walked", values | {"least": least, "walked": WALKED, "listed": 0})
    if len(best) == limit:
        return best
    if found is not None and found.count <= MOST_IDS:
        return await _run(conn, "from_ids", values | {"listed": 0, "ids": found.ids()})
    return await _run(conn, "joined", values | {"listed": 2})


async def _rarest_first(
    conn: Connection, conditions: list[_Condition], found: Candidates | None, enough: int
) -> tuple[int, list[_Condition]]:
    """How many images meet the rarest, counted no further than `enough`, and all of them in that order.

    What bitmaps say is popular isn't counted, and they say what is more so. Where there are none, those that reach
    `enough` are in the order of the planner's statistics. Both may be old: only time hangs on them.
    """
    popular = found.popular if found else {}
    shares: dict[int, float] = {n: held for n, held in popular.items() if not conditions[n].exact}
    counts = dict.fromkeys(shares, enough)
    if rest := [n for n in range(len(conditions)) if n not in shares]:
        rows = await _run(conn, "holders", _values(conditions[n] for n in rest) | {"enough": enough})
        counts |= {rest[row["number"] - 1]: int(row["holders"]) for row in rows}
    if not found and (keys := [one.key for n, one in enumerate(conditions) if counts[n] == enough]):
        by_key = {row["key"]: float(row["share"]) for row in await _run(conn, "shares", {"keys": keys})}
        shares = {n: by_key.get(one.key, 0.0) for n, one in enumerate(conditions)}
    order = sorted(counts, key=lambda n: (counts[n], shares.get(n, 0.0)))
    return counts[order[0]], [conditions[n] for n in order]


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
        versions = tuple(dict.fromkeys(public for public, _ in fitting))
        exact = tuple(f"{public}+{local_part}" for public, local_part in fitting) if one.binds_local else ()
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
        "versions": [" ".join(one.versions) if one.versions else None for one in listed],
        "exact": [" ".join(one.exact) if one.exact else None for one in listed],
    }


async def _run(conn: Connection, statement: str, values: dict[str, Any]) -> list[DictRow]:
    """Planned for these very values: a general plan doesn't know which lists are short."""
    return await (await conn.execute(_SQL[statement], values, prepare=False, binary=True)).fetchall()
