"""Lists: whatever is created and deleted meanwhile, what exists throughout appears once, in order, on some page."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from grpc import aio
from hypothesis import given
from hypothesis import strategies as st
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_status_pb2 as statuses
from ri.api.imageregistry import jobs_pb2
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

from image_registry import limits
from image_registry.storage import image_pages
from tests.fixtures.budget import examples
from tests.fixtures.refusals import refused
from tests.fixtures.service import Service, make_settings

Libraries = frozenset[tuple[str, str]]
Filter = tuple[str, str | None]

LIBRARIES = [(library, version) for library in ("numpy", "pandas", "torch") for version in ("1", "2")]
names = st.integers(0, 60).map(lambda number: f"image-{number}")
contents = st.frozensets(st.sampled_from(LIBRARIES), max_size=4)
filters = st.lists(
    st.tuples(st.sampled_from(["numpy", "pandas", "torch", "none"]), st.sampled_from([None, None, "1", "2.0"])),
    max_size=3,
)
changes = st.lists(st.tuples(names, st.none() | contents), max_size=6)  # None: deleted, else created with these


def meets(libraries: Libraries, wanted: Iterable[Filter]) -> bool:
    return all(
        any(library == name and version in {None, found, f"{found}.0"} for library, found in libraries)
        for name, version in wanted
    )


def as_filter(wanted: Iterable[Filter]) -> list[pb.ListImagesRequest.PipLibraryFilter]:
    return [pb.ListImagesRequest.PipLibraryFilter(name=name, version=version) for name, version in wanted]


@dataclass
class Shelf:
    """Images written straight into the database, which is quick, and what is known of them."""

    sql: psycopg.AsyncConnection[Any]
    there: dict[str, Libraries] = field(default_factory=dict)

    async def clear(self) -> None:
        await self.sql.execute("truncate images, image_libraries, jobs cascade")
        self.there.clear()

    async def put(self, contents: dict[str, Libraries]) -> None:
        """Add images, READY with their libraries."""
        new = {name: libraries for name, libraries in contents.items() if name not in self.there}
        await self.sql.execute(
            """insert into images (name, role, status, python_version, platform_tag, definition)
            select name, 1, 3, '3.12', 'v1', definition from unnest(%s::text[], %s::bytea[]) as x (name, definition)""",
            [list(new), [pb.ManagedImage(name=name).SerializeToString() for name in new]],
        )
        rows = [
            (library, name, version) for name, libraries in new.items() for library, version in dict(libraries).items()
        ]
        await self.sql.execute(
            """insert into image_libraries (library, image_name, version)
            select * from unnest(%s::text[], %s::text[], %s::text[])""",
            [[row[column] for row in rows] for column in range(3)],
        )
        self.there |= {name: frozenset(dict(libraries).items()) for name, libraries in new.items()}

    async def remove(self, name: str) -> None:
        await self.sql.execute("delete from image_libraries where image_name = %s", [name])
        await self.sql.execute("delete from images where name = %s", [name])
        self.there.pop(name, None)


@pytest.fixture
async def shelf(service: Service, dsn: str) -> AsyncIterator[Shelf]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        yield Shelf(conn)


@given(
    first=st.dictionaries(names, contents, max_size=40),
    wanted=filters,
    sizes=st.lists(st.sampled_from([1, 2, 3, 7, 20]), min_size=1, max_size=4),
    meanwhile=st.lists(changes, max_size=12),
    few=st.booleans(),
    outlined=st.booleans(),
    bytes_on_a_page=st.sampled_from([1, 60, 32 << 20]),
)
@examples(60)
async def test_no_image_that_exists_throughout_is_skipped_or_repeated(
    service: Service,
    shelf: Shelf,
    first: dict[str, Libraries],
    wanted: list[Filter],
    sizes: list[int],
    meanwhile: list[list[tuple[str, Libraries | None]]],
    few: bool,
    outlined: bool,
    bytes_on_a_page: int,
) -> None:
    await shelf.clear()
    await shelf.put(first)
    throughout = {name for name, libraries in shelf.there.items() if meets(libraries, wanted)}
    ever = set(throughout)
    listed: list[str] = []
    token, pages = "", 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "PAGE_BYTES", bytes_on_a_page)
        if outlined:
            patch.setattr(image_pages, "OUTLINED", 1)
        if few:  # so that a few images show what else takes thousands
            patch.setattr(image_pages, "SAMPLE", 3)
            patch.setattr(image_pages, "CANDIDATES", 4)
        while pages == 0 or token:
            size = sizes[pages % len(sizes)]
            beside = (
                as_filter(wanted) if pages % 2 == 0 else []
            )  # a token carries the filter; the same beside it is fine
            request = pb.ListImagesRequest(page_size=size, page_token=token, pip_libraries=beside)
            page = await service.images.ListImages(request)
            found = [image.name for image in page.images]
            assert len(found) <= size
            assert pages < 200, "an end to it"
            assert found or not page.next_page_token
            listed += found
            for name, libraries in meanwhile[pages] if pages < len(meanwhile) else []:
                await shelf.remove(name)
                throughout.discard(name)
                if libraries is not None:
                    await shelf.put({name: libraries})
                    if meets(shelf.there[name], wanted):
                        ever.add(name)
            token, pages = page.next_page_token, pages + 1
    assert listed == sorted(set(listed)), "in order, none twice"
    assert throughout <= set(listed) <= ever


async def test_lists_hold_while_images_come_and_go(service: Service, shelf: Shelf) -> None:
    """The same with real concurrency: writers create, build and delete through the RPCs while readers turn pages."""
    dice = random.Random(3)
    await shelf.put({f"stable-{n:03}": frozenset({("numpy", str(n % 3))}) for n in range(120)})
    over = asyncio.Event()

    async def write(writer: int) -> None:
        for round_ in range(12):
            name = f"{dice.choice(['a', 'stable-05', 'stable-1', 'z'])}x-{writer}-{round_}"
            await service.create(name)
            await service.report(name, f"numpy=={dice.randrange(3)}", "pandas==1")
            if dice.random() < 0.7:
                await service.images.DeleteImage(pb.DeleteImageRequest(name=name))

    async def read(reader: int) -> int:
        walks = 0
        while not over.is_set() or walks == 0:
            version = [None, "0", "1", "2"][(reader + walks) % 4]
            wanted = as_filter([("numpy", version)]) if reader % 2 else []
            found, token, started = [], "", False
            while token or not started:
                request = pb.ListImagesRequest(page_size=7 + reader, page_token=token, pip_libraries=wanted)
                page = await service.images.ListImages(request)
                found += [image.name for image in page.images]
                token, started = page.next_page_token, True
            assert found == sorted(set(found))
            stable = [name for name in found if name.startswith("stable-") and "x" not in name]
            kept = [f"stable-{n:03}" for n in range(120) if not wanted or version in {None, str(n % 3)}]
            assert stable == kept
            walks += 1
        return walks

    readers = [asyncio.create_task(read(reader)) for reader in range(4)]
    await asyncio.gather(*(write(writer) for writer in range(4)))
    over.set()
    assert all(await asyncio.gather(*readers))


async def test_a_page_never_exceeds_what_an_answer_may_hold(service: Service, shelf: Shelf) -> None:
    """Images as large as they get: the page ends early, and the token leads on."""
    await shelf.put({f"big-{n:02}": frozenset() for n in range(12)})
    filler = pb.ManagedImage(repo_uri="x" * (5 << 20)).SerializeToString()
    await shelf.sql.execute("update images set definition = definition || %s", [filler])
    sizes: list[int] = []
    token = ""
    while not sizes or token:
        page = await service.images.ListImages(pb.ListImagesRequest(page_size=1000, page_token=token))
        sizes.append(len(page.images))
        token = page.next_page_token
    assert sizes == [6, 6]


async def test_page_sizes(service: Service, shelf: Shelf) -> None:
    await shelf.put({f"image-{n:04}": frozenset() for n in range(1100)})
    for asked, given_ in ((0, 50), (1, 1), (999, 999), (1000, 1000), (5000, 1000), (2**62, 1000)):
        page = await service.images.ListImages(pb.ListImagesRequest(page_size=asked))
        assert len(page.images) == given_
        assert page.next_page_token
    assert (await refused(service.images.ListImages(pb.ListImagesRequest(page_size=-1)))).fields.keys() == {"pageSize"}


@pytest.mark.parametrize(
    ("service", "agent", "echo"),
    [
        (make_settings(), "grpc-python", False),
        (make_settings(), "Swagger-Codegen/1.0.0/python", True),
        (make_settings(legacy_page_echo=True), "grpc-python", True),
    ],
    indirect=["service"],
)
async def test_the_last_page_ends_as_the_client_expects_it(
    service: Service, shelf: Shelf, agent: str, echo: bool
) -> None:
    await shelf.put({f"image-{n:02}": frozenset() for n in range(21)})
    options = [("grpc.primary_user_agent", agent)]
    async with aio.insecure_channel(service.address, options=options) as channel:
        stub = ImageRegistryStub(channel)
        first = await stub.ListImages(pb.ListImagesRequest(page_size=20))
        last = await stub.ListImages(pb.ListImagesRequest(page_size=20, page_token=first.next_page_token))
        assert len(first.images) + len(last.images) == 21
        assert first.next_page_token
        assert last.next_page_token == (first.next_page_token if echo else "")
        whole = await stub.ListImages(pb.ListImagesRequest(page_size=21))
        assert whole.next_page_token == "", "a list of one page ends at once for everybody"


async def test_tokens_are_bound_to_their_list(service: Service, shelf: Shelf) -> None:
    await shelf.put({f"image-{n}": frozenset({("numpy", "1")}) for n in range(3)})
    wanted = as_filter([("numpy", "1")])
    token = (await service.images.ListImages(pb.ListImagesRequest(page_size=1, pip_libraries=wanted))).next_page_token
    other = as_filter([("numpy", None)])
    for request in (
        pb.ListImagesRequest(page_token=token, pip_libraries=other),
        pb.ListImagesRequest(page_token=token[:-1]),
        pb.ListImagesRequest(page_token="x"),
    ):
        refusal = await refused(service.images.ListImages(request))
        assert refusal.reason == "INVALID_PAGE_TOKEN"
        assert refusal.fields.keys() == {"pageToken"}
    foreign = jobs_pb2.ListJobsRequest(page_token=token)
    assert (await refused(service.jobs.ListJobs(foreign))).reason == "INVALID_PAGE_TOKEN"


@given(
    first=st.lists(st.sampled_from(["a", "b"]), max_size=15),
    ended=st.sets(st.integers(0, 14)),
    size=st.sampled_from([1, 2, 5]),
    of_image=st.sampled_from([None, "a"]),
    wanted=st.sampled_from(
        [[], [statuses.JOB_STATUS_REQUESTED], [statuses.JOB_STATUS_FAILED, statuses.JOB_STATUS_REQUESTED]]
    ),
    meanwhile=st.lists(st.sampled_from(["a", "b", "end"]), max_size=12),
)
@examples(40)
async def test_no_job_that_exists_throughout_is_skipped_or_repeated(
    service: Service,
    shelf: Shelf,
    first: list[str],
    ended: set[int],
    size: int,
    of_image: str | None,
    wanted: list[statuses.JobStatus.ValueType],
    meanwhile: list[str],
) -> None:
    await shelf.clear()
    for number, name in enumerate(first):
        await add_job(shelf.sql, name, number, ended=number in ended)
    query = jobs_pb2.ListJobsRequest.Query(selected_statuses=wanted, object_id=of_image)
    condition = "where kind = 1 and (%s::text is null or image_name = %s) and (%s = '{}' or status = any (%s))"
    values = [of_image, of_image, wanted, wanted]
    select = f"select uuid::text from jobs {condition} order by id desc"

    async def there() -> list[str]:
        return [row[0] for row in await (await shelf.sql.execute(select, values)).fetchall()]

    throughout = await there()
    listed: list[str] = []
    request = jobs_pb2.ListJobsRequest(page_size=size, first_page_query=query)
    steps = iter(meanwhile)
    while True:
        page = await service.jobs.ListJobs(request)
        assert len(page.jobs) <= size
        listed += [job.job_id for job in page.jobs]
        assert page.has_more == bool(page.next_page_token)
        if not page.has_more:
            break
        match next(steps, None):
            case "end":
                await shelf.sql.execute(
                    """update jobs set status = 3, termination_reason = 4, finished_at = now()
                    where id = (select min(id) from jobs where status = 5)"""
                )
            case str(name):
                await add_job(shelf.sql, name, 100 + len(listed), ended=False)
        still = set(await there())
        throughout = [job for job in throughout if job in still]
        request = jobs_pb2.ListJobsRequest(page_size=size, page_token=page.next_page_token)
    assert len(listed) == len(set(listed)), "none twice"
    assert [job for job in listed if job in set(throughout)] == throughout, "all of them, newest first"


async def add_job(sql: psycopg.AsyncConnection[Any], name: str, image_id: int, *, ended: bool) -> None:
    await sql.execute(
        """insert into jobs
            (kind, image_id, image_name, repository, definition, status, termination_reason, finished_at)
        values (1, %s, %s, 'r', '', %s, %s, %s)""",
        [-image_id - 1, name, 3 if ended else 5, 4 if ended else 1, "now" if ended else None],
    )
