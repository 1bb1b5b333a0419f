"""Registries of a given size."""

from __future__ import annotations

from ri.api.imageregistry import image_registry_pb2 as pb

from tests.fixtures.service import Service

SYSTEM_IMAGE = "system-python-3-11"


async def fill(service: Service, count: int) -> list[str]:
    """Make `count` images, the system image among them, with numpy 1.26.4 in those of even number; their names."""
    if count:
        await service.images.EnsureImageExistence(pb.EnsureImageExistenceRequest())
        await service.report(SYSTEM_IMAGE, "pip==25.0")
    names = [f"image-{number}" for number in range(count - 1)]
    for number, name in enumerate(names):
        await service.create(name)
        await service.report(name, "numpy==1.26.4" if number % 2 == 0 else "scipy==1.0")
    return sorted([*names, *([SYSTEM_IMAGE] if count else [])])


def with_numpy(names: list[str]) -> list[str]:
    """Those of `names` that `fill` gave numpy."""
    return [name for name in names if name != SYSTEM_IMAGE and int(name.rpartition("-")[2]) % 2 == 0]
