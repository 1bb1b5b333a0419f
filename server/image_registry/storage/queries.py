"""Loads named SQL statements from a `.sql` file of this package.

A statement begins with a line `-- name: …`. A line `-- part: …` begins text that statements of the same file, or of
files that are loaded with it, hold in common, such as a list of columns; they name it in braces. Columns are always
listed: with `*` a prepared statement of a running server would fail as soon as a newer version adds a column.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import LiteralString

_SECTION = re.compile(r"^-- (name|part): (\w+)$", re.MULTILINE)
_names: dict[str, str] = {}
_PLACE = re.compile(r"\{(\w+)\}")


def load(filename: str, *shared: str) -> dict[str, LiteralString]:
    """The statements of one file by name, which may use parts of `shared` files.

    They are constants of the package, hence literal strings.
    """
    parts: dict[str, str] = {}
    statements: dict[str, LiteralString] = {}
    for file in (*shared, filename):
        _, *sections = _SECTION.split((files("image_registry.storage") / file).read_text(encoding="utf-8"))
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
