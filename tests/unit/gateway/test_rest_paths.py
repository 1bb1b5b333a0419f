"""REST paths read from descriptors."""

import re
from pathlib import Path

import pytest
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2

from image_registry.gateway.config import descriptor_set_path
from image_registry.gateway.rest_paths import RestPath, read_interface


def test_the_product() -> None:
    interface = read_interface(descriptor_set_path())
    assert {"rime.ImageRegistry", "rime.JobReader"} <= set(interface.services)
    images = _path_for(interface.paths, "/v1/images/x")
    assert (images.methods, images.allow, images.parameters) == (("DELETE", "GET"), ("DELETE", "GET"), ("name",))
    # `list` could be an image's name: a GET of it is one of an image, and only POST lists.
    listing = _path_for(interface.paths, "/v1/images/list")
    assert (listing.methods, listing.allow, listing.parameters) == (("POST",), ("DELETE", "GET", "POST"), ())
    assert _path_for(interface.paths, "/v1/jobs/x").parameters == ("jobId", "job_id")


@pytest.mark.parametrize(
    ("template", "matching", "other"),
    [
        ("/v1/images", ["/v1/images"], ["/v1/images/", "/v1/imagesx", "/v1/images/x"]),
        ("/v1/images/{name}", ["/v1/images/x", "/v1/images/%C3%A9.-"], ["/v1/images/", "/v1/images/x/y", "/v1/image"]),
        ("/v1/{name=images/*}/tags", ["/v1/images/x/tags"], ["/v1/x/tags", "/v1/images/x/y/tags"]),
        ("/v1/files/{path=**}", ["/v1/files/x", "/v1/files/x/y"], ["/v1/files", "/v1/files/"]),
        ("/v1/*/x:stop", ["/v1/a/x:stop"], ["/v1/a/x", "/v1/a/b/x:stop"]),
        ("/v1.x/{a}/{b.c}", ["/v1.x/1/2"], ["/v1yx/1/2", "/v1.x/1"]),
    ],
)
def test_templates(tmp_path: Path, template: str, matching: list[str], other: list[str]) -> None:
    (path,) = read_interface(_described(tmp_path, http_pb2.HttpRule(get=template))).paths
    for text in matching:
        assert re.fullmatch(path.regex, text)
    for text in other:
        assert not re.fullmatch(path.regex, text)


def test_every_binding_counts(tmp_path: Path) -> None:
    rule = http_pb2.HttpRule(put="/a", additional_bindings=[http_pb2.HttpRule(patch="/a"), http_pb2.HttpRule(get="/b")])
    first, second = read_interface(_described(tmp_path, rule, streaming=True)).paths
    assert first == RestPath("/a", ("PATCH", "PUT"), ("PATCH", "PUT"), (), streaming=True)
    assert second.methods == ("GET",)


def _path_for(paths: tuple[RestPath, ...], text: str) -> RestPath:
    return next(path for path in paths if re.fullmatch(path.regex, text))


def _described(folder: Path, rule: http_pb2.HttpRule, *, streaming: bool = False) -> Path:
    method = descriptor_pb2.MethodDescriptorProto(name="M", server_streaming=streaming)
    method.options.Extensions[annotations_pb2.http].CopyFrom(rule)
    service = descriptor_pb2.ServiceDescriptorProto(name="S", method=[method])
    files = descriptor_pb2.FileDescriptorSet(file=[descriptor_pb2.FileDescriptorProto(package="p", service=[service])])
    path = folder / "set.binpb"
    path.write_bytes(files.SerializeToString())
    return path
