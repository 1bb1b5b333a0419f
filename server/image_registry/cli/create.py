"""`image-registry images create`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

from image_registry.cli.connection import Connection, connection_options
from image_registry.cli.exits import ExitCode, Failure
from image_registry.cli.output import note, output_option, print_one
from image_registry.client import (
    CreateImageResult,
    PackageRequirement,
    PackageType,
    PipRequirement,
    RequirementError,
    read_requirements_file,
)
from image_registry.client.requirements import package_requirement, pip_requirement


@dataclass(slots=True)
class _Wish:
    """What was asked for; each requirement with what the person wrote for it."""

    pips: list[tuple[PipRequirement, str]] = field(default_factory=list)
    packages: list[tuple[PackageRequirement, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def said(self) -> dict[str, str]:
        """What was written for each field of the request."""
        pips = {f"pipRequirements[{number}]": written for number, (_, written) in enumerate(self.pips)}
        packages = {f"packageRequirements[{number}]": written for number, (_, written) in enumerate(self.packages)}
        return pips | packages | {"pipRequirements": "--pip, -r", "pythonVersion": "--python", "name": "NAME"}


@click.command()
@click.argument("name")
@click.option(
    "--pip", "pips", multiple=True, metavar="REQUIREMENT", help="A library, such as 'numpy>=1.26'; repeatable."
)
@click.option(
    "-r",
    "--requirements",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A requirements file; repeatable.",
)
@click.option("--apt", multiple=True, metavar="PACKAGE[=VERSION]", help="A Debian package; repeatable.")
@click.option("--yum", multiple=True, metavar="PACKAGE[=VERSION]", help="A Rocky Linux package; repeatable.")
@click.option("--python", "python_version", default="", metavar="X.Y", help="Python version. Default: the service's.")
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
    connection: Connection,
    name: str,
    pips: tuple[str, ...],
    files: tuple[Path, ...],
    apt: tuple[str, ...],
    yum: tuple[str, ...],
    python_version: str,
    waits: bool,
    wait_timeout: float | None,
    output: str,
) -> None:
    """Make a new image with libraries and system packages.

    NAME is lower-case letters and digits in groups parted by - or _. Libraries are named as pip names them, without
    URLs, paths and options; of a requirements file, the lines that can't be taken are listed and nothing is made.

    \b
    Examples:
      image-registry images create vision --pip 'numpy>=1.26' --pip 'uvicorn[standard]' --apt git --wait
      image-registry images create api -r requirements.txt --python 3.11
    """
    wish = _Wish()
    wish.pips += _typed(pips, wish)
    for path in files:
        _read_file(path, python_version, wish)
    wish.packages += _packages(apt, "--apt", PackageType.APT, wish)
    wish.packages += _packages(yum, "--yum", PackageType.ROCKYLINUX, wish)
    if wish.faults:
        raise Failure("nothing was made, for these can't be taken", code=ExitCode.USAGE, lines=tuple(wish.faults))
    if not wish.pips and not wish.packages:
        raise click.UsageError("an image needs at least one library or package: say --pip, -r, --apt or --yum")
    with connection.told(wish.said()), connection.client() as client:
        created = client.create_image(
            name,
            [requirement for requirement, _ in wish.pips],
            [package for package, _ in wish.packages],
            python_version=python_version,
        )
    _show(connection, created, output, waits=waits, wait_timeout=wait_timeout)


def _show(
    connection: Connection, created: CreateImageResult, output: str, *, waits: bool, wait_timeout: float | None
) -> None:
    from image_registry.cli.watching import print_built, watch_build  # noqa: PLC0415

    name = created.image.name
    if not waits:
        lines = [
            f"{name} is {created.image.status}, job {created.job.job_id}",
            f"watch it with: image-registry images wait {name}",
        ]
        print_one(created, output, name=name, table=lambda: lines)
        return
    note(f"{name} is recorded, job {created.job.job_id}")
    image = watch_build(connection, created, name=name, timeout=wait_timeout)
    if output == "table":
        print_built(image)
    else:
        print_one(image, output, name=name, table=list)


def _typed(texts: tuple[str, ...], wish: _Wish) -> Iterator[tuple[PipRequirement, str]]:
    for text in texts:
        try:
            yield pip_requirement(text), f"--pip {text!r}"
        except RequirementError as error:
            wish.faults.append(f"--pip {error}")


def _packages(
    texts: tuple[str, ...], option: str, kind: PackageType, wish: _Wish
) -> Iterator[tuple[PackageRequirement, str]]:
    for text in texts:
        try:
            yield package_requirement(text, kind), f"{option} {text!r}"
        except RequirementError as error:
            wish.faults.append(f"{option} {error}")


def _read_file(path: Path, python_version: str, wish: _Wish) -> None:
    try:
        content = read_requirements_file(path, python_version=python_version)
    except OSError as error:
        raise click.UsageError(f"{error.filename} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is no text in UTF-8") from None
    wish.pips += [(requirement, str(origin)) for requirement, origin in content.requirements]
    wish.faults += [f"{line.origin}: {line.text}: {line.why}" for line in content.refused]
    for line in content.skipped:
        note(f"{line.origin}: {line.text}: left out, {line.why}")
    if content.hashes:
        note(f"{path}: the hashes of {content.hashes} lines are not checked; the service keeps hashes of its own")
