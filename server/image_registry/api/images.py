"""Handlers of rime.ImageRegistry: validate, one use case, convert."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryServicer

from image_registry.api import page_queries, validation
from image_registry.api.request_ids import callers_request_ids
from image_registry.api.tokens import PageTokens
from image_registry.codec import encode_created, encode_get_response, encode_list_response, fill_image, fill_job
from image_registry.registry.builds import Builds
from image_registry.registry.images import Images
from image_registry.registry.platform import Platform

_Context = aio.ServicerContext[Any, Any]
PUBLISHED_REST_CLIENT = re.compile(r"Swagger-Codegen/\S*/python\b")  # its user agent
JOB_ID_KEY = "rime-job-id"  # metadata of UpdateBuildInfo: which build is reported


class ImageRegistry(ImageRegistryServicer):
    """The service. `echo_last_token` ends every listing as the published clients expect it, whatever their agent."""

    def __init__(
        self,
        images: Images,
        platform: Platform,
        builds: Builds,
        *,
        accepts: validation.Accepts,
        tokens: PageTokens,
        echo_last_token: bool = False,
    ) -> None:
        self._images = images
        self._platform = platform
        self._builds = builds
        self._accepts = accepts
        self._tokens = tokens
        self._echo_last_token = echo_last_token

    async def CreateImage(self, request: pb.CreateImageRequest, context: _Context) -> bytes:  # type: ignore[override]
        """Record an image and launch its build; the answer is encoded already."""
        ids = callers_request_ids(context.invocation_metadata() or ())
        wanted = validation.new_image(request, self._accepts, ids)
        return encode_created(await self._images.create(wanted, request_id=ids[0] if ids else ""))

    async def GetImage(self, request: pb.GetImageRequest, context: _Context) -> bytes:  # type: ignore[override]
        """One image with its children, encoded already."""
        return encode_get_response(await self._images.get(validation.image_name(request.name)))

    async def ListImages(self, request: pb.ListImagesRequest, context: _Context) -> bytes:  # type: ignore[override]
        """A page of images in name order, encoded already."""
        query = page_queries.image_query(request, self._tokens)
        page = await self._images.page(after=query.after, size=query.size, filters=query.filters)
        token = ""
        if page.behind is not None:
            token = query.token(self._tokens, page.behind)
        elif self._echo_last_token or _is_published_rest_client(context):
            token = request.page_token  # their loop ends when the token stays the same
        return encode_list_response(page.images, token)

    async def DeleteImage(self, request: pb.DeleteImageRequest, context: _Context) -> pb.DeleteImageResponse:
        """Remove an image and, by a job, its repository."""
        await self._images.delete(validation.image_name(request.name))
        return pb.DeleteImageResponse()

    async def EnsureImageExistence(
        self, request: pb.EnsureImageExistenceRequest, context: _Context
    ) -> pb.EnsureImageExistenceResponse:
        """Every supported Python gets its system image at the current tag."""
        await self._platform.ensure_images()
        return pb.EnsureImageExistenceResponse()

    async def SyncImageTag(self, request: pb.SyncImageTagRequest, context: _Context) -> pb.SyncImageTagResponse:
        """Rebuild an image at the current tag if that is needed or forced."""
        image, job = await self._platform.sync_image(validation.image_name(request.name), force=request.force)
        response = pb.SyncImageTagResponse()
        fill_image(response.image, image)
        if job is not None:
            fill_job(response.job, job, full=False)
        return response

    async def UpdateBuildInfo(
        self, request: pb.UpdateBuildInfoRequest, context: _Context
    ) -> pb.UpdateBuildInfoResponse:
        """Take the result of a builder outside this service.

        The request knows an image by name only. A builder that says in its metadata which job it built can't be
        mistaken for the builder of a later image of that name.
        """
        await self._builds.record_outside_build(
            request.name,
            succeeded=request.built_successfully,
            libraries=validation.reported_libraries(request),
            job_id=_reported_job(context),
        )
        return pb.UpdateBuildInfoResponse()


def _reported_job(context: _Context) -> UUID | None:
    for key, value in context.invocation_metadata() or ():
        if key == JOB_ID_KEY:
            return validation.job_id(str(value))
    return None


def _is_published_rest_client(context: _Context) -> bool:
    metadata = context.invocation_metadata() or ()
    return any(key == "user-agent" and PUBLISHED_REST_CLIENT.search(str(value)) for key, value in metadata)
