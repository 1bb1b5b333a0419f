"""The example image of `image-registry up --example`: made through the public API, before the eyes of a newcomer."""

from __future__ import annotations

import asyncio
import shlex
import sys

import click

from image_registry.cli.exits import build_failure
from image_registry.cli.progress import PlainDisplay
from image_registry.cli.watching import follow
from image_registry.client import (
    AlreadyExistsError,
    AsyncImageRegistryClient,
    BuildFailedError,
    ImageRegistryError,
    ImageStatus,
    ManagedImage,
)
from image_registry.client.waiting import Waitable
from image_registry.host.processes import Command, TetheredProcess

NAME = "hello-numpy"
REQUIREMENT = "numpy"
_USUAL_ADDRESS = "127.0.0.1:50051"


async def build_example(address: str, http_address: str | None) -> bool:
    """Make the image `hello-numpy`, show its build, and print what to try next; returns whether it is READY.

    `address` is the gRPC server, `http_address` the gateway or None without one. An image that is there already is
    left as it is. Whatever goes wrong is printed, nothing is raised: the product runs on without its example.
    It works in a process of its own, because `up` forks children, which gRPC's threads don't survive; that process
    ends with this call, also when the call is cancelled.
    """
    argv = (sys.executable, "-m", "image_registry.cli.example", address, *([http_address] if http_address else []))
    process = await TetheredProcess.start(Command(argv, stop_seconds=1.0))
    try:
        return await process.wait() == 0
    finally:
        if process.returncode is None:
            await process.stop()


async def _build(address: str, http_address: str | None) -> bool:
    click.echo(
        f"\nan example through the API, as `image-registry images create {NAME} --pip {REQUIREMENT} --wait` does:"
    )
    try:
        async with AsyncImageRegistryClient(address) as client:
            image = await _made(client)
    except BuildFailedError as error:
        build_failure(error).show()
        click.echo(f"the product runs on; the image can be built again: image-registry images sync {NAME}")
        return False
    except ImageRegistryError as error:
        click.echo(f"the example could not be made: {error}", err=True)
        return False
    click.echo(_what_next(image, address, http_address))
    return True


async def _made(client: AsyncImageRegistryClient) -> ManagedImage:
    what: Waitable
    try:
        what = await client.create_image(NAME, [REQUIREMENT])
    except AlreadyExistsError:
        image = await client.get_image(NAME)
        if image.status is ImageStatus.FAILED:
            click.echo(f"{NAME} exists, but its build failed: it is built again")
            what = await client.sync_image_tag(NAME)
        else:
            click.echo(f"{NAME} exists already and is {image.status}")
            if not image.is_building:
                return image
            what = NAME
    with PlainDisplay(NAME, sys.stderr) as screen:  # not the live one: `up` prints lines of its own beside it
        return await follow(client, what, screen)


def _what_next(image: ManagedImage, address: str, http_address: str | None) -> str:
    numpy = image.library_version(REQUIREMENT) or ""
    server = "" if address == _USUAL_ADDRESS else f" --server {address}"
    steps = [
        ("find it by what is installed in it", [f"image-registry images list --with {REQUIREMENT}=={numpy}{server}"]),
        ("make one of your own", [f"image-registry images create mine --pip 'pandas>=2' --wait{server}"]),
    ]
    if http_address is not None:
        body = f'{{"pipLibraries": [{{"name": "{REQUIREMENT}", "version": "{numpy}"}}]}}'
        rest = [
            f"curl http://{http_address}/v1/images/{NAME}",
            f"curl http://{http_address}/v1/images/list -d '{body}'",
        ]
        steps.insert(1, ("the same over REST", rest))
    if image.repo_uri.startswith("oci:"):
        layout = shlex.quote(image.repo_uri.removeprefix("oci:"))
        look = [
            f"skopeo inspect oci:{layout}:latest",
            f"podman run --rm oci:{layout}:latest python -c 'import numpy; print(numpy.__version__)'",
        ]
        steps.append(("it is an OCI image layout: look into it, or run it", look))
    lines = [f"{NAME} is {image.status}: Python {image.python_version}, {REQUIREMENT} {numpy}, {image.repo_uri}", ""]
    lines.append("try next, in another terminal:")
    for title, commands in steps:
        lines += [f"  {title}:", *(f"    {command}" for command in commands)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(_build(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)) else 1)
