"""`image-registry images find`."""

from __future__ import annotations

import click

from image_registry.cli.connection import Connection, connection_options
from image_registry.cli.exits import ExitCode, Failure
from image_registry.cli.output import output_option, print_many
from image_registry.cli.wishes import Wish, wish_options
from image_registry.client import FoundImage

_HEADER = ("NAME", "PYTHON", "TAG", "FURTHER", "REPOSITORY", "MATCHING")


@click.command()
@wish_options("Python version. Default: any.")
@click.option(
    "--limit", type=click.IntRange(min=1, max=100), default=10, metavar="N", help="Show at most that many. [10]"
)
@output_option
@connection_options
def find(connection: Connection, wish: Wish, limit: int, output: str) -> None:
    """Find images that already hold all of this, the best first.

    READY images whose libraries fit every requirement, version ranges included. The best has the fewest libraries
    beyond those (FURTHER); among equals it is the newest. Exit code 3 when there is none.

    \b
    Examples:
      image-registry images find -r requirements.txt
      image-registry images find --pip 'numpy>=1.26,<3' --pip 'uvicorn[standard]' --python 3.11 --limit 1 -o name
    """
    with connection.told(wish.said()), connection.client() as client:
        found = client.find_images(wish.pips, wish.packages, python_version=wish.python_version, max_results=limit)
    if not found:
        raise Failure(
            "no image that is READY holds all of this",
            code=ExitCode.NOT_FOUND,
            remedy="make one with: image-registry images create NAME and the same options",
        )
    print_many(found, output, name=lambda one: one.image.name, header=_HEADER, row=_row)


def _row(found: FoundImage) -> tuple[str, ...]:
    image = found.image
    matching = " ".join(f"{library.name}=={library.version}" for library in found.matching_libraries)
    return (image.name, image.python_version, image.rime_tag, str(found.further_libraries), image.repo_uri, matching)
