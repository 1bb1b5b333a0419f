"""FindImages: how long it takes to say which images hold a whole set of libraries with ranges, many, few or none.

What many images hold is a stack of the suite's own: `STACK_IMAGES` images with the same sixty libraries.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping
from typing import Any

import grpc
import psycopg
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from ri.api.imageregistry import image_finder_pb2 as pb

from benchmarks import data
from benchmarks.bench import Bench
from benchmarks.figures import Figure
from benchmarks.suites.lists import SMALL
from image_registry.models import PipRequirement, WantedContents
from image_registry.registry.image_finder import ImageFinder
from image_registry.requirements import library_key, version_key
from image_registry.storage.database import Connection, Database

STACK_IMAGES = 300
_STACK, _ALONE = 8, 16  # numbers of images: of the one that is copied, and of one that stays the only one of its kind
_MOST = 10
_TRIES = 7
_SEARCHED = 1_000_000  # images up to which every answer is compared with a plain search; there that takes a minute
VERSIONS = (*data.VERSIONS, data.RAREST_VERSION, "1.0")
_METHOD = "/rime.ImageFinder/FindImages"
_PLAIN_SEARCH = """
select i.name from (
    select l.image_name as name from image_libraries l
    join unnest(%(names)s::text[], %(versions)s::text[]) w (library, version) using (library, version)
    group by l.image_name having count(*) = %(count)s
) held join images i using (name) where i.status = 3 order by i.library_count, i.updated_at desc, i.name limit %(most)s
"""
Wanted = Mapping[str, str]


def run(bench: Bench) -> None:
    """Each case in a small registry and in the large one, in the database client and over gRPC."""
    sizes = {SMALL: bench.environment.filled(SMALL), bench.images: bench.dsn}
    times: dict[int, list[tuple[float, float, int]]] = {}
    for images, dsn in sizes.items():
        _add_stack(dsn, images)
        server = bench.environment.registry(dsn)
        with grpc.insecure_channel(server.address) as channel:
            times[images] = asyncio.run(_measured(dsn, channel, cases(images), searched=images <= _SEARCHED))
        bench.environment.stop(server)
    rows = [["case", *(f"{images:,} images: ms in the database client, over gRPC, found" for images in sizes)]]
    for number, case in enumerate(cases(bench.images)):
        found = (times[images][number] for images in sizes)
        rows.append([case, *(f"{client:.1f}, {called:.1f}, {count}" for client, called, count in found)])
    bench.report.tables[f"FindImages, up to {_MOST} images, a single caller"] = rows
    worst = max(client for client, _, _ in times[bench.images])
    bench.report.add(Figure(f"FindImages: worst case ms, {bench.images:,} images", worst, at_most=100))


def cases(images: int) -> dict[str, Wanted]:
    """What is looked for, with how many images hold it."""
    stack, alone = _ranges(_STACK, images), _ranges(_ALONE, images)
    popular = {data.library(rank): ">=1.0" for rank in range(60)}
    halves = {data.HALF_A: ">=1", data.HALF_B: ">=1"}
    return {
        "5 of the most popular: many": _first(popular, 5),
        "a rare one and 4 of the most popular: few": {data.RARE: ">=0.5"} | _first(popular, 4),
        "two that never meet and 3 of the most popular: none": halves | _first(popular, 3),
        "20 of a stack: many": _first(stack, 20),
        "20 of one image: few": _first(alone, 20),
        "the 20 most popular: hardly any": _first(popular, 20),
        "60 of a stack: many": stack,
        "60 of one image: few": alone,
        "the 60 most popular: none": popular,
        "60 of one image, one of them too new: none": alone | {data.library(0): ">=3"},
    }


def _first(wanted: Wanted, count: int) -> dict[str, str]:
    return dict(list(wanted.items())[:count])


def _ranges(number: int, images: int) -> dict[str, str]:
    """The libraries of an image, each from its version up to the next major one."""
    sample = next(data.samples(images, first=number))
    return {name: f">={version},<{Version(version).major + 1}" for name, version in sample.libraries}


def _add_stack(dsn: str, images: int) -> None:
    """Copies of one image, once."""
    copied = next(data.samples(images, first=_STACK))
    with psycopg.connect(dsn) as conn, conn.cursor() as cursor:
        if cursor.execute("select from images where name = 'z-stack-0'").fetchone() is not None:
            return
        cursor.execute("set session_replication_role = replica")  # as when loading: no triggers of images
        names = [f"z-stack-{number}" for number in range(STACK_IMAGES)]
        for name in names:
            cursor.execute(
                "insert into images (name, role, status, python_version, platform_tag, base_image_id, definition,"
                " library_count) select %s, role, status, python_version, platform_tag, base_image_id, %s,"
                " library_count from images where name = %s",
                [name, data.Sample(name, copied.libraries).definition(), copied.name],
            )
        cursor.execute("reset session_replication_role")
        cursor.execute(
            "insert into image_libraries (library, image_name, version, local)"
            " select l.library, n.name, l.version, l.local from image_libraries l, unnest(%s::text[]) as n (name)"
            " where l.image_name = %s",
            [names, copied.name],
        )


async def _measured(
    dsn: str, channel: grpc.Channel, wanted: Mapping[str, Wanted], *, searched: bool
) -> list[tuple[float, float, int]]:
    """For each case: milliseconds in the client of the database, milliseconds over gRPC, images found."""
    db = Database(dsn, size=1, wait=30, statement_timeout=60)
    await db.open()
    finder = ImageFinder(db)
    call: Any = channel.unary_unary(_METHOD, response_deserializer=pb.FindImagesResponse.FromString)
    found = []
    for libraries in wanted.values():
        contents = WantedContents(tuple(PipRequirement(*one) for one in libraries.items()))
        pips: list[Any] = [{"name": name, "version_specifier": text} for name, text in libraries.items()]
        request = pb.FindImagesRequest(pip_requirements=pips, max_results=_MOST).SerializeToString()
        client, called = [], []
        for _ in range(_TRIES):
            began = time.perf_counter()
            images = await finder.find(contents, most=_MOST)
            client.append(time.perf_counter() - began)
            began = time.perf_counter()
            answer: Any = call(request)
            called.append(time.perf_counter() - began)
        _verify(answer, libraries)
        if searched and [one.image.name for one in answer.images] != await _plainly_searched(db, libraries):
            raise RuntimeError(f"what is found for {libraries} is not what a plain search finds")
        found.append((statistics.median(client) * 1000, statistics.median(called) * 1000, len(images)))
    await db.close()
    return found


def _verify(answer: pb.FindImagesResponse, libraries: Wanted) -> None:
    """Each image must hold everything."""
    for one in answer.images:
        held = {library.name: library.version for library in one.image.pip_libraries}
        if not all(name in held and SpecifierSet(text).contains(held[name]) for name, text in libraries.items()):
            raise RuntimeError(f"{one.image.name} does not hold all of {libraries}")


async def _plainly_searched(db: Database, libraries: Wanted) -> list[str]:
    """The same, found by counting what each image holds of it."""
    fitting = {
        (library_key(name), version_key(version)[0])  # `1.0` and `1.0.0` are one
        for name, text in libraries.items()
        for version in VERSIONS
        if SpecifierSet(text).contains(version)
    }
    names, versions = zip(*fitting, strict=True)
    values = {"names": list(names), "versions": list(versions), "count": len(libraries), "most": _MOST}
    rows = await db.read(lambda conn: _rows(conn, values))
    return [row["name"] for row in rows]


async def _rows(conn: Connection, values: dict[str, Any]) -> list[Any]:
    return await (await conn.execute(_PLAIN_SEARCH, values)).fetchall()
