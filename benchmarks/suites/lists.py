"""ListImages: whether a page costs the same in a large registry as in a small one, and what a very large page costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ri.api.imageregistry import image_registry_pb2 as pb

from benchmarks import data
from benchmarks.bench import Bench, unchecked
from benchmarks.environment import Server
from benchmarks.figures import Figure
from benchmarks.measuring import Call, median_ms, rounds
from image_registry.codec import encode_list_response, encode_listed
from image_registry.models import ImagePage, LibraryFilter
from image_registry.requirements import library_key, version_key
from image_registry.storage import image_pages
from image_registry.storage.database import Connection, Database

SMALL = 1_000
PAGE = 50
_TRIES = 15
_LARGE_PAGE, _LARGE_LIBRARIES, _LARGE_IMAGES = 1_000, 100, 20_000
_LARGE_PAGES_AGAIN = 10  # as many as a server keeps, by default: 21 MB


def _filters(*wanted: str | tuple[str, str]) -> list[LibraryFilter]:
    return [LibraryFilter(one, None) if isinstance(one, str) else LibraryFilter(*one) for one in wanted]


_L = data.library
CASES: Mapping[str, tuple[str, Sequence[LibraryFilter]]] = {
    "first page": ("", ()),
    "deep": ("team-5", ()),
    "a library in nearly all": ("", _filters(_L(0))),
    "in every second": ("", _filters(_L(9))),
    "in one of 15": ("", _filters(_L(100))),
    "in one of 150": ("", _filters(_L(1000))),
    "in twenty": ("", _filters(data.RARE)),
    "in none": ("", _filters("absent")),
    "a popular one at a rare version": ("", _filters((_L(3), "0.9.1"))),
    "two popular": ("", _filters(_L(0), _L(3))),
    "two popular, deep": ("team-5", _filters(_L(1), (_L(3), "2.1.0"))),
    "five popular": ("", _filters(*(_L(rank) for rank in range(5)))),
    "five popular with versions": ("", _filters(*((_L(rank), "2.1.0") for rank in range(5)))),
    "two in one of 15": ("", _filters(_L(100), _L(120))),
    "three in one of 15": ("", _filters(_L(100), _L(110), _L(120))),
    "three in one of 150": ("", _filters(_L(1000), _L(1010), _L(1020))),
    "rare and popular": ("", _filters(data.RARE, _L(0))),
    "rare and popular at its rarest version": ("", _filters(data.RARE, (data.HALF_A, data.RAREST_VERSION))),
    "two popular that never meet": ("", _filters(data.HALF_A, data.HALF_B)),
    "the same, deep": ("team-5", _filters(data.HALF_A, data.HALF_B)),
    "a popular one at two versions": ("", _filters((_L(0), "2.1.0"), (_L(0), "2.0.3"))),
}
WORST = (
    "rare and popular at its rarest version",
    "two popular that never meet",
    "the same, deep",
    "a popular one at two versions",
    "three in one of 150",
)


def run(bench: Bench) -> None:
    """Growth of every case."""
    asyncio.run(_growth(bench, bench.environment.filled(SMALL), bench.dsn))


async def _growth(bench: Bench, small_dsn: str, large_dsn: str) -> None:
    """Each case in both registries, tried in turns."""
    small = Database(small_dsn, size=1, wait=30, statement_timeout=60)
    large = Database(large_dsn, size=1, wait=30, statement_timeout=60)
    await small.open()
    await large.open()
    rows = [["case", f"{SMALL:,} images, ms", f"{bench.images:,} images, ms", "images on the page"]]
    worst_excess, worst_case = 0.0, 0.0
    for name, (after, filters) in CASES.items():
        times: tuple[list[float], list[float]] = ([], [])
        found = 0
        for _ in range(_TRIES):
            await _timed(small, after, filters, times[0])
            found = await _timed(large, after, filters, times[1])
        await _verify(large, after, filters)
        low, high = median_ms(times[0]), median_ms(times[1])
        rows.append([name, f"{low:.2f}", f"{high:.2f}", str(found)])
        if found == PAGE:
            worst_excess = max(worst_excess, high / (3 * low + 2))
        if name in WORST:
            worst_case = max(worst_case, high)
    await small.close()
    await large.close()
    bench.report.tables["ListImages, pages of 50, in the database client"] = rows
    label = f"{bench.images:,} images"
    name = f"ListImages: worst full page / (3 x its time at 1,000 + 2 ms), {label}"
    bench.report.add(Figure(name, worst_excess, at_most=1))
    bench.report.add(Figure(f"ListImages: worst case ms, {label}", worst_case, at_most=40))


async def _verify(db: Database, after: str, filters: Sequence[LibraryFilter]) -> None:
    """The page must be what a plain search finds."""
    conditions = "".join(
        f" and exists (select from image_libraries l where l.image_name = i.name and l.library = %(n{number})s"
        f" and (%(v{number})s::text is null or l.version = %(v{number})s))"
        for number in range(len(filters))
    )
    values: dict[str, Any] = {"after": after, "limit": PAGE}
    for number, wanted in enumerate(filters):
        version = None if wanted.version is None else version_key(wanted.version)[0]
        values |= {f"n{number}": library_key(wanted.name), f"v{number}": version}
    images = f"images i where i.name > %(after)s{conditions} order by i.name limit %(limit)s"
    statement: Any = f"select i.status, i.definition from {images}"  # noqa: S608
    rows = await db.read(lambda conn: _rows(conn, statement, values))
    page = await db.read(lambda conn: image_pages.page(conn, after=after, size=PAGE, filters=filters))
    if b"".join(page.images) != encode_listed((row["status"], bytes(row["definition"])) for row in rows):
        raise RuntimeError(f"the page of {filters} after {after!r} is not what a plain search finds")


async def _rows(conn: Connection, statement: Any, values: dict[str, Any]) -> list[Any]:
    return await (await conn.execute(statement, values)).fetchall()


async def _timed(db: Database, after: str, filters: Sequence[LibraryFilter], times: list[float]) -> int:
    began = time.perf_counter()
    page = await db.read(lambda conn: image_pages.page(conn, after=after, size=PAGE, filters=filters))
    times.append(time.perf_counter() - began)
    return len(_images(page))


def _images(page: ImagePage) -> Sequence[pb.ManagedImage]:
    return pb.ListImagesResponse.FromString(encode_list_response(page.images, "")).images


def large_page(bench: Bench) -> None:
    """1,000 images with 100 libraries each in one answer: pages that the server has shown before, and others.

    The registry's definitions take more than a server keeps of them, by default, so that one who walks through all of
    it finds none kept.
    """
    environment = bench.environment
    dsn = environment.filled(_LARGE_IMAGES, _LARGE_LIBRARIES)
    seen, walked = environment.registry(dsn), environment.registry(dsn)
    answer, every = _large_pages(bench, seen)
    shown = bench.calls("pages", every)
    again = bench.calls("pages-again", every[:_LARGE_PAGES_AGAIN])
    canned = environment.canned(answer)
    try:
        found = rounds(
            {
                "canned": bench.contender(canned, "ListImages", unchecked(again), 2),
                "product, pages shown before": bench.contender(seen, "ListImages", again, 2),
                "product, pages not shown before": bench.contender(walked, "ListImages", shown, 2),
            },
            bench.rounds,
        )
        size = f"{len(answer) / 1e6:.1f} MB"
        bench.report.rates(f"ListImages, 1,000 images with 100 libraries each ({size}), 2 streams", found, "canned")
        for pages in ("pages shown before", "pages not shown before"):
            figure = f"ListImages 1,000 x 100/canned, 2 streams, {pages}"
            bench.report.compare(found, f"product, {pages}", "canned", figure, at_least=0.5)
    finally:
        environment.stop(seen, walked, canned)


def _large_pages(bench: Bench, server: Server) -> tuple[bytes, list[Call]]:
    """The first answer, and the calls for all pages. Checks every image of every page.

    Under load each page must contain its first image: one farther on would be searched for in the server's time.
    """
    expected = sorted(data.samples(_LARGE_IMAGES, _LARGE_LIBRARIES), key=lambda sample: sample.name)
    wanted = [pb.ManagedImage.FromString(sample.definition()) for sample in expected]
    for image in wanted:
        image.status = pb.ManagedImage.STATUS_READY
    found: list[pb.ManagedImage] = []
    calls: list[Call] = []
    answers: list[bytes] = []
    token = ""
    while not answers or token:
        request = pb.ListImagesRequest(page_size=_LARGE_PAGE, page_token=token).SerializeToString()
        answers.append(bench.answer(server, "ListImages", request))
        page = pb.ListImagesResponse.FromString(answers[-1])
        calls.append(Call(request, expected[max(0, len(found) - 1)].definition()))
        found += page.images
        token = page.next_page_token
    if found[1:] != wanted:  # the first is the system image
        raise RuntimeError("the large pages do not hold what was loaded")
    return answers[0], calls[:-1]  # the last is short
