"""Loads named SQL statements from a `.sql` file of this package.

A statement begins with a line `-- name: …`. A line `-- part: …` begins text that statements of the same file hold in
common, such as a list of columns; they name it in braces. Columns are always listed: with `*` a prepared statement of
a running server would fail as soon as a newer version adds a column.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import LiteralString

_SECTION = re.compile(r"^-- (name|part): (\w+)$", re.MULTILINE)
_names: dict[str, str] = {}
_PLACE = re.compile(r"\{(\w+)\}")


def load(filename: str) -> dict[str, LiteralString]:
    """The statements of one file by name. They are constants of the package, hence literal strings."""
    text = (files("image_registry.storage") / filename).read_text(encoding="utf-8")
    parts: dict[str, str] = {}
    statements: dict[str, LiteralString] = {}
    _, *sections = _SECTION.split(text)
    for kind, name, body in zip(sections[::3], sections[1::3], sections[2::3], strict=True):
        filled = _PLACE.sub(lambda place: parts[place[1]], _without_comments(body))
        if kind == "part":
            parts[name] = filled
        else:
            statements[name] = filled
            _names[filled] = f"{filename.removesuffix('.sql')}.{name}"
    return statements


def name_of(statement: object) -> str:
    """What a loaded statement is called, `jobs.claim`; `sql` for any other."""
    return _names.get(statement, "sql") if isinstance(statement, str) else "sql"


def _without_comments(sql: str) -> str:
    return "\n".join(line for line in sql.strip().splitlines() if not line.startswith("--"))
