"""Pages made of images that were shown before: always what the database has, whatever has become of it meanwhile."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import pytest
from ri.api.imageregistry import image_registry_pb2 as pb

from image_registry import limits
from image_registry.models import ImagePage
from image_registry.storage import image_pages, images
from image_registry.storage.database import Connection, Database
from image_registry.storage.kept_images import KeptImages
from image_registry.telemetry.catalogue import PAGE_GROUPS
from tests.fixtures.pages import images_on, names_on

SOME = [f"image-{number:02}" for number in range(40)]
Change = Callable[[], Awaitable[object]]


@dataclass
class Shelf:
    """A registry of images without libraries, and what its pages read."""

    db: Database
    sql: psycopg.AsyncConnection[Any]
    read: list[int]  # how many definitions, by each statement that reads some
    before_reading: list[Change]  # what happens between an outline and the definitions, once

    async def put(self, *names: str) -> None:
        """Add images."""
        await self.sql.cursor().executemany(
            "insert into images (name, role, status, python_version, platform_tag, definition)"
            " values (%s, 1, 3, '3.12', 'v1', %s)",
            [(name, pb.ManagedImage(name=name, repo_uri="first").SerializeToString()) for name in names],
        )

    async def change(self, name: str, content: str) -> None:
        """Another definition."""
        encoded = pb.ManagedImage(name=name, repo_uri=content).SerializeToString()
        await self.sql.execute("update images set definition = %s where name = %s", [encoded, name])

    async def page(self, kept: KeptImages | None, *, after: str = "", size: int = 1000) -> ImagePage:
        """A page."""
        return await self.db.read(partial(image_pages.page, after=after, size=size, filters=(), kept=kept))

    async def check(self, kept: KeptImages, **place: Any) -> ImagePage:
        """The page must be what it is without anything kept."""
        found, plain = await self.page(kept, **place), await self.page(None, **place)
        assert images_on(found) == images_on(plain)
        assert found.behind == plain.behind
        return found


@pytest.fixture
async def shelf(database: Database, dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shelf]:
    monkeypatch.setattr(image_pages, "OUTLINED", 1)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        shelf = Shelf(database, conn, [], [])
        original = image_pages._definitions

        async def watched(conn: Connection, images: Any, values: dict[str, Any]) -> dict[bytes, bytes]:
            while shelf.before_reading:
                await shelf.before_reading.pop()()
            found = await original(conn, images, values)
            shelf.read.append(len(found))
            return found

        monkeypatch.setattr(image_pages, "_definitions", watched)
        yield shelf


async def test_what_was_shown_before_is_not_read_again(shelf: Shelf) -> None:
    await shelf.put(*SOME)
    kept = KeptImages(1 << 20)
    assert names_on(await shelf.check(kept)) == SOME
    assert shelf.read == [40]
    await shelf.check(kept)
    assert shelf.read == [40]


async def test_groups_are_counted(shelf: Shelf) -> None:
    counted = {"hit": 0.0, "miss": 0.0}

    def count(labels: tuple[str, ...], amount: float) -> None:
        counted[labels[0]] += amount

    PAGE_GROUPS.attach(count)
    try:
        await shelf.put(*SOME)
        kept = KeptImages(1 << 20)
        await shelf.page(kept)
        groups = counted["miss"]
        assert counted == {"hit": 0, "miss": groups}
        await shelf.page(kept)
        assert counted == {"hit": groups, "miss": groups}
        await shelf.change("image-20", "second")
        await shelf.page(kept)
        assert counted["hit"] + counted["miss"] == 3 * groups
        assert counted["miss"] in {groups + 1, groups + 2}  # it may have begun a group, or ended one
    finally:
        PAGE_GROUPS.detach_all()


async def test_of_a_change_its_neighbours_are_read_by_id(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_pages, "FEW_LACKING", 1)
    await shelf.put(*SOME)
    kept = KeptImages(1 << 20)
    await shelf.check(kept)
    await shelf.change("image-20", "second")
    assert {image.repo_uri for image in images_on(await shelf.check(kept))} == {"first", "second"}
    assert len(shelf.read) == 2
    assert shelf.read[1] < 40


@pytest.mark.parametrize("few", [1, 1000], ids=["by id", "as a whole"])
@pytest.mark.parametrize("what", ["changed", "status", "deleted", "made anew", "added"])
async def test_a_change_between_outline_and_definitions(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, few: int, what: str
) -> None:
    """The page is that of one moment: of the outline, or of the statement that reads all of it at once."""
    monkeypatch.setattr(image_pages, "FEW_LACKING", few)
    await shelf.put(*SOME)
    before = images_on(await shelf.page(None))

    async def happens() -> None:
        if what == "changed":
            await shelf.change("image-20", "second")
        elif what == "status":
            await shelf.sql.execute("update images set status = 5 where name = 'image-20'")
        elif what == "added":
            await shelf.put("image-20-more")
        else:
            await shelf.sql.execute("delete from images where name = 'image-20'")
            if what == "made anew":
                await shelf.put("image-20")
                await shelf.change("image-20", "second")

    shelf.before_reading.append(happens)
    kept = KeptImages(1 << 20)
    found = images_on(await shelf.page(kept))
    after = images_on(await shelf.page(None))
    assert before != after
    assert found == (before if what in {"status", "added"} else after)
    assert images_on(await shelf.check(kept)) == after


async def test_pages_at_random_times(shelf: Shelf) -> None:
    """Two servers with little memory, while everything changes, also back to what it was."""
    dice = random.Random(5)
    servers = [KeptImages(1 << 20), KeptImages(2_000)]
    await shelf.sql.execute("set session_replication_role = replica")  # any change of status
    there = set(SOME)
    await shelf.put(*SOME)
    for _ in range(300):
        name = dice.choice(SOME)
        match dice.choice(["page", "page", "page", "change", "status", "come or go"]):
            case "page":
                place = dice.choice(["", "image-07", "image-25"])
                await shelf.check(dice.choice(servers), after=place, size=dice.choice([5, 17, 1000]))
            case "change":
                await shelf.change(name, dice.choice(["first", "second", "third" * 100]))
            case "status":
                await shelf.sql.execute("update images set status = 8 - status where name = %s", [name])
            case _ if name in there:
                await shelf.sql.execute("delete from images where name = %s", [name])
                there.discard(name)
            case _:
                await shelf.put(name)
                there.add(name)


async def test_a_page_ends_before_its_bytes_do(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    await shelf.put(*SOME)
    kept = KeptImages(1 << 20)
    await shelf.check(kept)
    monkeypatch.setattr(limits, "PAGE_BYTES", 100)
    for place in ("", "image-10"):
        page = await shelf.check(kept, after=place)
        assert len(names_on(page)) == 5
    assert names_on(await shelf.check(kept, after="image-39")) == []


async def test_images_without_a_key_are_shown_and_get_one(shelf: Shelf) -> None:
    """Rows from before there were keys."""
    await shelf.put(*SOME)
    await shelf.sql.execute("alter table images disable trigger definition_written")
    await shelf.sql.execute("update images set definition_key = null where name > 'image-30'")
    await shelf.sql.execute("alter table images enable always trigger definition_written")
    kept = KeptImages(1 << 20)
    assert names_on(await shelf.check(kept)) == SOME
    assert shelf.read == []
    assert await shelf.db.write(images.set_definition_keys) is False
    await shelf.check(kept)
    await shelf.check(kept)
    assert shelf.read == [40]


async def test_a_key_is_always_that_of_the_definition(shelf: Shelf) -> None:
    await shelf.put(*SOME)
    await shelf.sql.execute("set session_replication_role = replica")  # triggers off, as for copies
    await shelf.put("copied")
    await shelf.change("image-01", "second")
    await shelf.sql.execute("update images set definition_key = 'forged' where name = 'image-02'")
    wrong = """select name from images
        where definition_key is distinct from sha256(definition) || int4send(octet_length(definition))"""
    assert await (await shelf.sql.execute(wrong)).fetchall() == []
