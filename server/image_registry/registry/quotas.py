"""How much each caller may have."""

from __future__ import annotations

from image_registry.errors import Reason, RegistryError, Resource
from image_registry.storage import quotas
from image_registry.storage.database import Database

QUEUE_RETRY = 5.0  # seconds until a build may have ended
IMAGES_RETRY = 60.0  # seconds until somebody may have deleted an image


class Quotas:
    """Limits of one caller's unfinished builds and images; 0: none. The service itself and unchecked callers have none.

    They are looked at before a create, not locked: creates in the same moment may pass them by their number.
    """

    def __init__(self, db: Database, *, queued_builds: int = 0, images: int = 0) -> None:
        self._db = db
        self._builds = queued_builds
        self._images = images

    async def check(self, creator: str) -> None:
        """Raises RegistryError QUEUE_LIMIT or IMAGE_LIMIT if one more would be too many."""
        if not creator or not (self._builds or self._images):
            return
        images, builds = await self._db.read(
            lambda conn: quotas.usage(conn, creator, images=self._images, builds=self._builds)
        )
        if self._builds and builds >= self._builds:
            raise _reached(Reason.QUEUE_LIMIT, creator, f"{self._builds} unfinished builds", QUEUE_RETRY)
        if self._images and images >= self._images:
            raise _reached(Reason.IMAGE_LIMIT, creator, f"{self._images} images", IMAGES_RETRY)


def _reached(reason: Reason, creator: str, limit: str, retry_after: float) -> RegistryError:
    return RegistryError(
        reason,
        f"{creator} has {limit}, which is its limit",
        quota=Resource("caller", creator, limit),
        retry_after=retry_after,
    )
