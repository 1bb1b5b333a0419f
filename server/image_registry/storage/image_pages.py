"""Pages of images in name order: by key, so that each costs the same however deep it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

from image_registry import limits
from image_registry.models import LibraryFilter, StoredImage
from image_registry.requirements import library_key, version_key
from image_registry.storage.database import Connection
from image_registry.storage.rows import to_image


async def page(
    conn: Connection, *, after: str, size: int, filters: Sequence[LibraryFilter]
) -> tuple[list[StoredImage], bool]:
    """Up to `size` images behind the name `after`, each meeting every filter, and whether there are more.

    The page ends before its definitions exceed `limits.PAGE_BYTES`, though not before its first image.
    """
    values: dict[str, Any] = {"after": after, "limit": size + 1, "bytes": limits.PAGE_BYTES}
    conditions = "".join(_condition(number, wanted, values) for number, wanted in enumerate(filters))
    statement = _START + conditions + _END
    rows = await (await conn.execute(statement, values)).fetchall()
    found = [to_image(row) for row in rows[:size]]
    return found, bool(rows) and rows[0]["candidates"] > len(found)


_START: LiteralString = """
select * from (
    select p.*, count(*) over () as candidates,
        sum(octet_length(p.definition)) over (order by p.name rows unbounded preceding) as bytes,
        row_number() over (order by p.name) as place
    from (
        select i.id, i.name, i.role, i.status, i.python_version, i.platform_tag, i.base_image_id, i.definition
        from images i where i.name > %(after)s"""
_END: LiteralString = """
        order by i.name limit %(limit)s
    ) p
) q where q.bytes <= %(bytes)s or q.place = 1 order by q.name"""


def _condition(number: int, wanted: LibraryFilter, values: dict[str, Any]) -> LiteralString:
    """One filter as SQL; its values go into `values` under numbered names, never into the text."""
    place: LiteralString = _NUMBERS[number]
    values["library" + place] = library_key(wanted.name)
    version: LiteralString = ""
    if wanted.version is not None:
        public, local = version_key(wanted.version)
        values["version" + place] = public
        version = " and l.version = %(version" + place + ")s"
        if local:  # PEP 440: a wanted public version matches whatever local part an installed one has
            values["local" + place] = local
            version += " and l.local = %(local" + place + ")s"
    return (
        """
            and exists (
                select from image_libraries l where l.image_name = i.name and l.library = %(library"""
        + place
        + ")s"
        + version
        + ")"
    )


_NUMBERS: tuple[LiteralString, ...] = (
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19",
)  # fmt: skip
