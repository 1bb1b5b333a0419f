"""The document as one HTML page that needs nothing else: no network, and no script to be read."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup, escape

Json = dict[str, Any]

LOCAL_ADDRESS = "http://127.0.0.1:8080"  # in the commands, until a browser knows better
_WIDTH = 50  # characters of a line of JSON
_REFERENCE = "#/components/schemas/"
_CODE = re.compile(r"`([^`]+)`")
_URL = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,;:)]")
_TOKEN = re.compile(r'(?P<key>"(?:[^"\\]|\\.)*")(?=:)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<literal>-?[0-9.]+|true|false)')


@dataclass(frozen=True, slots=True)
class Row:
    """A parameter, or a field of a schema."""

    name: str
    type: Markup
    about: Markup
    required: bool
    note: str = ""

    @property
    def breakable(self) -> Markup:
        """The name with places where a line may end."""
        return _breakable(self.name)


@dataclass(frozen=True, slots=True)
class Operation:
    """A method at a path; `repeated` tells that another path has the same method."""

    anchor: str
    verb: str
    path: Markup
    plain_path: str
    title: str
    repeated: bool
    about: Markup
    parameters: list[Row]
    body: list[Row]
    body_type: Markup
    answer_type: Markup
    command: str
    request: Markup
    answer: Markup


@dataclass(frozen=True, slots=True)
class Tag:
    """A group of operations."""

    anchor: str
    name: str
    about: Markup
    operations: list[Operation]


@dataclass(frozen=True, slots=True)
class SchemaView:
    """A component: an object with fields, or an enum with values (rows without type)."""

    anchor: str
    name: str
    about: Markup
    kind: str
    rows: list[Row]

    @property
    def breakable(self) -> Markup:
        """The name with places where a line may end."""
        return _breakable(self.name)


def render(document: Json) -> str:
    """The page for an OpenAPI document that `document.build` made."""
    folder = importlib.resources.files("image_registry.openapi")
    style, script = (folder.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("image_registry.openapi", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template("page.html.j2")
    return template.render(
        info=document["info"],
        about=rich_text(document["info"]["description"]),
        key=document["components"]["securitySchemes"]["rimeApiKey"],
        tags=[_tag(document, tag) for tag in document["tags"]],
        schemas=[_schema(name, schema) for name, schema in document["components"]["schemas"].items()],
        error=highlight(
            next(_operations(document))[2]["responses"]["default"]["content"]["application/json"]["example"]
        ),
        error_type=_type({"$ref": f"{_REFERENCE}googlerpcStatus"}),
        style=Markup(style),  # noqa: S704 (our own file)
        script=Markup(script),  # noqa: S704 (our own file)
        style_hash=_hash(style),
        script_hash=_hash(script),
        address=LOCAL_ADDRESS,
    )


def commands(document: Json) -> dict[str, str]:
    """The curl command of each operation, by its id."""
    return {operation["operationId"]: _curl(verb, path, operation) for verb, path, operation in _operations(document)}


def rich_text(text: str) -> Markup:
    """Paragraphs, lists of lines that begin with '- ', `code`, and links."""
    blocks = []
    for block in text.split("\n\n"):
        lines = block.split("\n")
        if all(line.startswith("- ") for line in lines):
            items = Markup("").join(Markup("<li>{}</li>").format(_inline(line[2:])) for line in lines)
            blocks.append(Markup("<ul>{}</ul>").format(items))
        elif block:
            blocks.append(Markup("<p>{}</p>").format(_inline(" ".join(lines))))
    return Markup("\n").join(blocks)


def highlight(value: Any) -> Markup:
    """JSON with its tokens marked; a text as it is."""
    if isinstance(value, str):
        return escape(value)
    text = pretty(value)
    parts, end = [], 0
    for token in _TOKEN.finditer(text):
        mark = Markup('<span class="{}">{}</span>').format(str(token.lastgroup), token[0])
        parts += [escape(text[end : token.start()]), mark]
        end = token.end()
    return Markup("").join([*parts, escape(text[end:])])


def pretty(value: Any, indent: str = "", name: str = "") -> str:
    """JSON with what is short on one line; `name` is what stands before it on its line."""
    flat = json.dumps(value, ensure_ascii=False)
    if not value or not isinstance(value, dict | list) or len(indent + name + flat) <= _WIDTH:
        return name + flat
    inner = indent + "  "
    if isinstance(value, dict):
        lines = [inner + pretty(one, inner, f"{json.dumps(key)}: ") for key, one in value.items()]
        return f"{name}{{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return f"{name}[\n" + ",\n".join(inner + pretty(one, inner) for one in value) + f"\n{indent}]"


def _inline(text: str) -> Markup:
    parts = []
    for number, part in enumerate(_CODE.split(text)):
        if number % 2:
            parts.append(Markup("<code>{}</code>").format(part))
        else:
            end = 0
            for link in _URL.finditer(part):
                parts += [escape(part[end : link.start()]), Markup('<a href="{0}">{0}</a>').format(link[0])]
                end = link.end()
            parts.append(escape(part[end:]))
    return Markup("").join(parts)


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            yield verb, path, operation


def _breakable(name: str) -> Markup:
    return Markup("<wbr>").join(re.split(r"(?<=[a-z])(?=[A-Z])|(?<=[._])", name))


def _tag(document: Json, tag: Json) -> Tag:
    name = tag["name"]
    found = [_operation(document, *one) for one in _operations(document) if name in one[2]["tags"]]
    return Tag(f"tag/{name}", name, rich_text(tag["description"]), found)


def _operation(document: Json, verb: str, path: str, operation: Json) -> Operation:
    answer = _content(operation["responses"]["200"])
    body = _content(operation["requestBody"]) if "requestBody" in operation else {}
    example = answer.get("example")
    return Operation(
        anchor=f"tag/{operation['tags'][0]}/operation/{operation['operationId']}",
        verb=verb.upper(),
        path=_marked_path(path),
        plain_path=path,
        title=operation["summary"],
        repeated=operation["operationId"][-1].isdigit(),
        about=rich_text(operation["description"]),
        parameters=[_parameter(one) for one in operation.get("parameters", ())],
        body=_fields(document, body["schema"]) if body else [],
        body_type=_type(body["schema"]) if body else Markup(""),
        answer_type=_type(answer["schema"]),
        command=_curl(verb, path, operation),
        request=highlight(body["example"]) if "example" in body else Markup(""),
        answer=escape(example)
        if isinstance(example, str)
        else highlight(example)
        if example is not None
        else Markup(""),
    )


def _content(described: Json) -> Json:
    content: Json = next(iter(described["content"].values()))
    return content


def _marked_path(path: str) -> Markup:
    parts = re.split(r"(\{\w+\})", path)
    return Markup("").join(Markup("<var>{}</var>").format(p) if p.startswith("{") else escape(p) for p in parts)


def _parameter(one: Json) -> Row:
    return Row(one["name"], _type(one["schema"]), rich_text(one["description"]), one["required"], one["in"])


def _fields(document: Json, schema: Json) -> list[Row]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].removeprefix(_REFERENCE)]
    return [
        Row(name, _type(one), rich_text(one.get("description", "")), name in schema.get("required", ()))
        for name, one in schema.get("properties", {}).items()
    ]


def _schema(name: str, schema: Json) -> SchemaView:
    about, _, values = schema.get("description", "").partition("\n\n- ")
    if "enum" in schema:
        listed = dict(line.removeprefix("- ").split(": ", 1) for line in values.split("\n"))
        rows = [Row(value, Markup(""), rich_text(listed[value]), required=False) for value in schema["enum"]]
        return SchemaView(f"schema/{name}", name, rich_text(about), "enum", rows)
    return SchemaView(f"schema/{name}", name, rich_text(schema.get("description", "")), "object", _fields({}, schema))


def _type(schema: Json) -> Markup:
    if "$ref" in schema:
        return Markup('<a href="#schema/{0}">{0}</a>').format(schema["$ref"].removeprefix(_REFERENCE))
    if schema["type"] == "array":
        return Markup("list of {}").format(_type(schema["items"]))
    return escape(f"{schema['type']} ({schema['format']})" if "format" in schema else schema["type"])


def _curl(verb: str, path: str, operation: Json) -> str:
    parameters = operation.get("parameters", ())
    for one in parameters:
        if one["in"] == "path":
            path = path.replace("{" + one["name"] + "}", one["example"])
    query = "&".join(
        f"{one['name']}={one['example']}" for one in parameters if one["in"] == "query" and "example" in one
    )
    address = f"{LOCAL_ADDRESS}{path}{'?' if query else ''}{query}"
    method = "" if verb == "get" or "requestBody" in operation else f" -X {verb.upper()}"
    lines = [f"curl{method} '{address}'", '-H "rime-api-key: $RIME_API_KEY"']
    if "requestBody" in operation:
        body = pretty(_content(operation["requestBody"])["example"])
        lines += ["-H 'content-type: application/json'", f"-d '{body}'"]
    return " \\\n  ".join(lines)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
