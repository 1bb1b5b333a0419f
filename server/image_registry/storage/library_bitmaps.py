"""Bitmaps of popular libraries: which images may hold one, in a few kilobytes for each 16,384 images.

Bits may be too many (of deleted images, of libraries that a rebuild dropped), never too few. Every row that comes into
`image_libraries` leaves its image in a log by a trigger, in the same transaction; `fold` takes entries out of the log
and sets their bits. So whoever sees a row sees, in the same snapshot, its bit or its image in the log. A bitmap is made
from `image_libraries` after the fold of its transaction: what was committed meanwhile is still in the log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import compress
from operator import and_
from struct import Struct

from psycopg.rows import tuple_row

from image_registry.storage.database import Connection
from image_registry.storage.queries import load
from image_registry.storage.rows import present

POPULAR = 8_000  # a library that more images hold has a bitmap; the list of another one is short
FOLDED_AT_ONCE = 1_000  # entries of the log
SLICE = 200  # libraries that a step of the survey looks at
MAPPED_AT_ONCE = 32  # libraries of which a step makes bitmaps
ANY_VERSION = "*"
_CHUNK = 16_384  # images of a row: its bits fit three times into a page of the database
_LOCK = 0x696D_6167_626D_6170  # "imagbmap"
_LOG = 0  # the number under which its images stand beside the bitmaps
_WORDS = Struct(f"<{_CHUNK // 64}Q")
_SQL = load("library_bitmaps.sql")
_Row = tuple[str, str, int]  # library, version, chunk


async def hold(conn: Connection) -> bool:
    """Become the one who changes bitmaps until the transaction ends; False: somebody else is."""
    await conn.execute(_SQL["take_time"])
    return bool(present(await (await conn.execute(_SQL["lock"], {"lock": _LOCK})).fetchone())["locked"])


async def fold(conn: Connection, least: int) -> bool:
    """Bring the bitmaps up to date if the log has `least` entries; whether it was so. To be done by who has `hold`."""
    if not present(await (await conn.execute(_SQL["log_is_long"], {"least": least})).fetchone())["long"]:
        return False
    values = {"limit": FOLDED_AT_ONCE, "chunk": _CHUNK, "any": ANY_VERSION}
    cursor = conn.cursor(binary=True, row_factory=tuple_row)
    await cursor.execute(_SQL["take"], values)
    rows = await cursor.fetchall()
    await _put(conn, {(library, version, chunk): _with(bits, new) for library, version, chunk, new, bits in rows})
    return True


async def survey(conn: Connection, pause: float) -> tuple[list[str], bool]:
    """Look at some more libraries, in turns, and make the bitmaps of those that have become popular.

    To be done by who has `hold`, after `fold`. Returns what got bitmaps, and whether to go on at once: after the first
    round, which looks at all libraries there are, steps are `pause` seconds apart.
    """
    state = await (await conn.execute(_SQL["survey"], {"pause": pause})).fetchone()
    if state is None:
        return [], False
    values = {"after": state["after_library"], "slice": SLICE, "least": POPULAR, "any": ANY_VERSION}
    rows = await (await conn.execute(_SQL["next_libraries"], values)).fetchall()
    popular = [row["library"] for row in rows if row["popular"]]
    missing: defaultdict[str, set[str]] = defaultdict(set)
    for row in await (await conn.execute(_SQL["unmapped"], values | {"libraries": popular})).fetchall():
        missing[row["library"]].add(row["version"])
    mapped = sorted(missing)[:MAPPED_AT_ONCE]
    if mapped:
        await _map(conn, {library: missing[library] for library in mapped})
    last = mapped[-1] if len(mapped) < len(missing) else rows[-1]["library"] if len(rows) == SLICE else ""
    await conn.execute(_SQL["surveyed"], {"after": last, "round": int(not last)})
    return mapped, state["rounds"] == 0 and bool(last)


async def candidates(conn: Connection, wanted: Sequence[tuple[str, str | None]], most: int) -> list[int] | None:
    """The ids of the images that may hold all of `wanted`, libraries with or without a (public) version.

    None: there is no telling, or they are more than `most`. The rarest has to come first. Who meets the conditions now
    and still does when the ids are looked up is among them.
    """
    values = {
        "libraries": [name for name, _ in wanted],
        "versions": [version or ANY_VERSION for _, version in wanted],
        "logged": most + 1,
    }
    cursor = conn.cursor(binary=True, row_factory=tuple_row)
    await cursor.execute(_SQL["bitmaps"], values)
    bitmaps: defaultdict[int, dict[int, bytes]] = defaultdict(dict)
    for number, chunk, bits in await cursor.fetchall():
        bitmaps[number][chunk] = bits
    logged = bitmaps.pop(_LOG, {})
    if len(bitmaps) < 2 or 1 not in bitmaps:
        return None
    common = _common([*bitmaps.values()])
    if len(logged) + sum(bits.bit_count() for bits in common.values()) > most:
        return None
    return sorted({*logged}.union(*(_ids(chunk, bits) for chunk, bits in common.items())))


async def _map(conn: Connection, missing: Mapping[str, set[str]]) -> None:
    """Make the missing bitmaps of these libraries."""
    made: dict[_Row, bytes] = {}
    cursor = conn.cursor(binary=True, row_factory=tuple_row)
    values = {"libraries": list(missing), "chunk": _CHUNK}
    async for library, version, chunk, places in cursor.stream(_SQL["holders"], values):
        bits = _with(None, places)
        if version in missing[library]:
            made[library, version, chunk] = bits
        if ANY_VERSION in missing[library]:
            row = library, ANY_VERSION, chunk
            made[row] = _either(made[row], bits) if row in made else bits
    await _put(conn, made)


async def _put(conn: Connection, rows: Mapping[_Row, bytes]) -> None:
    values = {
        "libraries": [library for library, _, _ in rows],
        "versions": [version for _, version, _ in rows],
        "chunks": [chunk for _, _, chunk in rows],
        "bits": [*rows.values()],
    }
    await conn.execute(_SQL["put"], values)


def _with(bits: bytes | None, places: Iterable[int]) -> bytes:
    changed = bytearray(bits or _CHUNK // 8)
    for place in places:
        changed[place >> 3] |= 1 << (place & 7)
    return bytes(changed)


def _either(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "little") | int.from_bytes(other, "little")).to_bytes(_CHUNK // 8, "little")


def _common(bitmaps: Sequence[Mapping[int, bytes]]) -> dict[int, int]:
    """The bits that all have, by chunk."""
    chunks = set[int].intersection(*map(set, bitmaps))
    return {chunk: reduce(and_, (int.from_bytes(one[chunk], "little") for one in bitmaps)) for chunk in chunks}


def _ids(chunk: int, bits: int) -> list[int]:
    """Most words of 64 bits are empty: `compress` passes over them faster than any loop."""
    words = _WORDS.unpack(bits.to_bytes(_CHUNK // 8, "little"))
    found: list[int] = []
    for at in compress(range(len(words)), words):
        word, first = words[at], chunk * _CHUNK + 64 * at
        while word:
            lowest = word & -word
            found.append(first + lowest.bit_length() - 1)
            word ^= lowest
    return found
