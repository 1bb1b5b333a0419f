"""The handler of rime.ImageWatch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from grpc import aio
from ri.api.imageregistry import image_watch_pb2 as pb
from ri.api.imageregistry.image_watch_pb2_grpc import ImageWatchServicer

from image_registry.api import validation
from image_registry.codec import encode_get_response
from image_registry.registry.image_watch import ImageWatches

_Context = aio.ServicerContext[Any, Any]


class ImageWatch(ImageWatchServicer):
    """The service."""

    def __init__(self, watches: ImageWatches) -> None:
        self._watches = watches

    async def WatchImage(  # type: ignore[override]  # noqa: N802
        self,
        request: pb.WatchImageRequest,
        context: _Context,  # noqa: ARG002
    ) -> AsyncIterator[bytes]:
        """The image, and again at each change of its status; encoded already, as GetImageResponse is."""
        name = validation.image_name(request.name)
        async for image in self._watches.watch(name, until_built=request.until_built):
            yield encode_get_response(image)
