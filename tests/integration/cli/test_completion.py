"""Completion of names asks the service, and never for long."""

import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import click
import grpc
import pytest
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryServicer, add_ImageRegistryServicer_to_server

from image_registry.cli.completing import complete_image
from image_registry.cli.images import get


class Endless(ImageRegistryServicer):
    """A registry whose list has no end."""

    def ListImages(self, request: pb.ListImagesRequest, context: Any) -> pb.ListImagesResponse:  # noqa: N802
        first = int(request.page_token or 0)
        images = [pb.ManagedImage(name=f"image-{first + number:09}") for number in range(50)]
        return pb.ListImagesResponse(images=images, next_page_token=str(first + 50))


@pytest.fixture
def endless() -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_ImageRegistryServicer_to_server(Endless(), server)  # type: ignore[abstract]  # lists alone are asked for
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.mark.timeout(30)
def test_names_come_quickly_or_not_at_all(endless: str) -> None:
    context = click.Context(get)
    context.params = {"server": endless}
    [argument] = [param for param in get.params if param.name == "name"]
    assert complete_image(context, argument, "image-00000000")[0] == "image-000000000"
    began = time.monotonic()
    assert complete_image(context, argument, "other") == []
    assert time.monotonic() - began < 10
