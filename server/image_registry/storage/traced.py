"""Connections whose statements are spans. They are used while traces are recorded, and nobody else pays for them."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncCursor
from psycopg.rows import DictRow

from image_registry.storage.database import Connection
from image_registry.storage.queries import name_of
from image_registry.telemetry import tracing


class TracedConnection(Connection):
    """A span for each statement, with its name; neither its text nor its values leave the process."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> AsyncCursor[DictRow]:
        """As without spans."""
        name = name_of(query)
        attributes = {"db.system.name": "postgresql", "db.operation.name": name}
        with tracing.span(name, kind=tracing.Kind.CLIENT, attributes=attributes):
            return await super().execute(query, params, **options)
