"""The handler of rime.ImageFinder."""

from __future__ import annotations

from typing import Any

from grpc import aio
from ri.api.imageregistry import image_finder_pb2 as pb
from ri.api.imageregistry.image_finder_pb2_grpc import ImageFinderServicer

from image_registry.api import validation
from image_registry.codec import fill_found
from image_registry.registry.image_finder import ImageFinder

_Context = aio.ServicerContext[Any, Any]


class ImageFinderService(ImageFinderServicer):
    """The service."""

    def __init__(self, finder: ImageFinder, accepts: validation.Accepts) -> None:
        self._finder = finder
        self._accepts = accepts

    async def FindImages(self, request: pb.FindImagesRequest, context: _Context) -> pb.FindImagesResponse:
        """The best images that hold everything."""
        contents, most = validation.wanted_contents(request, self._accepts)
        response = pb.FindImagesResponse()
        for image in await self._finder.find(contents, most=most):
            fill_found(response.images.add(), image)
        return response
