"""GetImage: stored bytes with status and children on top, whatever happens to the connection they come from."""

import asyncio

import psycopg
from ri.api.imageregistry import image_registry_pb2 as pb

from tests.fixtures.service import Service

Image = pb.ManagedImage


async def test_every_caller_gets_the_image_it_named(service: Service) -> None:
    names = [f"image-{number}" for number in range(30)]
    await asyncio.gather(*(service.create(name, python_version="3.11") for name in names))
    # 180 at once: 200 calls is what one connection may have under way
    found = await asyncio.gather(*(service.get(name) for name in names * 6))
    assert [image.name for image in found] == names * 6
    assert {image.status for image in found} == {Image.STATUS_BUILDING_FIRST_TIME}


async def test_children_are_shown(service: Service) -> None:
    await asyncio.gather(*(service.create(f"image-{number}", python_version="3.11") for number in range(3)))
    system = await service.get("system-python-3-11")
    assert [child.name for child in system.child_images] == ["image-0", "image-1", "image-2"]
    assert {child.reference_type for child in system.child_images} == {pb.ImageReference.REFERENCE_TYPE_MANAGED}
    assert system.role_type == Image.ROLE_TYPE_SYSTEM


async def test_no_read_is_stale_or_lost_when_connections_break(service: Service, dsn: str) -> None:
    """Every backend is terminated again and again; each read answers, and with the last acknowledged write."""
    await service.create("vision", python_version="3.11")
    await service.report("vision", "numpy==1.0.0")
    over = asyncio.Event()

    async def read() -> None:
        while not over.is_set():
            assert (await service.get("vision")).status == Image.STATUS_READY

    async def terminate() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            for _ in range(5):
                await conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )
                await asyncio.sleep(0.3)
        over.set()

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(read())
        group.create_task(terminate())
