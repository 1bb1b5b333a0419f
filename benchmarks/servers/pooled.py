"""The product's own server with its gathered reads switched off: every read goes through psycopg's pool."""

from __future__ import annotations

from typing import NoReturn

from image_registry.cli.main import main
from image_registry.storage.point_reads import PointReads, Unavailable


def _unavailable(_reads: PointReads, _key: str) -> NoReturn:
    raise Unavailable


if __name__ == "__main__":
    PointReads.fetch = _unavailable  # type: ignore[method-assign, assignment]
    main()
