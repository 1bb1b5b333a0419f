"""Pages out of what was shown before, by RPCs: after each acknowledged write every replica shows what was written."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from ri.api.imageregistry import image_registry_pb2 as pb

from image_registry.storage import image_pages
from tests.fixtures.service import Service, make_settings, running_service


@pytest.fixture
async def replicas(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Service]]:
    """Two that keep what they have shown, of pages of any size, one that keeps little, one that keeps nothing."""
    monkeypatch.setattr(image_pages, "OUTLINED", 1)
    async with AsyncExitStack() as stack:
        settings = [make_settings(page_memory=memory) for memory in (32 << 20, 32 << 20, 1_000, 0)]
        yield [await stack.enter_async_context(running_service(one, dsn)) for one in settings]


async def check(replicas: list[Service], *, size: int = 1000) -> list[str]:
    """Every replica lists what GetImage says of each image; their names."""
    names: list[str] = []
    for replica in replicas:
        found, token, begun = [], "", False
        while token or not begun:
            page = await replica.images.ListImages(pb.ListImagesRequest(page_size=size, page_token=token))
            found += page.images
            token, begun = page.next_page_token, True
        for image in found:
            if image.role_type == pb.ManagedImage.ROLE_TYPE_USER_DEFINED:  # of system images lists show no children
                assert image == await replica.get(image.name)
        names = [image.name for image in found]
    return names


async def test_every_acknowledged_write_is_on_the_next_page(replicas: list[Service]) -> None:
    first, second, *_ = replicas
    for name in ("a", "b", "c"):
        await first.create(name)
    assert "b" in await check(replicas)
    await second.report("b", "numpy==1.0")
    await check(replicas)
    await first.images.SyncImageTag(pb.SyncImageTagRequest(name="b", force=True))
    await check(replicas)
    await second.report("b", "numpy==2.0", "pandas==1.0")
    await check(replicas)
    await first.images.SyncImageTag(pb.SyncImageTagRequest(name="b", force=True))
    await second.report("b", "numpy==1.0")  # as it was once
    await check(replicas)
    await first.images.SyncImageTag(pb.SyncImageTagRequest(name="b", force=True))
    await second.report("b", ok=False)
    await check(replicas)
    await first.images.DeleteImage(pb.DeleteImageRequest(name="b"))
    assert "b" not in await check(replicas)
    await second.create("b", "torch")
    assert "b" in await check(replicas)
    await first.report("b", "torch==1.0")
    await check(replicas)


async def test_a_build_reported_between_two_pages_is_on_the_second(replicas: list[Service]) -> None:
    for name in ("a", "b", "c"):
        await replicas[0].create(name)
    for version in ("1.0", "2.0"):
        await check(replicas, size=2)
        for reader in replicas:
            page = await reader.images.ListImages(pb.ListImagesRequest(page_size=1))
            await replicas[0].images.SyncImageTag(pb.SyncImageTagRequest(name="b", force=True))
            await replicas[0].report("b", f"numpy=={version}")
            rest = await reader.images.ListImages(pb.ListImagesRequest(page_token=page.next_page_token))
            (image,) = (image for image in rest.images if image.name == "b")
            assert image.status == pb.ManagedImage.STATUS_READY
            assert image.pip_libraries[0].version == version


async def test_pages_beside_writers(replicas: list[Service]) -> None:
    """Readers never see less than what was acknowledged before they asked, however writes and reads interleave."""
    dice = random.Random(11)
    acknowledged = dict.fromkeys(("a", "b", "c", "d"), 0)
    for name in acknowledged:
        await replicas[0].create(name)
        await replicas[0].report(name, "numpy==0")
    over = asyncio.Event()

    async def write(name: str) -> None:
        for version in range(1, 15):
            writer = dice.choice(replicas)
            await writer.images.SyncImageTag(pb.SyncImageTagRequest(name=name, force=True))
            await writer.report(name, f"numpy=={version}")
            acknowledged[name] = version

    async def read(replica: Service) -> int:
        pages = 0
        while not over.is_set():
            least = dict(acknowledged)
            page = await replica.images.ListImages(pb.ListImagesRequest(page_size=1000))
            shown = {image.name: int(image.pip_libraries[0].version) for image in page.images if image.pip_libraries}
            assert all(shown[name] >= version for name, version in least.items())
            pages += 1
        return pages

    readers = [asyncio.create_task(read(replica)) for replica in replicas for _ in range(2)]
    await asyncio.gather(*(write(name) for name in acknowledged))
    over.set()
    assert all(await asyncio.gather(*readers))
