"""Bitmaps of popular libraries, beside builds, deletes and folds: found is what a search of everything finds."""

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from functools import partial

import psycopg
import pytest
from packaging.specifiers import SpecifierSet

from image_registry.codec import decode_definition, encode_definition
from image_registry.models import ImageDefinition, ImageReference, LibraryFilter, PipLibrary, ReferenceType, RoleType
from image_registry.registry import library_bitmaps as keeping
from image_registry.registry.library_bitmaps import lag, tend
from image_registry.requirements import version_key
from image_registry.storage import image_finder, image_pages, images, library_bitmaps
from image_registry.storage.database import Connection, Database
from image_registry.storage.library_bitmaps import Candidates, Lag
from tests.fixtures.pages import names_on

LIBRARIES = {"numpy": ["1.0", "2.0"], "pandas": ["1.0", "2.0+cu"], "rare": ["1"]}
FILTERS: list[list[tuple[str, str | None]]] = [
    [("half", None), ("other-half", None)],
    [("numpy", "1.0"), ("numpy", "2.0")],
    [("numpy", "2.0"), ("pandas", None)],
    [("pandas", "2.0"), ("half", None), ("numpy", None)],
    [("pandas", "2.0+cu"), ("other-half", None)],
    [("rare", None), ("numpy", None)],
]
FINDER_WAYS = [
    {"LISTED": 3_000, "LEAST_COUNTED": 100, "WALKED": 3_000, "MOST_IDS": 20_000},  # lists
    {"LISTED": 2, "LEAST_COUNTED": 1, "WALKED": 50, "MOST_IDS": 20_000},  # few of bitmaps, and the walk
    {"LISTED": 0, "LEAST_COUNTED": 1, "WALKED": 1, "MOST_IDS": 20_000},  # all that bitmaps give
    {"LISTED": 0, "LEAST_COUNTED": 1, "WALKED": 1, "MOST_IDS": 0},  # two lists
]
SETS: list[dict[str, str]] = [  # specifiers
    {"half": "", "other-half": ""},
    {"numpy": "<2", "half": ""},
    {"numpy": ">=1", "pandas": ">=1"},
    {"numpy": "<2", "pandas": "==2.0+cu", "half": ""},
    {"pandas": "==2.0", "other-half": "<1"},
    {"rare": "", "numpy": ">=1", "pandas": ""},
    {"numpy": ""},
]
IN_ORDER = "select name from images where status = 3 order by library_count, updated_at desc, name"
LACKING_BITS = """select l.library, l.version, i.name from image_libraries l join images i on i.name = l.image_name
    cross join lateral (values ('*'), (l.version)) as v (version)
    where exists (select from library_bits b where b.library = l.library and b.version = v.version)
        and not exists (select from library_log o where o.image_id = i.id)
        and not exists (select from library_bits b where b.library = l.library and b.version = v.version
            and b.chunk = i.id / 16384 and get_bit(b.bits, (i.id % 16384)::integer) = 1)"""


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bitmaps from a handful of images on, and pages that soon need them."""
    monkeypatch.setattr(library_bitmaps, "POPULAR", 3)
    monkeypatch.setattr(library_bitmaps, "MAPPED_AT_ONCE", 2)
    monkeypatch.setattr(library_bitmaps, "FOLDED_AT_ONCE", 3)
    monkeypatch.setattr(image_pages, "SAMPLE", 1)
    monkeypatch.setattr(image_pages, "FIRST", 1)
    monkeypatch.setattr(image_pages, "CANDIDATES", 1)


@pytest.fixture
def helped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many candidates bitmaps gave, each time that they were of help."""
    found: list[int] = []

    def counted(candidates: Candidates) -> str:
        ids = original(candidates)
        assert ids.count(",") + (ids != "{}") == candidates.count
        found.append(candidates.count)
        return ids

    original = Candidates.ids
    monkeypatch.setattr(Candidates, "ids", counted)
    return found


@dataclass
class Registry:
    """A database, and what must be in it by now."""

    db: Database
    writer: Connection
    held: dict[str, dict[str, str]] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    on_commit: list[Callable[[], None]] = field(default_factory=list)

    async def create(self, name: str, first_id: int | None = None) -> None:
        """An image without libraries."""
        insert = """insert into images (id, name, role, status, python_version, platform_tag, definition)
            overriding system value
            values (coalesce(%s, nextval('images_id_seq')), %s, 1, 3, '3.11', 'v1', %s) returning id"""
        encoded = encode_definition(definition(name, {}))
        row = await self.db.write_once(lambda conn: fetch_one(conn, insert, [first_id, name, encoded]))
        self.ids[name], self.held[name] = row["id"], {}

    async def build(self, conn: Connection, name: str, libraries: dict[str, str]) -> None:
        """A rebuild of an image, as the service records it."""
        old, new = definition(name, self.held[name]), definition(name, libraries)
        status = "update images set status = 2, status_before_rebuild = 3 where id = %s"
        await conn.execute(status, [self.ids[name]])
        await images.end_ready(
            conn,
            self.ids[name],
            definition=encode_definition(new),
            digest="",
            base_digest="",
            lock_file="",
            old=old,
            new=new,
        )

    async def delete(self, name: str) -> None:
        """The end of an image."""
        found = await self.db.read(partial(images.get, name=name))
        assert found is not None
        await self.db.write(lambda conn: images.delete(conn, found, definition(name, self.held[name])))
        del self.held[name], self.ids[name]

    def matching(self, filters: list[tuple[str, str | None]]) -> list[str]:
        """The names of a search of everything."""
        return [name for name, held in sorted(self.held.items()) if all(meets(held, *one) for one in filters)]

    async def pages(self, filters: list[tuple[str, str | None]], size: int) -> list[str]:
        """The names of all pages."""
        wanted, seen = [LibraryFilter(*one) for one in filters], list[str]()
        after: str | None = ""
        while after is not None:
            page = await self.db.read(partial(image_pages.page, after=after, size=size, filters=wanted))
            seen += names_on(page)
            after = page.behind
        return seen

    async def best(self, wanted: dict[str, str], limit: int) -> tuple[list[str], list[str]]:
        """The names that FindImages finds, and those of a search of everything."""
        sets = [finder_wanted(*one) for one in wanted.items()]
        find = partial(image_finder.find, wanted=sets, python_version="", limit=limit)
        found = [decode_definition(bytes(row["definition"])).name for row in await self.db.read(find)]
        everything = await self.db.read(lambda conn: rows(conn, IN_ORDER))
        held = [str(row["name"]) for row in everything if fits(self.held[str(row["name"])], wanted)]
        return found, held[:limit]


@pytest.fixture
async def registry(dsn: str, database: Database) -> AsyncIterator[Registry]:
    async with await Connection.connect(dsn) as writer:
        writer.row_factory = psycopg.rows.dict_row
        yield Registry(database, writer)


def definition(name: str, libraries: dict[str, str]) -> ImageDefinition:
    base = ImageReference("base", ReferenceType.MANAGED)
    one = ImageDefinition(name, RoleType.USER_DEFINED, "3.11", base, f"oci:/{name}", "v1")
    return replace(one, pip_libraries=tuple(PipLibrary(*pair) for pair in libraries.items()))


def meets(held: dict[str, str], library: str, version: str | None) -> bool:
    if library not in held or version is None:
        return library in held
    (public, local), wanted = version_key(held[library]), version_key(version)
    return public == wanted[0] and wanted[1] in {"", local}


def fits(held: dict[str, str], wanted: dict[str, str]) -> bool:
    return all(library in held and held[library] in SpecifierSet(spec) for library, spec in wanted.items())


def finder_wanted(library: str, specifier: str) -> image_finder.Wanted:
    """As the use case has it."""
    versions = SpecifierSet(specifier)

    def fits(public: str, local: str) -> bool:
        return versions.contains(f"{public}+{local}" if local else public)

    return image_finder.Wanted(library, fits if specifier else None, binds_local="+" in specifier)


async def fetch_one(conn: Connection, statement: str, values: list[object]) -> dict[str, int]:
    row = await (await conn.execute(statement, values)).fetchone()
    assert row is not None
    return row


async def tend_to_the_end(db: Database) -> None:
    """As workers do, for so long that every library was looked at."""
    await db.write_once(lambda conn: conn.execute("update library_survey set rounds = 0"))
    while await tend(db, long_log=1):
        pass


@pytest.mark.parametrize("seed", range(6))
async def test_what_is_found_is_right_whatever_happens_between(
    registry: Registry, helped: list[int], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)

    def contents() -> dict[str, str]:
        half = {dice.choice(["half", "other-half"]): "1.0"}
        return half | {
            library: dice.choice(versions)
            for library, versions in LIBRARIES.items()
            if dice.random() < (0.05 if library == "rare" else 0.7)
        }

    for number in range(20):  # ids in two chunks
        await registry.create(f"image-{number:02}", None if number % 2 else 16_384 + 50 * (seed + 1) + number)
    pending: tuple[str, dict[str, str]] | None = None
    for step in range(120):
        name = dice.choice(sorted(registry.held))
        what = dice.choice(["build", "build", "build", "begin", "end", "delete", "fold", "tend", "page", "find"])
        if what == "build" and (pending is None or pending[0] != name):
            libraries = contents()
            await registry.db.write(partial(registry.build, name=name, libraries=libraries))
            registry.held[name] = libraries
        elif what == "begin" and pending is None:  # its rows are written, and seen by nobody yet
            pending = name, contents()
            await registry.build(registry.writer, *pending)
        elif what == "end" and pending is not None:
            if dice.random() < 0.8:
                await registry.writer.commit()
                registry.held[pending[0]] = pending[1]
            else:
                await registry.writer.rollback()
            pending = None
        elif what == "delete" and (pending is None or pending[0] != name) and dice.random() < 0.5:
            await registry.delete(name)
            await registry.create(f"image-{step:03}")
        elif what == "fold":
            await tend(registry.db, long_log=1)
        elif what == "tend":
            await tend_to_the_end(registry.db)
        elif what == "find":
            for way in FINDER_WAYS:
                for constant, number in way.items():
                    monkeypatch.setattr(image_finder, constant, number)
                for wanted in SETS:
                    found, expected = await registry.best(wanted, dice.choice([1, 2, 50]))
                    assert found == expected, (wanted, way)
        elif what == "page":
            for filters in FILTERS:
                assert await registry.pages(filters, dice.choice([1, 2, 50])) == registry.matching(filters)
        assert await registry.db.read(lambda conn: rows(conn, LACKING_BITS)) == []
    assert len(helped) > 10


async def rows(conn: Connection, statement: str) -> list[dict[str, object]]:
    return await (await conn.execute(statement)).fetchall()


async def test_conditions_that_never_meet_are_told_by_their_bitmaps_alone(
    registry: Registry, helped: list[int]
) -> None:
    for number in range(12):
        await registry.create(f"image-{number:02}")
        libraries = {"half" if number % 2 else "other-half": "1.0"}
        await registry.db.write(partial(registry.build, name=f"image-{number:02}", libraries=libraries))
    wanted: list[tuple[str, str | None]] = [("half", None), ("other-half", "1.0")]
    assert await registry.pages(wanted, 50) == []
    assert helped == []  # no bitmaps yet
    await tend_to_the_end(registry.db)
    assert await registry.pages(wanted, 50) == []
    assert helped == [0]
    await registry.db.write(partial(registry.build, name="image-07", libraries={"half": "1.0", "other-half": "1.0"}))
    assert await registry.pages(wanted, 50) == ["image-07"]
    assert helped == [0, 1]  # the one of the log


async def test_too_many_candidates_or_too_long_a_log_are_left_to_the_join(
    registry: Registry, helped: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        await registry.create(f"image-{number:02}")
        both = {"numpy": "1.0", "half": "1.0"}
        await registry.db.write(partial(registry.build, name=f"image-{number:02}", libraries=both))
    await tend_to_the_end(registry.db)
    expected = sorted(registry.ids)
    assert await registry.pages([("numpy", None), ("half", None)], 50) == expected
    assert helped == [12]
    monkeypatch.setattr(image_pages, "FEW_IDS", 11)
    assert await registry.pages([("numpy", None), ("half", None)], 50) == expected
    assert helped == [12, 12]  # after more names
    monkeypatch.setattr(image_pages, "MOST_IDS", 11)
    assert await registry.pages([("numpy", None), ("half", None)], 50) == expected
    assert helped == [12, 12]
    monkeypatch.setattr(image_pages, "MOST_IDS", 12)
    monkeypatch.setattr(library_bitmaps, "LONGEST_LOG", 0)
    await registry.db.write(partial(registry.build, name="image-07", libraries={"numpy": "1.0", "half": "1.0"}))
    assert await registry.pages([("numpy", None), ("half", None)], 50) == expected
    assert helped == [12, 12]


async def test_one_at_a_time_changes_bitmaps(registry: Registry) -> None:
    for number in range(5):
        await registry.create(f"image-{number}")
        await registry.db.write(partial(registry.build, name=f"image-{number}", libraries={"numpy": "1.0"}))
    async with registry.writer.transaction():
        assert await library_bitmaps.hold(registry.writer)
        assert not await tend(registry.db, long_log=1)
        assert await registry.db.read(lambda conn: rows(conn, "select from library_bits")) == []
    await tend_to_the_end(registry.db)
    found = await registry.db.read(lambda conn: rows(conn, "select library, version from library_bits order by 2"))
    assert [tuple(row.values()) for row in found] == [("numpy", "*"), ("numpy", "1")]
    assert await registry.db.read(lambda conn: rows(conn, "select from library_log")) == []


async def test_how_far_they_are_behind(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await lag(registry.db) == Lag(0, 0.0, complete=False)
    monkeypatch.setattr(keeping, "LONG_LOG", 3)
    for number in range(4):
        await registry.create(f"image-{number}")
        await registry.db.write(partial(registry.build, name=f"image-{number}", libraries={"numpy": "1.0"}))
        found = await lag(registry.db)
        assert found.builds == number + 1
        if number < 2:
            assert found.overdue == 0
            ages = "update library_log set logged_at = now() - make_interval(mins => 10 - image_id::integer)"
            await registry.db.write_once(lambda conn, ages=ages: conn.execute(ages))  # type: ignore[misc]
    assert 0 < found.overdue < 60, "since the third of them"
    await tend_to_the_end(registry.db)
    assert await lag(registry.db) == Lag(0, 0.0, complete=True)
