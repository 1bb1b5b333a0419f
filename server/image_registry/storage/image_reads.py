"""Single images by name, the call that is asked most: gathered reads, and the pool for what they can't answer."""

from __future__ import annotations

from image_registry.models import ImageStatus, PublishedImage, RoleType
from image_registry.storage import images
from image_registry.storage.database import Database
from image_registry.storage.point_reads import PointReads, Row, Unavailable
from image_registry.telemetry import tracing
from image_registry.telemetry.catalogue import POINT_READ_FALLBACKS

STATEMENT = "select name, role, status, definition from images where name = any ($1)"
_STATUS = {status.to_bytes(2, "big"): status for status in ImageStatus}
_SYSTEM = RoleType.SYSTEM.to_bytes(2, "big")


class ImageReads:
    """Reads images as callers see them."""

    def __init__(self, db: Database, points: PointReads) -> None:
        self._db = db
        self._points = points
        db.follow(points.leave)

    async def get(self, name: str) -> PublishedImage | None:
        """The image of that name with its children; None: there is none."""
        try:
            row = await (self._traced(name) if tracing.active() else self._points.fetch(name))
        except Unavailable:
            POINT_READ_FALLBACKS.add()
            return await self._by_pool(name)
        if row is None:
            return None
        role, status, definition = row
        if role == _SYSTEM:  # only system images have children, and those that have many should delay nobody
            return await self._by_pool(name)
        return PublishedImage(definition, _STATUS[status])

    async def _traced(self, name: str) -> Row | None:
        attributes = {"db.system.name": "postgresql", "db.operation.name": "images.point_read"}
        with tracing.span("images.point_read", kind=tracing.Kind.CLIENT, attributes=attributes):
            return await self._points.fetch(name)

    async def _by_pool(self, name: str) -> PublishedImage | None:
        image = await self._db.read(lambda conn: images.get_with_children(conn, name))
        return None if image is None else PublishedImage(image.definition, image.status, image.child_names)
