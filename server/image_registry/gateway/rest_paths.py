"""The services and REST paths of a descriptor set, in the form that Envoy's routes need.

Path templates are those of `google.api.http` (https://github.com/googleapis/googleapis, google/api/http.proto).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2

_VERBS = ("get", "put", "post", "delete", "patch")
_PART = re.compile(r"\{(?P<variable>[\w.]+)(?:=(?P<pattern>[^}]*))?\}|(?P<wild>\*\*|\*)|(?P<literal>[^{*]+)")


@dataclass(frozen=True)
class RestPath:
    """One path template.

    `regex` matches the whole path; `methods` are the HTTP methods that this template itself answers, `allow` those
    that any template answers for its paths; `variables` are the request fields that the path gives; `streaming` tells
    that one of its methods streams its answer.
    """

    regex: str
    methods: tuple[str, ...]
    allow: tuple[str, ...]
    parameters: tuple[str, ...]
    streaming: bool


@dataclass(frozen=True)
class Interface:
    """What the gateway serves: services by full name, and their REST paths, most specific first."""

    services: tuple[str, ...]
    paths: tuple[RestPath, ...]


def read_interface(descriptor_set: Path) -> Interface:
    """Read all services of a serialised FileDescriptorSet."""
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set.read_bytes())
    services = [(f"{file.package}.{service.name}", service) for file in files.file for service in file.service]
    rules = [
        (verb, template, method.server_streaming)
        for _, service in services
        for method in service.method
        for verb, template in _bindings(method.options.Extensions[annotations_pb2.http])
    ]
    return Interface(services=tuple(sorted(name for name, _ in services)), paths=_paths(rules))


def _bindings(rule: http_pb2.HttpRule) -> Iterator[tuple[str, str]]:
    for binding in (rule, *rule.additional_bindings):
        for verb in _VERBS:
            if template := getattr(binding, verb):
                yield verb.upper(), template


def _paths(rules: Sequence[tuple[str, str, bool]]) -> tuple[RestPath, ...]:
    templates = sorted({template for _, template, _ in rules}, key=_generality)
    paths = []
    for template in templates:
        regex, variables = _compile(template)
        sample = _PART.sub(lambda part: part["literal"] or "x", template)
        paths.append(
            RestPath(
                regex=regex,
                methods=tuple(sorted({verb for verb, other, _ in rules if other == template})),
                allow=tuple(sorted({verb for verb, other, _ in rules if re.fullmatch(_compile(other)[0], sample)})),
                parameters=tuple(name for variable in variables for name in _spellings(variable)),
                streaming=any(streams for _, other, streams in rules if other == template),
            )
        )
    return tuple(paths)


def _generality(template: str) -> tuple[int, int, str]:
    return template.count("**"), template.count("{"), template


def _spellings(field: str) -> list[str]:
    json_name = re.sub(r"_([a-z])", lambda match: match[1].upper(), field)
    return sorted({field, json_name})


def _compile(template: str) -> tuple[str, tuple[str, ...]]:
    """Return the regular expression of a template and its variables."""
    regex = ""
    variables = []
    for part in _PART.finditer(template):
        if part["literal"] is not None:
            regex += re.escape(part["literal"])
        elif part["wild"] is not None:
            regex += ".+" if part["wild"] == "**" else "[^/]+"
        else:
            variables.append(part["variable"])
            regex += _compile(part["pattern"] or "*")[0]
    return regex, tuple(variables)
