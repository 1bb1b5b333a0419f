"""`image-registry images create`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from image_registry.cli.connection import Connection, connection_options
from image_registry.cli.exits import ExitCode, Failure
from image_registry.cli.output import note, output_option, print_one
from image_registry.cli.wishes import Wish, wish_options
from image_registry.client import (
    AlreadyExistsError,
    CallError,
    CreateImageResult,
    FoundImage,
    ImageRegistryClient,
    ImageStatus,
    ManagedImage,
)


@click.command()
@click.argument("name")
@wish_options("Python version. Default: the service's.")
@click.option("--reuse", is_flag=True, help="Take the best image that holds all of it already, if there is one.")
@click.option("--wait", "waits", is_flag=True, help="Watch the build until it is over; exit code 5 if it fails.")
@click.option(
    "--wait-timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Give up after so many seconds; the build goes on.",
)
@output_option
@connection_options
def create(
    connection: Connection, name: str, wish: Wish, reuse: bool, waits: bool, wait_timeout: float | None, output: str
) -> None:
    """Make a new image with libraries and system packages.

    NAME is lower-case letters and digits in groups parted by - or _. Libraries are named as pip names them, without
    URLs, paths and options; of a requirements file, the lines that can't be taken are listed and nothing is made.
    With --reuse an image that holds all of it, as `images find` finds it, is shown instead of making another; its
    Python is any, unless --python names one.

    \b
    Examples:
      image-registry images create vision --pip 'numpy>=1.26' --pip 'uvicorn[standard]' --apt git --wait
      image-registry images create api -r requirements.txt --python 3.11
      image-registry images create ci -r requirements.txt --reuse --wait -o name
    """
    with connection.told(wish.said()), connection.client() as client, _failed_namesakes_told(client, name):
        made = client.create_image(name, wish.pips, wish.packages, python_version=wish.python_version, reuse=reuse)
    if isinstance(made, FoundImage):
        note(f"{made.image.name} holds all of it already: nothing is built")
        _print(made.image, made.image if waits else made, output)
    elif waits:
        _watch(connection, made, output, wait_timeout)
    else:
        name = made.image.name
        lines = [
            f"{name} is {made.image.status}, job {made.job.job_id}",
            f"watch it with: image-registry images wait {name}",
        ]
        print_one(made, output, name=name, table=lambda: lines)


@contextmanager
def _failed_namesakes_told(client: ImageRegistryClient, name: str) -> Iterator[None]:
    """A refusal because of an image whose build failed says so: nobody wants that image."""
    try:
        yield
    except AlreadyExistsError as error:
        with suppress(CallError):
            if client.get_image(name).status is ImageStatus.FAILED:
                remedy = (
                    f"see why: image-registry images logs {name}\n"
                    f"then delete it, and create it anew: image-registry images delete {name}\n"
                    f"or build it again as it is: image-registry images sync {name}"
                )
                message = f"{error.message}; its build failed"
                raise Failure(message, code=ExitCode.ALREADY_EXISTS, remedy=remedy) from error
        raise


def _watch(connection: Connection, created: CreateImageResult, output: str, timeout: float | None) -> None:
    from image_registry.cli.watching import watch_build  # noqa: PLC0415

    name = created.image.name
    note(f"{name} is recorded, job {created.job.job_id}")
    image = watch_build(connection, created, name=name, timeout=timeout)
    _print(image, image, output)


def _print(image: ManagedImage, value: ManagedImage | FoundImage, output: str) -> None:
    from image_registry.cli.watching import print_built  # noqa: PLC0415

    if output == "table":
        print_built(image)
    else:
        print_one(value, output, name=image.name, table=list)
