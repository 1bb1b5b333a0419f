"""The descriptor set with its comments, looked up by full name."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    EnumValueDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

Element = (
    DescriptorProto
    | EnumDescriptorProto
    | EnumValueDescriptorProto
    | FieldDescriptorProto
    | MethodDescriptorProto
    | ServiceDescriptorProto
)
_OUR_FILES = "ri/"
_QUOTED = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Contract:
    """Messages, enums and services by full name; comments by the full name of what they stand at.

    Comments are text in paragraphs, in which the names of fields are written as in JSON.
    """

    messages: dict[str, DescriptorProto] = field(default_factory=dict)
    enums: dict[str, EnumDescriptorProto] = field(default_factory=dict)
    services: dict[str, ServiceDescriptorProto] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)

    def comment(self, name: str) -> str:
        """The comment at the element with this full name, '' if there is none."""
        return self.comments.get(name, "")


def load() -> Contract:
    """The installed descriptor set."""
    return read((importlib.resources.files("ri") / "api/imageregistry/descriptor_set.binpb").read_bytes())


def read(descriptor_set: bytes) -> Contract:
    """A serialised FileDescriptorSet with source info; comments of the product's own files only."""
    contract = Contract()
    for file in FileDescriptorSet.FromString(descriptor_set).file:
        paths = {}
        for path, name, element in _walk(file):
            paths[path] = name
            if isinstance(element, DescriptorProto):
                contract.messages[name] = element
            elif isinstance(element, EnumDescriptorProto):
                contract.enums[name] = element
            elif isinstance(element, ServiceDescriptorProto):
                contract.services[name] = element
        if file.name.startswith(_OUR_FILES):
            for location in file.source_code_info.location:
                name = paths.get(tuple(location.path), "")
                if name and location.leading_comments:
                    contract.comments[name] = location.leading_comments
    json_names = {one.name: one.json_name for message in contract.messages.values() for one in message.field}
    for name, text in contract.comments.items():
        contract.comments[name] = _as_json_names(_paragraphs(text), json_names)
    return contract


def _walk(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str, Element]]:
    """Every element with its path as `SourceCodeInfo.Location` defines it, and its full name."""
    for index, message in enumerate(file.message_type):
        yield from _walk_message((4, index), file.package, message)
    for index, enum in enumerate(file.enum_type):
        yield from _walk_enum((5, index), file.package, enum)
    for index, service in enumerate(file.service):
        name = f"{file.package}.{service.name}"
        yield (6, index), name, service
        for number, method in enumerate(service.method):
            yield (6, index, 2, number), f"{name}.{method.name}", method


def _walk_message(
    path: tuple[int, ...], scope: str, message: DescriptorProto
) -> Iterator[tuple[tuple[int, ...], str, Element]]:
    name = f"{scope}.{message.name}"
    yield path, name, message
    for index, one in enumerate(message.field):
        yield (*path, 2, index), f"{name}.{one.name}", one
    for index, nested in enumerate(message.nested_type):
        yield from _walk_message((*path, 3, index), name, nested)
    for index, enum in enumerate(message.enum_type):
        yield from _walk_enum((*path, 4, index), name, enum)


def _walk_enum(
    path: tuple[int, ...], scope: str, enum: EnumDescriptorProto
) -> Iterator[tuple[tuple[int, ...], str, Element]]:
    name = f"{scope}.{enum.name}"
    yield path, name, enum
    for index, value in enumerate(enum.value):
        yield (*path, 2, index), f"{name}.{value.name}", value


def _paragraphs(comment: str) -> str:
    """The comment without its line breaks, but for those between paragraphs."""
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", comment.strip()))


def _as_json_names(text: str, json_names: dict[str, str]) -> str:
    def spell(quoted: re.Match[str]) -> str:
        return "`" + re.sub(r"\w+", lambda word: json_names.get(word[0], word[0]), quoted[1]) + "`"

    return _QUOTED.sub(spell, text)
