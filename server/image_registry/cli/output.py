"""What commands print: tables for people; JSON, YAML and names for programs.

JSON and YAML have the published names: what `images get -o json` prints is the `image` of the REST answer.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_PREFIXES = {
    "ImageStatus": "STATUS_",
    "RoleType": "ROLE_TYPE_",
    "PackageType": "PACKAGE_TYPE_",
    "ReferenceType": "REFERENCE_TYPE_",
    "JobStatus": "JOB_STATUS_",
    "JobType": "JOB_TYPE_",
    "TerminationReason": "TERMINATION_REASON_",
}
_COLOURS = {
    "READY": "green",
    "SUCCEEDED": "green",
    "FAILED": "red",
    "OUTDATED": "yellow",
    "CANCELLED": "yellow",
    "RECONCILING": "yellow",
}

output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml", "name"]),
    default="table",
    help="For people: table. For programs: json or yaml (published field names), name (one a line).",
)


def published(value: Any) -> Any:
    """A value of the client as the REST API prints it."""
    if isinstance(value, Enum):
        return _PREFIXES[type(value).__name__] + value.name
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # proto3's JSON has 64-bit numbers as text
    if isinstance(value, tuple):
        return [published(item) for item in value]
    if is_dataclass(value):
        pairs = ((field.name, getattr(value, field.name)) for field in fields(value))
        return {_camel(name): _field(name, item) for name, item in pairs if item is not None}
    return value


def print_one(value: Any, output: str, *, name: str, table: Callable[[], Iterable[str]]) -> None:
    """Print a value in the wanted form; `table` gives the lines for people."""
    match output:
        case "json":
            click.echo(json.dumps(published(value), indent=2, ensure_ascii=False))
        case "yaml":
            click.echo(_yaml(published(value)), nl=False)
        case "name":
            click.echo(name)
        case _:
            for line in table():
                click.echo(line)


T = TypeVar("T")


def print_many(
    values: Iterable[T],
    output: str,
    *,
    name: Callable[[T], str],
    header: Sequence[str],
    row: Callable[[T], Sequence[str]],
) -> None:
    """Print values in the wanted form; for programs each as soon as it is there."""
    match output:
        case "json":
            _print_json(values)
        case "yaml":
            for value in values:
                click.echo(_yaml([published(value)]), nl=False)
        case "name":
            for value in values:
                click.echo(name(value))
        case _:
            for line in columns([header, *(row(value) for value in values)]):
                click.echo(line)


def columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Rows as lines of aligned columns; the statuses in colour. Nothing is cut off, whatever the terminal's width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (coloured(text) + " " * (width - len(text)) for text, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def coloured(status: str) -> str:
    """A status in its colour, any other text as it is; click drops colours where they aren't wanted."""
    colour = _COLOURS.get(status)
    return click.style(status, fg=colour) if colour else status


def age(moment: datetime | None) -> str:
    """How long ago that was, in its largest unit: '3 d', '5 min'."""
    if moment is None:
        return "-"
    seconds = max(0, (datetime.now(UTC) - moment).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def note(line: str) -> None:
    """A line for people beside the output: to standard error, at once."""
    click.echo(line, err=True)
    sys.stderr.flush()


def _print_json(values: Iterable[Any]) -> None:
    separator = "[\n"
    for value in values:
        text = json.dumps(published(value), indent=2, ensure_ascii=False)
        click.echo(separator + re.sub(r"^", "  ", text, flags=re.MULTILINE), nl=False)
        separator = ",\n"
    click.echo("\n]" if separator == ",\n" else "[]")


def _yaml(value: Any) -> str:
    import yaml  # noqa: PLC0415  for this output alone

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _field(name: str, value: Any) -> Any:
    """Identifiers and addresses of the platform are messages of their own in the published form."""
    if name == "agent_id":
        return {"uuid": value}
    return {"url": value} if name == "url" else published(value)
