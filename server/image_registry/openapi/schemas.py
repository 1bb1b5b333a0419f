"""Messages and enums as JSON schemas, in the JSON form of proto3 (https://protobuf.dev/programming-guides/json/)."""

from __future__ import annotations

from typing import Any

from google.api import field_behavior_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FieldDescriptorProto

from image_registry.openapi.contract import Contract
from image_registry.openapi.naming import schema_names

Schema = dict[str, Any]
_Type = FieldDescriptorProto.Type
_INT64: Schema = {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}  # JSON's numbers can't hold 64 bits
_SCALARS: dict[int, Schema] = {
    FieldDescriptorProto.TYPE_STRING: {"type": "string"},
    FieldDescriptorProto.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptorProto.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptorProto.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptorProto.TYPE_INT64: _INT64,
}
_WELL_KNOWN: dict[str, Schema] = {"google.protobuf.Timestamp": {"type": "string", "format": "date-time"}}
_ANY = "google.protobuf.Any"


class Schemas:
    """Makes schemas, and remembers which components they refer to."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._names = schema_names((*contract.messages, *contract.enums))
        self._components: dict[str, Schema] = {}

    @property
    def components(self) -> dict[str, Schema]:
        """The schemas that have been referred to, and theirs, by name in alphabetical order."""
        return dict(sorted(self._components.items()))

    def reference(self, full_name: str) -> Schema:
        """A reference to the component of a message or enum; full names here have no leading dot."""
        name = self._names[full_name]
        if name not in self._components:
            self._components[name] = {}  # a message may hold itself
            if full_name in self._contract.enums:
                self._components[name] = self._enum(full_name, self._contract.enums[full_name])
            else:
                self._components[name] = self._message(full_name, self._contract.messages[full_name])
        return {"$ref": f"#/components/schemas/{name}"}

    def field(self, message: str, one: FieldDescriptorProto) -> Schema:
        """The schema of a field's value, with the field's comment."""
        schema = self._value(one)
        if one.label == FieldDescriptorProto.LABEL_REPEATED:
            schema = {"type": "array", "items": schema}
        behaviours = one.options.Extensions[field_behavior_pb2.field_behavior]
        return _without_nothing(
            {
                **schema,
                "description": self._contract.comment(f"{message}.{one.name}"),
                "readOnly": field_behavior_pb2.OUTPUT_ONLY in behaviours,
            }
        )

    def _value(self, one: FieldDescriptorProto) -> Schema:
        name = one.type_name.lstrip(".")
        if name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[name])
        if one.type == FieldDescriptorProto.TYPE_ENUM:
            return self.reference(name)
        if one.type == FieldDescriptorProto.TYPE_MESSAGE:
            # As on the published page: a field without anything in it needs no component.
            return self.reference(name) if name == _ANY or self._contract.messages[name].field else {"type": "object"}
        if one.type not in _SCALARS:
            raise ValueError(f"{_Type.Name(one.type)} has no JSON schema here yet; its field is {one.name}")
        return dict(_SCALARS[one.type])

    def _message(self, full_name: str, message: DescriptorProto) -> Schema:
        if full_name == _ANY:
            about = "A message of any type, which `@type` names; its fields stand beside it."
            return {
                "type": "object",
                "description": about,
                "properties": {"@type": {"type": "string"}},
                "additionalProperties": True,
            }
        required = [one.json_name for one in message.field if is_required(one)]
        return _without_nothing(
            {
                "type": "object",
                "description": self._contract.comment(full_name),
                "properties": {one.json_name: self.field(full_name, one) for one in message.field},
                "required": required,
            }
        )

    def _enum(self, full_name: str, enum: EnumDescriptorProto) -> Schema:
        values = [f"- {value.name}: {self._contract.comment(f'{full_name}.{value.name}')}" for value in enum.value]
        parts = [self._contract.comment(full_name), "\n".join(values)]
        return {
            "type": "string",
            "description": "\n\n".join(part for part in parts if part),
            "enum": [value.name for value in enum.value],
            "default": enum.value[0].name,
        }


def is_required(one: FieldDescriptorProto) -> bool:
    """Whether the contract marks the field as required."""
    return field_behavior_pb2.REQUIRED in one.options.Extensions[field_behavior_pb2.field_behavior]


def _without_nothing(schema: Schema) -> Schema:
    return {key: value for key, value in schema.items() if value not in ("", [], {}, False)}
