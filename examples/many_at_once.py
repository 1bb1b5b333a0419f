"""Make several images at once with asyncio, and say how each one ended.

python examples/many_at_once.py 127.0.0.1:50051 team-a=numpy team-b=pandas,scipy
"""

import asyncio
import sys

from image_registry.client import AsyncImageRegistryClient, ImageRegistryError


async def make(registry: AsyncImageRegistryClient, name: str, requirements: list[str]) -> str:
    """Make one image and say how that ended."""
    try:
        image = await registry.wait(await registry.create_image(name, requirements), timeout=1800)
    except ImageRegistryError as error:
        return f"{name}: {error}"
    return f"{name} is {image.status}: {image.repo_uri}"


async def main(address: str, wishes: list[str]) -> None:
    """Make all of them, none waiting for another."""
    async with AsyncImageRegistryClient(address) as registry:
        pairs = [wish.split("=", 1) for wish in wishes]
        lines = await asyncio.gather(*(make(registry, name, libraries.split(",")) for name, libraries in pairs))
    print("\n".join(lines))


if len(sys.argv) < 3 or not all("=" in wish for wish in sys.argv[2:]):
    sys.exit(f"usage: python {sys.argv[0]} HOST:PORT NAME=LIBRARY[,LIBRARY…]…")
asyncio.run(main(sys.argv[1], sys.argv[2:]))
