"""Bitmaps of popular libraries: which images may hold one, in a few kilobytes for each 16,384 images.

Bits may be too many (of deleted images, of libraries that a rebuild dropped), never too few. Every row that comes into
`image_libraries` leaves its image in a log by a trigger, in the same transaction; `fold` takes entries out of the log
and sets their bits. So whoever sees a row sees, in the same snapshot, its bit or its image in the log. A bitmap is made
from `image_libraries` after the fold of its transaction: what was committed meanwhile is still in the log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg.rows import tuple_row

from image_registry.storage.database import Connection
from image_registry.storage.queries import load
from image_registry.storage.rows import present

POPULAR = 8_000  # a library that more images hold has a bitmap; the list of another one is short
FOLDED_AT_ONCE = 1_000  # entries of the log
SLICE = 200  # libraries that a step of the survey looks at
MAPPED_AT_ONCE = 32  # libraries of which a step makes bitmaps
COMBINED = 16  # bitmaps whose bits in common are looked for: those of the rarest; more than that exclude hardly any
LONGEST_LOG = 20_000  # entries; as many images are sooner looked for without bitmaps
ANY_VERSION = "*"
_CHUNK = 16_384  # images of a row (the SQL knows it, too): its bits fit three times into a page of the database
_LOCK = 0x696D_6167_626D_6170  # "imagbmap"
_LOG = 0  # the number under which its images stand beside the bitmaps
_HEAD = 4  # bytes that go before a bit string that the database sends: its length
_PIECE = 512  # bytes that are looked at as one number
_SQL = load("library_bitmaps.sql", "present_versions.sql")
TOGETHER = _SQL["together"]
_Row = tuple[str, str, int]  # library, version, chunk


@dataclass(frozen=True, slots=True)
class Lag:
    """What the bitmaps lack.

    `builds` are waiting in the log (counted up to `LONGEST_LOG`), for `overdue` seconds enough of them for a fold.
    `complete`: all libraries were looked at, whether they are popular.
    """

    builds: int
    overdue: float
    complete: bool


async def lag(conn: Connection, least: int) -> Lag:
    """How far the bitmaps are behind, folds being due when the log has `least` entries."""
    row = present(await (await conn.execute(_SQL["lag"], {"least": least, "most": LONGEST_LOG})).fetchone())
    return Lag(row["builds"], max(0.0, row["overdue"]), row["rounds"] > 0)


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
    await _put(conn, {(library, version, chunk): _bits(places) for library, version, chunk, places in rows})
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


@dataclass(frozen=True, slots=True)
class Candidates:
    """The images that may hold all that is wanted, and how many they are.

    `popular` has the places of those wanted that have bitmaps of their own, each held by more than `POPULAR` images,
    and how many hold it of some thousand: the less, the rarer.
    """

    count: int
    popular: Mapping[int, int]
    _logged: frozenset[int]
    _bits: tuple[tuple[int, bytes], ...]

    def ids(self) -> str:
        """Their ids as an array of the database, which is several times faster than to pass a list."""
        found = [*self._logged]
        for chunk, bits in self._bits:
            found += _ids(chunk, bits)
        return "{" + ",".join(map(str, found)) + "}"


async def candidates(conn: Connection, wanted: Sequence[tuple[str, Sequence[str]]]) -> Candidates | None:
    """The images that may hold all of `wanted`; None: nothing of it has a bitmap, or the log is too long to be read.

    Each wanted is a key of `findable.py`, and the (public) versions of which one has to be there; none: any will do.

    Who holds it all now and still does when the ids are looked up is among them.
    """
    looked = [
        (number, key, version, False)
        for number, (key, versions) in enumerate(wanted)
        for version in versions or (ANY_VERSION,)
    ] + [(number, key, ANY_VERSION, True) for number, (key, versions) in enumerate(wanted) if versions]
    numbers, keys, versions, spare = map(list, zip(*looked, strict=True))
    values = {
        "numbers": numbers,
        "libraries": keys,
        "versions": versions,
        "spare": spare,
        "any": ANY_VERSION,
        "most": COMBINED,
        "logged": LONGEST_LOG + 1,
    }
    cursor = conn.cursor(binary=True, row_factory=tuple_row)
    await cursor.execute(_SQL["common"], values, prepare=True)
    popular: dict[int, int] = {}
    mapped, count = False, 0
    logged = set[int]()
    bits: list[tuple[int, bytes]] = []
    for number, exact, image_id, chunk, held, common in await cursor.fetchall():
        if number is not None:
            mapped = True
            popular |= {number: held} if exact else {}
        elif image_id is not None:
            logged.add(image_id)
        else:
            count += held
            bits.append((chunk, common))
    if not mapped or len(logged) > LONGEST_LOG:
        return None
    return Candidates(count + len(logged), popular, frozenset(logged), tuple(bits))


async def _map(conn: Connection, missing: Mapping[str, set[str]]) -> None:
    """Make the missing bitmaps of these libraries."""
    made: dict[_Row, bytes] = {}
    cursor = conn.cursor(binary=True, row_factory=tuple_row)
    values = {"libraries": list(missing), "chunk": _CHUNK}
    async for library, version, chunk, places in cursor.stream(_SQL["holders"], values):
        bits = _bits(places)
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


def _bits(places: Iterable[int]) -> bytes:
    """The first place is the highest bit of the first byte, as bit strings of the database have it."""
    bits = bytearray(_CHUNK // 8)
    for place in places:
        bits[place >> 3] |= 0x80 >> (place & 7)
    return bytes(bits)


def _either(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "little") | int.from_bytes(other, "little")).to_bytes(_CHUNK // 8, "little")


def _ids(chunk: int, bits: bytes) -> list[int]:
    """In pieces: large numbers pass over empty bits quickly, yet each step copies one."""
    found: list[int] = []
    behind = chunk * _CHUNK
    for at in range(_HEAD, len(bits), _PIECE):
        piece = int.from_bytes(bits[at : at + _PIECE], "big")
        behind += 8 * _PIECE
        while piece:
            length = piece.bit_length()
            found.append(behind - length)
            piece ^= 1 << (length - 1)
    return found
