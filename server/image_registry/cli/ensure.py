"""`image-registry ensure`."""

from __future__ import annotations

import click

from image_registry.cli.connection import Connection, connection_options
from image_registry.cli.output import note


@click.command()
@connection_options
def ensure(connection: Connection) -> None:
    """See to it that every supported Python has its system image at the current tag. Run it at each deployment.

    What is missing is created, what is outdated is rebuilt, users' images of older tags become OUTDATED. Again, and
    from several places at once, changes nothing more. It doesn't wait for the builds.
    """
    with connection.told(), connection.client() as client:
        client.ensure_image_existence()
    note("every supported Python has its system image, or a build of it under way")
