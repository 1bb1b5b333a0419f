"""Reads requirements files as pip writes them, and says of each line that can't be taken why not.

The format is pip's (https://pip.pypa.io/en/stable/reference/requirements-file-format/): comments, continuation lines,
hashes, `-r` of further files, environment markers. The service takes names and versions only, so that every other
option is refused; a marker is decided here as far as the image's platform and Python decide it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.markers import InvalidMarker, Marker

from image_registry.client.models import PipRequirement
from image_registry.client.requirements import RequirementError, pip_requirement, without_logins

_COMMENT = re.compile(r"(?:^|\s)#.*$")
_HASH = re.compile(r"\s--hash(?:=|\s+)\S+")
_INCLUDE = re.compile(r"(?:-r|--requirement)(?:=|\s+|(?=\S))(?P<path>\S.*)")
_OPTION = re.compile(r"-{1,2}[A-Za-z][\w-]*")
_INNER_OPTION = re.compile(r"\s--[a-z-]+")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_WORD = re.compile(r"[a-z_]+")
_OPERATORS = {"and", "or", "in", "not"}
_LINUX = {
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
}
_WHY_NOT = {
    **dict.fromkeys(
        ("-e", "--editable"), "editable installs aren't taken: publish the project to the package index and name it"
    ),
    **dict.fromkeys(("-c", "--constraint"), "constraint files aren't taken: write the versions into the requirements"),
    **dict.fromkeys(
        ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index"),
        "the service has one package index of its own; leave the line out",
    ),
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a requirement stands."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """A line that can't be taken, and why. `text` is the line, without the logins of URLs."""

    origin: Origin
    text: str
    why: str


@dataclass(slots=True)
class RequirementsFile:
    """What a requirements file asks for. `skipped` are lines whose marker isn't for the image; `hashes` counts
    lines with hashes, which the service doesn't check: it keeps hashes of its own of what it installs."""

    requirements: list[tuple[PipRequirement, Origin]] = field(default_factory=list)
    refused: list[RefusedLine] = field(default_factory=list)
    skipped: list[RefusedLine] = field(default_factory=list)
    hashes: int = 0


def read_requirements_file(path: Path, *, python_version: str = "") -> RequirementsFile:
    """Read a file and those that it includes, for an image with that Python ('': not known here).

    Raises OSError, UnicodeDecodeError if it can't be read; a line that includes one that can't is a refused line.
    """
    result = RequirementsFile()
    _read(path, result, python_version, seen=set())
    return result


def _read(path: Path, result: RequirementsFile, python_version: str, seen: set[Path]) -> None:
    seen.add(path.resolve())
    for number, line in _logical_lines(path.read_text(encoding="utf-8-sig")):
        origin = Origin(path, number)
        if include := _INCLUDE.fullmatch(line):
            included = path.parent / include["path"]
            if included.resolve() not in seen:
                _include(included, RefusedLine(origin, line, ""), result, python_version, seen)
            continue
        _take(line, origin, result, python_version)


def _include(path: Path, line: RefusedLine, result: RequirementsFile, python_version: str, seen: set[Path]) -> None:
    try:
        _read(path, result, python_version, seen)
    except OSError as error:
        result.refused.append(replace(line, why=f"{path} can't be read: {error.strerror}"))
    except UnicodeDecodeError:
        result.refused.append(replace(line, why=f"{path} is no text in UTF-8"))


def _take(line: str, origin: Origin, result: RequirementsFile, python_version: str) -> None:
    shown = without_logins(line)
    without_hashes = _HASH.sub("", line)
    result.hashes += without_hashes != line
    text, _, condition = without_hashes.partition(";") if "://" not in line else (without_hashes, "", "")
    if option := _OPTION.match(line) or _INNER_OPTION.search(text):
        name = option[0].strip()
        result.refused.append(RefusedLine(origin, shown, _WHY_NOT.get(name, f"the option {name} isn't taken")))
        return
    try:
        applies = _applies(condition.strip(), python_version) if condition.strip() else True
        requirement = pip_requirement(text.strip())
    except RequirementError as error:
        result.refused.append(RefusedLine(origin, shown, error.why))
        return
    if applies:
        result.requirements.append((requirement, origin))
    else:
        result.skipped.append(RefusedLine(origin, shown, "its marker is not for this image"))


def _applies(condition: str, python_version: str) -> bool:
    """Whether a marker holds inside an image. Raises RequirementError if that can't be known here."""
    known = _LINUX | ({"python_version": python_version} if python_version else {})
    try:
        marker = Marker(condition)
    except InvalidMarker:
        raise RequirementError(condition, "the environment marker behind ; is malformed") from None
    unknown = sorted(set(_WORD.findall(_QUOTED.sub("", condition))) - _OPERATORS - known.keys())
    if unknown == ["python_version"]:
        raise RequirementError(condition, "its marker depends on the Python version: name the image's, such as 3.11")
    if unknown:
        raise RequirementError(condition, f"its marker depends on {', '.join(unknown)}, which isn't known here")
    return marker.evaluate({**known})


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with continuations joined and comments gone, each with the number of its first line."""
    parts: list[str] = []
    first = 1
    for number, raw in enumerate(text.splitlines(), start=1):
        if not parts:
            first = number
        line = _COMMENT.sub("", raw)
        if line.endswith("\\"):
            parts.append(line[:-1])
            continue
        joined = "".join([*parts, line]).strip()
        parts = []
        if joined:
            yield first, joined
    if leftover := "".join(parts).strip():
        yield first, leftover
