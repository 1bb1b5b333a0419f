"""Waiting for images: whoever watches is woken by the database, nobody polls."""

from __future__ import annotations

from collections.abc import AsyncIterator

from image_registry.errors import image_not_found
from image_registry.lifecycle import BUILDING
from image_registry.models import PublishedImage
from image_registry.storage.image_reads import ImageReads
from image_registry.storage.notices import Notices

CHANNEL = "image_registry_images"  # its payloads are names of images (migrations/0004_image_news.sql)


class ImageWatches:
    """What callers who wait for images ask for."""

    def __init__(self, reads: ImageReads, notices: Notices) -> None:
        self._reads = reads
        self._notices = notices
        self._left = False

    async def watch(self, name: str, *, until_built: bool) -> AsyncIterator[PublishedImage]:
        """The image as it is, and again whenever its status has changed.

        Ends when the server stops; with `until_built` also with the first image that is not being built. Raises
        RegistryError IMAGE_NOT_FOUND, also when the image is deleted meanwhile.
        """
        last: PublishedImage | None = None
        with self._notices.about(name) as changed:
            while not self._left:
                changed.clear()  # before the image is read: a change during that must not be lost
                image = await self._reads.get(name)
                if image is None:
                    raise image_not_found(name)
                if last is None or (image.status, image.definition) != (last.status, last.definition):
                    yield image
                if until_built and image.status not in BUILDING:
                    return
                last = image
                await changed.wait()

    def leave(self) -> None:
        """End all watches: the server is about to stop."""
        self._left = True
        self._notices.wake_all()
