"""The configuration file of callers: a TOML table for each profile.

[default]
server = "registry.example.org:443"
api_key_file = "~/.config/image-registry/key"

[local]
server = "127.0.0.1:50051"
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click
import platformdirs

DEFAULT_PROFILE = "default"


@dataclass(frozen=True, slots=True)
class Profile:
    """One table of the file: what options say when they aren't given. Paths are relative to the file's folder."""

    server: str | None = None
    api_key_file: Path | None = None
    tls: bool | None = None
    ca_file: Path | None = None
    client_certificate_file: Path | None = None
    client_key_file: Path | None = None


def default_path() -> Path:
    """Where the file is looked for: `~/.config/image-registry/config.toml` on Linux."""
    return platformdirs.user_config_path("image-registry") / "config.toml"


def read_profile(path: Path | None, name: str | None) -> Profile:
    """The profile of that name (None: `default`) in the file (None: the usual one, which needn't exist).

    Raises click.UsageError that names what is wrong.
    """
    chosen = path or default_path()
    if path is None and not chosen.exists():
        if name not in {None, DEFAULT_PROFILE}:
            raise click.UsageError(f"there is no profile {name!r}: {chosen} doesn't exist")
        return Profile()
    tables = _tables(chosen)
    wanted = name or DEFAULT_PROFILE
    if wanted not in tables and name is not None:
        raise click.UsageError(f"{chosen} has no profile {name!r}; it has {', '.join(tables) or 'none'}")
    return _profile(tables.get(wanted, {}), chosen, wanted)


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.UsageError(f"{path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is no TOML: {error}") from None
    for name, table in content.items():
        if not isinstance(table, dict):
            raise click.UsageError(f"{path}: {name!r} must stand in a table: write [{DEFAULT_PROFILE}] above it")
    return content


def _profile(table: dict[str, Any], path: Path, name: str) -> Profile:
    types = {field.name: str for field in fields(Profile)} | {"tls": bool}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in types:
            known = ", ".join(field.name for field in fields(Profile))
            raise click.UsageError(f"{path}: [{name}] has an unknown key {key!r}; known are {known}")
        if not isinstance(value, types[key]):
            kind = "true or false" if types[key] is bool else "text in quotes"
            raise click.UsageError(f"{path}: {key} in [{name}] must be {kind}")
        values[key] = path.parent / Path(str(value)).expanduser() if key.endswith("_file") else value
    return Profile(**values)
