"""What people want to have in an image: the options that say it, read and judged before anything is sent."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from image_registry.cli.exits import ExitCode, Failure
from image_registry.cli.output import note
from image_registry.client import (
    PackageRequirement,
    PackageType,
    PipRequirement,
    RequirementError,
    read_requirements_file,
)
from image_registry.client.requirements import package_requirement, pip_requirement

F = TypeVar("F", bound=Callable[..., Any])
_SHOWN = 20  # faults; a file that is no requirements file has one in each line


@dataclass(slots=True)
class Wish:
    """What was asked for; each requirement with what the person wrote for it."""

    python_version: str
    written_pips: list[tuple[PipRequirement, str]] = field(default_factory=list)
    written_packages: list[tuple[PackageRequirement, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def pips(self) -> list[PipRequirement]:
        """The libraries."""
        return [requirement for requirement, _ in self.written_pips]

    @property
    def packages(self) -> list[PackageRequirement]:
        """The system packages."""
        return [package for package, _ in self.written_packages]

    def said(self) -> dict[str, str]:
        """What was written for each field of the request."""
        pips = {f"pipRequirements[{number}]": written for number, (_, written) in enumerate(self.written_pips)}
        packages = {
            f"packageRequirements[{number}]": written for number, (_, written) in enumerate(self.written_packages)
        }
        return pips | packages | {"pipRequirements": "--pip, -r", "pythonVersion": "--python", "name": "NAME"}


_OPTIONS = (
    click.option(
        "--pip", "pips", multiple=True, metavar="REQUIREMENT", help="A library, such as 'numpy>=1.26'; repeatable."
    ),
    click.option(
        "-r",
        "--requirements",
        "files",
        multiple=True,
        type=click.Path(path_type=Path, dir_okay=False),
        help="A requirements file; repeatable.",
    ),
    click.option("--apt", multiple=True, metavar="PACKAGE[=VERSION]", help="A Debian package; repeatable."),
    click.option("--yum", multiple=True, metavar="PACKAGE[=VERSION]", help="A Rocky Linux package; repeatable."),
)


def wish_options(python_help: str) -> Callable[[F], F]:
    """Gives a command the options that name contents, and the `wish` that they come to."""
    python = click.option("--python", "python_version", default="", metavar="X.Y", help=python_help)

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def with_wish(
            pips: tuple[str, ...],
            files: tuple[Path, ...],
            apt: tuple[str, ...],
            yum: tuple[str, ...],
            python_version: str,
            **values: Any,
        ) -> Any:
            return command(wish=_read(pips, files, apt, yum, python_version), **values)

        for option in reversed((*_OPTIONS, python)):
            option(with_wish)
        return with_wish  # type: ignore[return-value]

    return decorate


def _read(
    pips: tuple[str, ...], files: tuple[Path, ...], apt: tuple[str, ...], yum: tuple[str, ...], python_version: str
) -> Wish:
    wish = Wish(python_version)
    wish.written_pips += _typed(pips, wish)
    for path in files:
        _read_file(path, wish)
    wish.written_packages += _packages(apt, "--apt", PackageType.APT, wish)
    wish.written_packages += _packages(yum, "--yum", PackageType.ROCKYLINUX, wish)
    if wish.faults:
        lines = tuple(wish.faults[:_SHOWN])
        if len(wish.faults) > _SHOWN:
            lines += (f"and {len(wish.faults) - _SHOWN} more",)
        raise Failure("nothing was asked for, for these can't be taken", code=ExitCode.USAGE, lines=lines)
    if not wish.written_pips and not wish.written_packages:
        raise click.UsageError("at least one library or package is needed: say --pip, -r, --apt or --yum")
    return wish


def _typed(texts: tuple[str, ...], wish: Wish) -> Iterator[tuple[PipRequirement, str]]:
    for text in texts:
        try:
            yield pip_requirement(text), f"--pip {text!r}"
        except RequirementError as error:
            wish.faults.append(f"--pip {error}")


def _packages(
    texts: tuple[str, ...], option: str, kind: PackageType, wish: Wish
) -> Iterator[tuple[PackageRequirement, str]]:
    for text in texts:
        try:
            yield package_requirement(text, kind), f"{option} {text!r}"
        except RequirementError as error:
            wish.faults.append(f"{option} {error}")


def _read_file(path: Path, wish: Wish) -> None:
    try:
        content = read_requirements_file(path, python_version=wish.python_version)
    except OSError as error:
        raise click.UsageError(f"{error.filename} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is no text in UTF-8") from None
    wish.written_pips += [(requirement, str(origin)) for requirement, origin in content.requirements]
    wish.faults += [f"{line.origin}: {line.text}: {line.why}" for line in content.refused]
    for line in content.skipped:
        note(f"{line.origin}: {line.text}: left out, {line.why}")
    if content.hashes:
        note(f"{path}: the hashes of {content.hashes} lines are not checked; the service keeps hashes of its own")
