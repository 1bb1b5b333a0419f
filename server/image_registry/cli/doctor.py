"""`image-registry doctor`."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path

import click

from image_registry.cli import checks
from image_registry.cli.certificate_checks import certificates
from image_registry.cli.connection import Connection, connection_options
from image_registry.cli.exits import Failure
from image_registry.cli.findings import Finding, State, unchecked
from image_registry.settings import load

_LOOKS = {
    State.OK: ("ok", "green"),
    State.BROKEN: ("BROKEN", "red"),
    State.NOTICE: ("note", "yellow"),
    State.UNCHECKED: ("-", "bright_black"),
}


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of `up`. [IMAGE_REGISTRY_DATA_DIR]")
@click.option("--http-address", metavar="HOST:PORT", help="The gateway to look at. [127.0.0.1:8080]")
@connection_options
def doctor(connection: Connection, data_dir: Path | None, http_address: str | None) -> None:
    """Check the installation and say what to mend.

    Looks at the server, the REST gateway, the database, its schema and bitmaps, the workers, disk space, the programs
    that builds use, the base images and whether they moved, the place where images go, whether they are there, and when
    certificates end. A server on another machine is looked at from outside only. Exit code 1 if anything is broken.
    """
    logging.getLogger().addHandler(logging.NullHandler())  # what libraries would log is told as findings
    found = [_told(finding) for finding in checks.service(connection)]
    if checks.is_local(connection):
        settings = load(data_dir=data_dir, http_address=http_address)
        served = found[0].state is State.OK
        if served:
            found.append(_told(checks.repositories(connection, settings)))

        async def look() -> None:
            found.extend([_told(finding) async for finding in checks.installation(settings, served=served)])
            found.extend(_told(finding) for finding in certificates(settings, datetime.now(UTC)))

        asyncio.run(look())
    else:
        _told(unchecked("the rest", "is looked at by `image-registry doctor` on the server's own machine"))
    count = sum(finding.state is State.BROKEN for finding in found)
    if count:
        raise Failure(f"{count} of {len(found)} checks found something broken")


def _told(finding: Finding) -> Finding:
    word, colour = _LOOKS[finding.state]
    click.echo(f"{click.style(f'{word:<7}', fg=colour)} {finding.part:<12} {finding.text}")
    if finding.remedy:
        for line in finding.remedy.splitlines():
            click.echo(f"{'':<20} → {line}")
    return finding
