"""`image-registry images`: make, find, look at, rebuild and remove images."""

from __future__ import annotations

import sys
from itertools import islice

import click

from image_registry.cli.completing import complete_image
from image_registry.cli.connection import Connection, connection_options
from image_registry.cli.create import create
from image_registry.cli.exits import ExitCode
from image_registry.cli.find import find
from image_registry.cli.groups import InOrder
from image_registry.cli.output import coloured, columns, note, output_option, print_many, print_one
from image_registry.client import ImageStatus, ManagedImage

_HEADER = ("NAME", "STATUS", "PYTHON", "TAG", "LIBRARIES", "REPOSITORY")


@click.group(cls=InOrder)
def images() -> None:
    """Make, find, look at, rebuild and remove images.

    \b
    Examples:
      image-registry images create vision --pip 'numpy>=1.26' --pip pandas --apt git --wait
      image-registry images find -r requirements.txt
      image-registry images list --with numpy==1.26.4 --with pandas
      image-registry images get vision -o json
    """


images.add_command(create)
images.add_command(find)


@images.command("list")
@click.option(
    "--with", "libraries", multiple=True, metavar="LIBRARY[==VERSION]", help="Only images that hold it; repeatable."
)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([status.name for status in ImageStatus if status.value], case_sensitive=False),
    help="Only images with this status; repeatable.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Show at most that many.")
@output_option
@connection_options
def list_(
    connection: Connection, libraries: tuple[str, ...], statuses: tuple[str, ...], limit: int | None, output: str
) -> None:
    """List images, in the order of their names.

    With --with, only those in which the libraries are installed. Spelling counts as pip counts it (Scikit_Learn is
    scikit-learn, 1.0 is 1.0.0). `images find` understands version ranges and requirements files.

    \b
    Examples:
      image-registry images list --with numpy --with pandas==2.2.0 --status READY
      image-registry images list -o name | xargs -n 1 image-registry images get
    """
    with connection.told(), connection.client() as client:
        found = (one for one in client.list_images(libraries) if not statuses or one.status.name in statuses)
        print_many(islice(found, limit), output, name=lambda one: one.name, header=_HEADER, row=_row)


@images.command()
@click.argument("name", shell_complete=complete_image)
@output_option
@connection_options
def get(connection: Connection, name: str, output: str) -> None:
    """Show one image.

    What was asked for, what is installed, where it is.
    """
    with connection.told(), connection.client() as client:
        image = client.get_image(name)
    print_one(image, output, name=image.name, table=lambda: _page(image))
    if output == "table" and image.status is ImageStatus.FAILED:
        note(f"see why its build failed: image-registry images logs {name}")


@images.command()
@click.argument("name", shell_complete=complete_image)
@output_option
@connection_options
def lock(connection: Connection, name: str, output: str) -> None:
    """Show what exactly was put into an image.

    Every wheel of its last good build with its hash, as a requirements file that pip takes; what the base image
    brought along is not part of it.

    \b
    Example:
      image-registry images lock vision > requirements.txt && pip install --no-deps --require-hashes -r requirements.txt
    """
    with connection.told(), connection.client() as client:
        found = client.get_image_lock(name)
    heading = [f"# {name} {found.digest}", f"# on {found.base_digest or 'a base that was not recorded'}"]
    print_one(found, output, name=name, table=lambda: [*heading, *map(str, found.libraries)])


@images.command()
@click.argument("name", shell_complete=complete_image)
@click.option(
    "--wait-timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Give up after so many seconds; the build goes on.",
)
@output_option
@connection_options
def wait(connection: Connection, name: str, wait_timeout: float | None, output: str) -> None:
    """Watch an image's build until it is over.

    Exit code 0 when the image is READY, 5 when its build failed, 4 when --wait-timeout is over.
    """
    from image_registry.cli.watching import print_built, watch_build  # noqa: PLC0415

    image = watch_build(connection, name, name=name, timeout=wait_timeout)
    if output == "table":
        print_built(image)
    else:
        print_one(image, output, name=image.name, table=lambda: _page(image))


@images.command()
@click.argument("name", shell_complete=complete_image)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until the build ends.")
@connection_options
def logs(connection: Connection, name: str, follow: bool) -> None:
    """Print the log of an image's newest build. `jobs logs` has those of earlier ones."""
    with connection.told(), connection.client() as client:
        client.get_image(name)  # it says what is wrong with a name that no image has
        newest = next(iter(client.list_jobs(image_name=name, page_size=1)))
        for line in client.read_job_logs(newest.job_id, follow=follow):
            click.echo(line)


@images.command()
@click.argument("name", shell_complete=complete_image)
@click.option("--force", is_flag=True, help="Rebuild even if the image is READY at the current tag.")
@click.option("--wait", "waits", is_flag=True, help="Watch the build until it is over.")
@connection_options
def sync(connection: Connection, name: str, force: bool, waits: bool) -> None:
    """Rebuild an outdated or failed image.

    It is built at the platform's current tag; meanwhile its last good build stays pullable. An image that is READY
    and up to date is left alone unless --force is said.
    """
    from image_registry.cli.watching import print_built, watch_build  # noqa: PLC0415

    with connection.told(), connection.client() as client:
        result = client.sync_image_tag(name, force=force)
    if result.job is None:
        click.echo(f"{name} is {result.image.status} at tag {result.image.rime_tag}: nothing to do")
        return
    click.echo(f"{name} is {result.image.status}, job {result.job.job_id}")
    if waits:
        print_built(watch_build(connection, result, name=name, timeout=None))


@images.command()
@click.argument("name", shell_complete=complete_image)
@click.option("--yes", is_flag=True, help="Don't ask.")
@connection_options
def delete(connection: Connection, name: str, yes: bool) -> None:
    """Remove an image and its repository. Asks first, unless --yes is said.

    A build under way is cancelled. An image that others are built on can't be removed.
    """
    with connection.told(), connection.client() as client:
        if not yes:
            image = client.get_image(name)
            if not sys.stdin.isatty():
                raise click.UsageError("nobody can be asked here, standard input being no terminal: say --yes")
            if not click.confirm(f"Delete {name} and all that is in {image.repo_uri}?", err=True):
                note("nothing is deleted")
                click.get_current_context().exit(ExitCode.REFUSED)
        client.delete_image(name)
    note(f"{name} is deleted; its repository will be gone soon")


def _row(image: ManagedImage) -> tuple[str, ...]:
    return (
        image.name,
        image.status.name,
        image.python_version,
        image.rime_tag,
        str(len(image.pip_libraries)) if image.pip_libraries else "-",
        image.repo_uri,
    )


def _page(image: ManagedImage) -> list[str]:
    base = image.base_image.name if image.base_image else "-"
    lines = [
        f"name        {image.name}",
        f"status      {coloured(image.status.name)}",
        f"role        {image.role_type.name}",
        f"python      {image.python_version}",
        f"base image  {base}",
        f"tag         {image.rime_tag}",
        f"repository  {image.repo_uri}",
    ]
    lines += _listing("asked for", [str(one) for one in (*image.pip_requirements, *image.package_requirements)])
    lines += _listing("base of", [child.name for child in image.child_images])
    if image.pip_libraries:
        rows = [("LIBRARY", "VERSION"), *((library.name, library.version) for library in image.pip_libraries)]
        lines += ["", *columns(rows)]
    return lines


def _listing(title: str, items: list[str]) -> list[str]:
    return [f"{title if number == 0 else '':<12}{item}" for number, item in enumerate(items)]
