"""The handler of rime.ImageLocks."""

from __future__ import annotations

import json
from typing import Any

from grpc import aio
from ri.api.imageregistry import image_lock_pb2 as pb
from ri.api.imageregistry.image_lock_pb2_grpc import ImageLocksServicer

from image_registry.api import validation
from image_registry.registry.images import Images

_Context = aio.ServicerContext[Any, Any]


class ImageLocks(ImageLocksServicer):
    """The service."""

    def __init__(self, images: Images) -> None:
        self._images = images

    async def GetImageLock(self, request: pb.GetImageLockRequest, context: _Context) -> pb.GetImageLockResponse:
        """What exactly the last good build put into an image."""
        found = await self._images.lock(validation.image_name(request.name))
        libraries = (pb.LockedLibrary(**library) for library in json.loads(found.lock_file)["libraries"])
        return pb.GetImageLockResponse(digest=found.digest, libraries=libraries, base_digest=found.base_digest)
