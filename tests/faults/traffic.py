"""Callers who remember what was acknowledged to them: create, delete, create again, cancel, rebuild."""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

from tests.fixtures.package_index import PackageIndex, make_wheel

LIBRARIES = ("alder", "birch", "cedar", "dogwood", "elm", "fir")
MISSING = "no-such-library"
AT_ONCE = 9  # builds that are unfinished at most


@dataclass
class Expected:
    """What callers were told about one name. `present` None: the last answer was lost and no later one told."""

    present: bool | None = None
    libraries: tuple[str, ...] = ()
    cancelled: bool = False
    jobs: list[str] = field(default_factory=list)

    @property
    def buildable(self) -> bool:
        """Whether its requirements can be met."""
        return MISSING not in self.libraries


def fill_index(index: PackageIndex) -> None:
    """Offer small libraries, one of which is large enough for a layer of its own; two need others."""
    noise = random.Random(7)
    needs = {"birch": ["alder"], "cedar": ["birch", "dogwood"]}
    for name in LIBRARIES:
        size = 1_500_000 if name == "elm" else 30_000
        index.add(make_wheel(name, files={f"{name}/data.bin": noise.randbytes(size)}, requires=needs.get(name, [])))


class Traffic:
    """Makes `builds` builds, and keeps the books."""

    def __init__(self, http_address: str, builds: int, seed: int) -> None:
        self.images: dict[str, Expected] = {}
        self.counts = dict.fromkeys(("created", "deleted", "recreated", "cancelled", "rebuilt", "impossible"), 0)
        self._builds = builds
        self._random = random.Random(seed)
        self._http = httpx.AsyncClient(base_url=f"http://{http_address}", timeout=5.0)
        self._channel = aio.insecure_channel(http_address)
        self._stub: Any = ImageRegistryStub(self._channel)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
        await self._channel.close()

    async def run(self) -> None:
        """Ask for all the builds, a few at a time."""
        asked = 0
        while asked < self._builds:
            if await self.unfinished() < AT_ONCE:
                await self._one_more(asked)
                asked += 1
            await asyncio.sleep(self._random.uniform(0.05, 0.3))

    async def unfinished(self) -> int:
        """How many builds are not over, as far as the service can be asked."""
        values = [("selected_statuses", status) for status in ("REQUESTED", "PENDING", "RUNNING", "RECONCILING")]
        query = [(f"first_page_query.{name}", f"JOB_STATUS_{value}") for name, value in values]
        answer = await self._until_answered("GET", "/v1/jobs", params=[*query, ("page_size", "100")])
        assert answer.status_code == 200, answer.text
        return len(answer.json()["jobs"])

    async def _one_more(self, number: int) -> None:
        """One more build, of a new image or of an old one."""
        kind = number % 10
        settled = [name for name, image in self.images.items() if image.present and not image.cancelled]
        if kind == 4 and settled:
            await self._recreate(self._random.choice(settled))
        elif kind == 6 and settled:
            await self._rebuild(self._random.choice(settled))
        elif kind == 8:
            await self._create(f"image{number}", (MISSING, "alder"))
            self.counts["impossible"] += 1
        else:
            await self._create(f"image{number}", tuple(self._random.sample(LIBRARIES, 3)))
        if kind == 5:
            await self._cancel(f"image{number}")
        if kind == 9 and len(settled) > 2:
            await self._delete(self._random.choice(settled))

    async def _create(self, name: str, libraries: tuple[str, ...]) -> None:
        image = self.images.setdefault(name, Expected())
        image.present, image.libraries, image.cancelled = None, libraries, False
        body = {"name": name, "pip_requirements": [{"name": library} for library in libraries]}
        answer = await self._until_answered("POST", "/v1/images", json=body)
        assert answer.status_code in {200, 409}, answer.text  # 409: an answer before was lost
        image.present = True
        if answer.status_code == 200:
            image.jobs.append(answer.json()["job"]["jobId"])
        self.counts["created"] += 1

    async def _delete(self, name: str) -> None:
        image = self.images[name]
        image.present = None
        answer = await self._until_answered("DELETE", f"/v1/images/{name}")
        assert answer.status_code in {200, 404}, answer.text
        image.present = False
        self.counts["deleted"] += 1

    async def _recreate(self, name: str) -> None:
        await self._delete(name)
        await self._create(name, tuple(self._random.sample(LIBRARIES, 2)))
        self.counts["recreated"] += 1

    async def _cancel(self, name: str) -> None:
        image = self.images[name]
        if image.jobs:
            await asyncio.sleep(self._random.uniform(0, 1.5))
            answer = await self._until_answered("POST", f"/v1/jobs/cancel/{image.jobs[-1]}")
            assert answer.status_code in {200, 400}, answer.text  # 400: it was over already
            image.cancelled = answer.status_code == 200
            self.counts["cancelled"] += image.cancelled

    async def _rebuild(self, name: str) -> None:
        while True:
            try:
                await self._stub.SyncImageTag(pb.SyncImageTagRequest(name=name, force=True), timeout=5)
                break
            except aio.AioRpcError as error:
                if error.code() not in _PASSING:
                    raise
            await asyncio.sleep(0.1)
        self.counts["rebuilt"] += 1

    async def _until_answered(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Ask until the service itself answers, however often something on the way there is away."""
        async with asyncio.timeout(90):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await self._http.request(method, path, **request)
                    assert answer.status_code != 500, answer.text
                    if answer.status_code < 500 and answer.status_code != 429:
                        return answer
                await asyncio.sleep(0.1)


_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
