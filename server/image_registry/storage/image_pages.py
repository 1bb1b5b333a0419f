"""Pages of images in name order: by key, so that each costs the same however deep it is.

A page with several conditions is read off the rarest of them: the names that meet it are taken in order from the index,
and each is looked up for the others. Which is the rarest is seen from the index too, right behind the page's position,
since Postgres' own estimates know neither the position nor which libraries go together. Conditions that are all common
and yet hardly ever meet would make that walk long. When the `FIRST` names have shown that the page won't be full
after `CANDIDATES`, the bitmaps of popular libraries say which images may meet them all; where those don't help, whole
lists are joined. Measurements are in docs/performance.

Of a long page an outline is read first, in a single row: images that this process has shown before, as they are now,
are not read again (decision 0018).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, NamedTuple, TypeAlias, TypeVar

from psycopg.rows import tuple_row

from image_registry import limits
from image_registry.codec import encode_listed
from image_registry.models import ImagePage, LibraryFilter
from image_registry.requirements import library_key, version_key
from image_registry.storage import kept_images, library_bitmaps
from image_registry.storage.database import Connection
from image_registry.storage.kept_images import KeptImages
from image_registry.storage.library_bitmaps import Candidates
from image_registry.storage.queries import load
from image_registry.storage.rows import present
from image_registry.telemetry.catalogue import PAGE_GROUPS

SAMPLE = 500  # entries behind the position: the condition that gets farthest with as many names is the rarest
FIRST = 100  # names of the rarest condition that are looked up to see whether `CANDIDATES` would fill the page
CANDIDATES = 3_000  # names of the rarest condition that are looked up at most
FEW_IDS = 5_000  # of bitmaps, that are looked up sooner than as many names
MOST_IDS = 20_000  # of bitmaps, that are looked up sooner than lists are joined
OUTLINED = 200  # images of a page that an outline is read of: fewer come as quickly as an outline does
FEW_LACKING = 4  # up to a fourth of an outline is looked up by id
_SQL = load("image_pages.sql")


async def page(
    conn: Connection, *, after: str, size: int, filters: Sequence[LibraryFilter], kept: KeptImages | None = None
) -> ImagePage:
    """Up to `size` images behind the name `after`, each meeting every filter, as the database has them in this call.

    The page ends before its definitions exceed `limits.PAGE_BYTES`, though not before its first image. `kept` has
    images that were shown before, and gets those that are shown now.
    """
    values: dict[str, Any] = {"after": after, "size": size, "limit": size + 1, "bytes": limits.PAGE_BYTES}
    conditions = [_condition(number, wanted, values) for number, wanted in enumerate(filters)]
    if kept is not None and size >= OUTLINED:
        outlined = await _outlined(conn, conditions, values, kept)
        if outlined is not None:
            return outlined
    rows = await _rows(conn, conditions, values, _listed)
    images = [(status, definition) for _, status, definition in rows[:size] if definition is not None]
    return ImagePage([encode_listed(images)], rows[len(images) - 1].name if len(rows) > len(images) else None)


async def _outlined(
    conn: Connection, conditions: list[_Condition], values: dict[str, Any], kept: KeptImages
) -> ImagePage | None:
    """The page at the moment of its outline. None: it is too long, or has an image without a key, or one that was
    changed or deleted before its definition was read.

    A definition that a later statement finds under the key of the outline is the one that stood there then.
    """
    outline = await _rows(conn, conditions, values, _outline)
    shown = kept_images.first_images(outline.key, values["size"])
    if kept_images.count_images(outline.key) < len(outline) or kept_images.definition_bytes(shown) > limits.PAGE_BYTES:
        return None
    groups = kept_images.groups_of(shown)
    images = kept.find(groups)
    lacked = images.count(None)
    PAGE_GROUPS.add("hit", amount=len(groups) - lacked)
    PAGE_GROUPS.add("miss", amount=lacked)
    if lacked:
        lacking = b"".join(group for group, found in zip(groups, images, strict=True) if found is None)
        if len(lacking) * FEW_LACKING <= len(shown):
            ids = [image_id for image_id, _, _ in kept_images.parts_of(lacking)]
            definitions = await _definitions(conn, _SQL["some_images"], {"ids": ids})
        else:
            definitions = await _rows(conn, conditions, values, _definitions)
        for place, group in enumerate(groups):
            if images[place] is None:
                try:
                    read = [(status, definitions[key]) for _, status, key in kept_images.parts_of(group)]
                except KeyError:
                    return None
                images[place] = encoded = encode_listed(read)
                kept.keep(group, encoded)
    return ImagePage([found for found in images if found is not None], outline.behind)


class _Row(NamedTuple):
    name: str
    status: int
    definition: bytes | None


@dataclass(frozen=True, slots=True)
class _Outline:
    """How many images there are, what they are, and the name that the next page begins behind."""

    count: int
    key: kept_images.Key
    behind: str | None

    def __len__(self) -> int:
        return self.count


_Found = TypeVar("_Found", list[_Row], _Outline, dict[bytes, bytes])
_Fetch: TypeAlias = Callable[[Connection, LiteralString, dict[str, Any]], Awaitable[_Found]]


async def _rows(
    conn: Connection, conditions: list[_Condition], values: dict[str, Any], fetch: _Fetch[_Found]
) -> _Found:
    """What `fetch` reads of the page's images, and of the next one, in order."""
    if not conditions:
        return await fetch(conn, _SQL["all_images"], values)
    if len(conditions) == 1:
        return await fetch(conn, _named(_list(conditions[0], "limit")), values)
    return await _of_several(conn, conditions, values, fetch)


async def _of_several(
    conn: Connection, conditions: list[_Condition], values: dict[str, Any], fetch: _Fetch[_Found]
) -> _Found:
    reached, hardly_any = await _reached(conn, conditions, values)
    conditions = sorted(conditions, key=lambda one: reached[one] or _THE_END, reverse=True)
    walk = _named(_looked_up(_list(conditions[0], "walked"), conditions[1:]))
    if reached[conditions[0]] is None:
        return await fetch(conn, walk, values | {"walked": SAMPLE})
    candidates: Candidates | None = None
    if not hardly_any:
        rows = await fetch(conn, walk, values | {"walked": FIRST})
        if len(rows) == values["limit"]:
            return rows
        hardly_any = len(rows) * CANDIDATES < values["limit"] * FIRST
    if hardly_any:
        candidates = await _candidates(conn, conditions, values)
        if candidates is not None and candidates.count <= FEW_IDS:
            return await fetch(conn, _of_ids(conditions), values | {"ids": candidates.ids()})
    rows = await fetch(conn, walk, values | {"walked": CANDIDATES})
    if len(rows) == values["limit"]:
        return rows
    candidates = candidates or await _candidates(conn, conditions, values)
    if candidates is not None and candidates.count <= MOST_IDS:
        return await fetch(conn, _of_ids(conditions), values | {"ids": candidates.ids()})
    return await fetch(conn, _named(_joined(conditions)), values)


async def _candidates(conn: Connection, conditions: Sequence[_Condition], values: dict[str, Any]) -> Candidates | None:
    versions = [values.get("version" + one.number) for one in conditions]
    wanted = [
        (values["library" + one.number], () if version is None else (version,))
        for one, version in zip(conditions, versions, strict=True)
    ]
    return await library_bitmaps.candidates(conn, wanted)


async def _listed(conn: Connection, images: LiteralString, values: dict[str, Any]) -> list[_Row]:
    return list(map(_Row._make, await _tuples(conn, _fill("page", images=images), values)))


async def _outline(conn: Connection, images: LiteralString, values: dict[str, Any]) -> _Outline:
    ((count, key, last),) = await _tuples(conn, _fill("outline", images=images), values)
    return _Outline(count, key or b"", last if count == values["limit"] else None)


async def _definitions(conn: Connection, images: LiteralString, values: dict[str, Any]) -> dict[bytes, bytes]:
    """By their keys."""
    return dict(await _tuples(conn, _fill("definitions", images=images), values))


async def _tuples(conn: Connection, statement: LiteralString, values: dict[str, Any]) -> list[Any]:
    """Rows in binary (as text, bytes come twice as long), and as tuples: a thousand dicts take longer than the rest.

    Look-ups are planned once for all values. Joins aren't: a general plan doesn't know which lists are short.
    """
    cursor = conn.cursor(binary=True, row_factory=tuple_row)
    await cursor.execute(statement, values, prepare=_JOIN not in statement)
    return await cursor.fetchall()


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
) -> tuple[dict[_Condition, str | None], bool]:
    """The SAMPLE-th name behind the position that meets each condition; None: fewer do.

    And whether a sample of bitmaps says that few images meet them all, and that a walk won't fill the page.
    """
    reaches: LiteralString = ", ".join(_fill("reach", condition=one.sql, number=one.number) for one in conditions)
    statement = _fill("reaches", reaches=reaches, together=library_bitmaps.TOGETHER)
    wanted = {
        "libraries": [values["library" + one.number] for one in conditions],
        "versions": [values.get("version" + one.number, library_bitmaps.ANY_VERSION) for one in conditions],
        "sample": SAMPLE - 1,
    }
    row = present(await (await conn.execute(statement, values | wanted, prepare=True)).fetchone())
    hardly_any = (
        row["together"] is not None
        and row["together"] * CANDIDATES < values["limit"] * row["rarest"]
        and row["together"] * row["chunks"] <= FEW_IDS
    )
    return {one: row["reach" + one.number] for one in conditions}, hardly_any


def _named(names: LiteralString) -> LiteralString:
    return _fill("named_images", names=names)


def _of_ids(conditions: Sequence[_Condition]) -> LiteralString:
    return _named(_looked_up(_fill("of_ids"), conditions))


def _list(condition: _Condition, limit: LiteralString) -> LiteralString:
    return _fill("list", condition=condition.sql, limit=limit)


def _looked_up(names: LiteralString, conditions: Sequence[_Condition]) -> LiteralString:
    lookups: LiteralString = " and ".join(_fill("lookup", condition=one.sql) for one in conditions)
    return _fill("looked_up", walked=names, lookups=lookups)


def _joined(conditions: Sequence[_Condition]) -> LiteralString:
    lists: LiteralString = _JOIN.join(_fill("whole_list", condition=one.sql, number=one.number) for one in conditions)
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
    "reaches": "<reaches>",
    "together": "<together>",
    "walked": "<walked>",
}
_JOIN: LiteralString = " natural join "
_THE_END = chr(0x10FFFF)  # behind every name
_NUMBERS: tuple[LiteralString, ...] = (
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19",
)  # fmt: skip
