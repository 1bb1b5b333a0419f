"""Names of images for the shell's completion: asked of the service, quickly or not at all."""

from __future__ import annotations

import time
from itertools import islice, takewhile

import click

_MOST = 200
_SECONDS = 1.5


def complete_image(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """The images whose names begin like that."""
    return _names(ctx, incomplete)


def _names(ctx: click.Context, incomplete: str) -> list[str]:
    from image_registry.cli.connection import OPTION_NAMES, connect  # noqa: PLC0415
    from image_registry.client import ImageRegistryError  # noqa: PLC0415

    until = time.monotonic() + _SECONDS
    given = {name: ctx.params.get(name) for name in OPTION_NAMES if name != "timeout"}
    try:
        with connect(**given, timeout=_SECONDS).client() as client:
            in_time = takewhile(lambda _: time.monotonic() < until, client.list_images())
            return list(islice((image.name for image in in_time if image.name.startswith(incomplete)), _MOST))
    except (ImageRegistryError, click.ClickException, OSError, ValueError):
        return []
