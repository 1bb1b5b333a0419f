"""Loads named SQL statements: each begins with a line `-- name: …` in a `.sql` file of this package."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import LiteralString

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(filename: str) -> dict[str, LiteralString]:
    """The statements of one file by name. They are constants of the package, hence literal strings."""
    text = (files("image_registry.storage") / filename).read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    return {name: _without_comments(sql) for name, sql in zip(parts[::2], parts[1::2], strict=True)}


def _without_comments(sql: str) -> LiteralString:
    return "\n".join(line for line in sql.strip().splitlines() if not line.startswith("--"))
