"""The OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, MethodDescriptorProto

from image_registry.openapi import examples
from image_registry.openapi.contract import Contract, load
from image_registry.openapi.schemas import Schemas, is_required

Json = dict[str, Any]

_VERBS = ("get", "put", "post", "delete", "patch")
_INTERNAL = "/internal/"  # paths that are served, but aren't for users
_INTERNAL_TAG = "Internal"
_STATUS = "google.rpc.Status"
_BODY = "google.api.HttpBody"  # a method with this answer writes the HTTP body itself; here that is text
_ABOUT = """\
Makes, keeps and finds container images with the Python, pip libraries and system packages that a team needs.

Every path is also a gRPC method, on the same port. JSON is written as proto3 maps it: names in camelCase (snake_case\
 is understood too), 64-bit numbers as strings, times as RFC 3339, enums by name. Fields without a value are present\
 with their zero value; only messages that are not set are left out. Unknown fields of a request's body are ignored.

Every error, whichever part of the service it comes from, is a `googlerpcStatus`: `code` is the canonical gRPC code, \
`message` is for people, `details` are for programs, first of all the `reason` in `google.rpc.ErrorInfo`."""
_KEY = "Needed once the deployment has keys; a service without keys answers on its own machine only."


def build(contract: Contract | None = None) -> Json:
    """The document for the installed descriptor set, or for another one."""
    contract = contract or load()
    schemas = Schemas(contract)
    paths: dict[str, Json] = {}
    for service, method, verb, template, rule, number in _bindings(contract):
        operation = _operation(contract, schemas, service, method, rule, number)
        paths.setdefault(_json_template(contract, method, template), {})[verb] = operation
    for service in _services(contract):
        # Also the answers of methods that have no path: the published page has them.
        for method in contract.services[service].method:
            _answer(schemas, method)
    tags = [{"name": s.rpartition(".")[2], "description": contract.comment(s)} for s in _services(contract)]
    internal = {"name": _INTERNAL_TAG, "description": "For the platform's own parts; not part of the public API."}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Managed Image Registry", "version": "v1", "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"rimeApiKey": []}, {}],
        "tags": [*tags, internal],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {
                "rimeApiKey": {"type": "apiKey", "in": "header", "name": "rime-api-key", "description": _KEY}
            },
        },
    }


def as_json(document: Json) -> str:
    """The document as it is kept in `docs/openapi.json` and served."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _services(contract: Contract) -> list[str]:
    """Full names of the services that are reachable over REST."""
    return [
        name
        for name, service in sorted(contract.services.items())
        if any(method.options.HasExtension(annotations_pb2.http) for method in service.method)
    ]


def _bindings(contract: Contract) -> Iterator[tuple[str, MethodDescriptorProto, str, str, http_pb2.HttpRule, int]]:
    """Service, method, verb, path template, rule and its number (from 1) of everything that REST reaches."""
    for service in _services(contract):
        for method in contract.services[service].method:
            rule = method.options.Extensions[annotations_pb2.http]
            for number, binding in enumerate((rule, *rule.additional_bindings), start=1):
                for verb in _VERBS:
                    if template := getattr(binding, verb):
                        yield service, method, verb, template, binding, number


def _operation(
    contract: Contract,
    schemas: Schemas,
    service: str,
    method: MethodDescriptorProto,
    rule: http_pb2.HttpRule,
    number: int,
) -> Json:
    short = service.rpartition(".")[2]
    template = next(getattr(rule, verb) for verb in _VERBS if getattr(rule, verb))
    internal = template.startswith(_INTERNAL)
    identity = f"{short}_{method.name}{number if number > 1 else ''}"
    operation: Json = {
        "tags": [_INTERNAL_TAG if internal else short],
        "summary": method.name,
        "description": contract.comment(f"{service}.{method.name}"),
        "operationId": identity,
    }
    if internal:
        operation["x-internal"] = True
    if parameters := list(_parameters(contract, schemas, method, template, has_body=bool(rule.body))):
        operation["parameters"] = parameters
    if rule.body:
        if rule.body != "*":
            raise ValueError(f"{identity}: only a body of the whole request is supported")
        content = {**_content(schemas.reference(_input(method))), "required": True}
        operation["requestBody"] = _with_example(content, examples.REQUESTS.get(identity))
    answer = {"description": "A successful response.", **_answer(schemas, method)}
    error = {"description": "An unexpected error response.", **_content(schemas.reference(_STATUS))}
    operation["responses"] = {
        "200": _with_example(answer, examples.RESPONSES.get(identity)),
        "default": _with_example(error, examples.ERROR),
    }
    return operation


def _content(schema: Json) -> Json:
    return {"content": {"application/json": {"schema": schema}}}


def _answer(schemas: Schemas, method: MethodDescriptorProto) -> Json:
    if (output := method.output_type.lstrip(".")) == _BODY:
        return {"content": {"text/plain": {"schema": {"type": "string"}}}}
    return _content(schemas.reference(output))


def _with_example(described: Json, example: Json | str | None) -> Json:
    if example is not None:
        for content in described["content"].values():
            content["example"] = example
    return described


def _input(method: MethodDescriptorProto) -> str:
    return method.input_type.lstrip(".")


def _variables(template: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", template)


def _json_template(contract: Contract, method: MethodDescriptorProto, template: str) -> str:
    names = {one.name: one.json_name for one in contract.messages[_input(method)].field}
    return re.sub(r"\{(\w+)\}", lambda variable: "{" + names[variable[1]] + "}", template)


def _parameters(
    contract: Contract, schemas: Schemas, method: MethodDescriptorProto, template: str, *, has_body: bool
) -> Iterator[Json]:
    request = contract.messages[_input(method)]
    in_path = _variables(template)
    for one in request.field:
        if one.name in in_path:
            yield _parameter(schemas, _input(method), one, "", "path")
    if not has_body:
        yield from _query(contract, schemas, _input(method), request, prefix="", leave_out=in_path)


def _query(
    contract: Contract, schemas: Schemas, name: str, message: DescriptorProto, *, prefix: str, leave_out: list[str]
) -> Iterator[Json]:
    """Every field that a query string can carry: repeated messages can't."""
    for one in message.field:
        inner = one.type_name.lstrip(".")
        if one.type != FieldDescriptorProto.TYPE_MESSAGE:
            if one.name not in leave_out:
                yield _parameter(schemas, name, one, prefix, "query")
        elif one.label != FieldDescriptorProto.LABEL_REPEATED:
            path = f"{prefix}{one.json_name}."
            yield from _query(contract, schemas, inner, contract.messages[inner], prefix=path, leave_out=[])


def _parameter(schemas: Schemas, message: str, one: FieldDescriptorProto, prefix: str, place: str) -> Json:
    schema = schemas.field(message, one)
    description = schema.pop("description", "")
    parameter: Json = {
        "name": prefix + one.json_name,
        "in": place,
        "description": description,
        "required": place == "path" or is_required(one),
        "schema": schema,
    }
    if (example := examples.PARAMETERS.get(parameter["name"])) is not None:
        parameter["example"] = example
    return parameter
