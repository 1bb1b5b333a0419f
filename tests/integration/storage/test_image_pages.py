"""Pages of images by library, each way of finding them held against a plain search of everything."""

import random
from collections.abc import Iterator
from functools import partial

import psycopg
import pytest
from ri.api.imageregistry import image_registry_pb2 as pb

from image_registry.models import LibraryFilter
from image_registry.requirements import version_key
from image_registry.storage import image_pages
from image_registry.storage.database import Connection, Database
from image_registry.storage.kept_images import KeptImages
from tests.fixtures.pages import names_on
from tests.fixtures.postgres import clone_database

IMAGES = 400
LIBRARIES = 12
Contents = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def dsn(postgres_server: str, migrated_template: str) -> Iterator[str]:
    """One database for all these tests, which only read."""
    with clone_database(postgres_server, migrated_template) as clone:
        yield clone


@pytest.fixture(scope="module")
def contents(dsn: str) -> Contents:
    """A filled registry: what each image holds, by name. Library 0 is in nearly all, library 11 in a few."""
    dice = random.Random(7)
    images = {
        f"image-{number:03}": {
            f"library-{rank}": dice.choice(["1.0", "1.0", "2.0"])
            for rank in range(LIBRARIES)
            if dice.random() < 1 / (rank + 1) ** 1.2
        }
        for number in range(IMAGES)
    }
    for number, libraries in enumerate(images.values()):
        libraries["even" if number % 2 else "odd"] = "1.0"
    rows = [
        (library, name, version_key(version)[0]) for name, found in images.items() for library, version in found.items()
    ]
    with psycopg.connect(dsn) as conn, conn.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.executemany(
            "insert into images (name, role, status, python_version, platform_tag, definition)"
            " values (%s, 1, 3, '3.11', 'v1', %s)",
            [(name, pb.ManagedImage(name=name).SerializeToString()) for name in images],
        )
        cursor.executemany("insert into image_libraries (library, image_name, version) values (%s, %s, %s)", rows)
    return images


FILTERS = [
    [],
    [("library-0", None)],
    [("library-11", None)],
    [("library-0", None), ("library-1", None)],
    [("library-0", "2.0"), ("library-11", None)],
    [("library-3", "1.0"), ("library-2", "2.0"), ("library-1", None)],
    [("even", None), ("odd", None)],
    [("even", None), ("odd", None), ("library-0", None)],
    [("library-0", None), ("absent", None)],
    [("library-0", "1.0"), ("library-0", "2.0")],
]


@pytest.mark.parametrize("filters", FILTERS, ids=lambda f: "+".join(f"{n}{v or ''}" for n, v in f) or "all")
@pytest.mark.parametrize(
    ("sample", "candidates"), [(500, 3000), (3, 7), (1, 1)], ids=["few names", "walk and join", "join"]
)
@pytest.mark.parametrize(("size", "outlined"), [(7, 200), (1000, 2000), (7, 1), (1000, 200)])
async def test_pages_hold_what_a_search_of_everything_finds(
    monkeypatch: pytest.MonkeyPatch,
    database: Database,
    contents: Contents,
    filters: list[tuple[str, str | None]],
    sample: int,
    candidates: int,
    size: int,
    outlined: int,
) -> None:
    monkeypatch.setattr(image_pages, "OUTLINED", outlined)
    monkeypatch.setattr(image_pages, "SAMPLE", sample)
    monkeypatch.setattr(image_pages, "FIRST", min(sample, candidates))
    monkeypatch.setattr(image_pages, "CANDIDATES", candidates)
    wanted = [LibraryFilter(name, version) for name, version in filters]
    expected = [
        name
        for name, libraries in sorted(contents.items())
        if all(n in libraries and v in {None, libraries[n]} for n, v in filters)
    ]
    seen: list[str] = []
    again: list[str] = []
    kept = KeptImages(1 << 20)
    after: str | None = ""
    while after is not None:
        read = partial(image_pages.page, after=after, size=size, filters=wanted, kept=kept)
        found, shown_before = await database.read(read), await database.read(read)
        assert found.behind == shown_before.behind
        seen += names_on(found)
        again += names_on(shown_before)
        assert len(names_on(found)) == size or found.behind is None
        assert found.behind is None or found.behind == seen[-1]
        after = found.behind
    assert seen == again == expected


@pytest.mark.usefixtures("contents")
async def test_joins_are_planned_for_their_values_and_the_rest_once(
    monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    for constant in ("SAMPLE", "FIRST", "CANDIDATES"):
        monkeypatch.setattr(image_pages, constant, 1)
    wanted = [LibraryFilter("even", None), LibraryFilter("odd", None)]

    async def prepared(conn: Connection) -> list[str]:
        for _ in range(12):
            assert names_on(await image_pages.page(conn, after="", size=7, filters=wanted)) == []
        rows = await conn.execute("select statement from pg_prepared_statements")
        return [row["statement"] for row in await rows.fetchall()]

    statements = await database.read(prepared)
    assert any("exists (select" in one for one in statements)
    assert not any("natural join" in one for one in statements)
