"""Requirements as people write them: 'numpy>=1.26', 'uvicorn[standard]', 'git=1:2.39.5-0+deb12u2'."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from image_registry.client.models import PackageRequirement, PackageType, PipLibrary, PipLibraryFilter, PipRequirement

T = TypeVar("T")
_PARTS = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*(?P<extras>\[[^\]]*\])?\s*(?P<specifier>.*)", re.DOTALL)
_LOGIN = re.compile(r"://[^/\s]*@")
_LIBRARY = re.compile(r"\s*(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:==\s*(?P<version>\S+)\s*)?")
_SLIP = re.compile(r"(?<![=<>!~])(?P<two>=>|=<|<>)|^[^=<>!~]*(?P<one>!)(?!=)")
_MEANT = {"=>": ">=", "=<": "<=", "<>": "!=", "!": "!="}
_PACKAGE = re.compile(r"\s*(?P<name>[A-Za-z0-9][A-Za-z0-9.+_-]*)\s*(?:=\s*(?P<version>[^\s=]\S*)\s*)?")


class RequirementError(ValueError):
    """A requirement that the service doesn't take; `str()` of it says what was written and why not.

    A login in a URL is left out of that; `text` is what was written.
    """

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"{without_logins(text)!r}: {why}")
        self.text = text
        self.why = why

    def __reduce__(self) -> tuple[type[RequirementError], tuple[str, str]]:
        return type(self), (self.text, self.why)


def pip_requirement(text: str | PipRequirement) -> PipRequirement:
    """Read a PEP 508 requirement without URL and marker. Raises RequirementError."""
    if isinstance(text, PipRequirement):
        return text
    if refusal := _refused_form(text):
        raise RequirementError(text, refusal)
    try:
        parsed = Requirement(text)
    except InvalidRequirement:
        raise RequirementError(text, _malformed(text)) from None
    if parsed.url is not None:
        raise RequirementError(text, "URLs aren't taken: only libraries of the package index can be installed")
    if parsed.marker is not None:
        raise RequirementError(text, "environment markers (;) aren't taken: an image has one Python and one platform")
    match = _PARTS.fullmatch(text.strip())
    if match is None:
        raise RequirementError(text, "must be written like numpy>=1.26")
    extras = f"[{','.join(sorted(parsed.extras))}]" if parsed.extras else ""
    specifier = match["specifier"].strip()
    return PipRequirement(match["name"] + extras, str(parsed.specifier) if specifier.startswith("(") else specifier)


def package_requirement(
    text: str | PackageRequirement, package_type: PackageType = PackageType.APT
) -> PackageRequirement:
    """Read 'git' or 'git=1:2.39.5-0+deb12u2'. Raises RequirementError."""
    if isinstance(text, PackageRequirement):
        return text
    match = _PACKAGE.fullmatch(text)
    if match is None:
        raise RequirementError(text, "must be a package's name, or name=version with one exact version")
    return PackageRequirement(match["name"], match["version"] or "", package_type)


def library_filter(text: str | PipLibraryFilter) -> PipLibraryFilter:
    """Read 'numpy' (any version) or 'numpy==1.26.4'. Raises RequirementError."""
    if isinstance(text, PipLibraryFilter):
        return text
    match = _LIBRARY.fullmatch(text)
    if match is None:
        why = "must be a library's name, or name==version with one exact version"
        ranges = "; version ranges are for find_images (`image-registry images find`)"
        raise RequirementError(text, why + ranges if re.search("[<>~!]", text) else why)
    _check_version(text, match["version"])
    return PipLibraryFilter(match["name"], match["version"])


def library(text: str | PipLibrary) -> PipLibrary:
    """Read a line of `pip freeze`: 'numpy==1.26.4'. Raises RequirementError."""
    if isinstance(text, PipLibrary):
        return text
    match = _LIBRARY.fullmatch(text)
    if match is None or match["version"] is None:
        raise RequirementError(text, "must be written like numpy==1.26.4")
    return PipLibrary(match["name"], match["version"])


def without_logins(text: str) -> str:
    """What was written, for people and logs: without user names, passwords and tokens of URLs."""
    return _LOGIN.sub("://…@", text)


def as_python(version: object) -> str:
    """The Python version. Raises TypeError for a number: 3.10 as one is 3.1."""
    if not isinstance(version, str):
        raise TypeError(f"python_version must be a text such as '3.11': write '{version}', with quotes")
    return version


def as_list(many: Iterable[T]) -> list[T]:
    """The items. Raises TypeError for the classic slip of passing one string where several are meant."""
    if isinstance(many, str):
        raise TypeError(f"a list is needed: write [{many!r}]")
    return list(many)


def _check_version(text: str, version: str | None) -> None:
    if version is None:
        return
    try:
        Version(version)
    except InvalidVersion:
        raise RequirementError(text, f"{version!r} is not one PEP 440 version such as 1.26.4") from None


def _refused_form(text: str) -> str | None:
    """Why a requirement can be refused for its very form."""
    if not text.strip():
        return "must name a library, such as numpy or numpy>=1.26"
    if text.lstrip().startswith("-"):
        return "options aren't taken, only libraries of the package index"
    if re.match(r"\s*(?:git|hg|svn|bzr)\+|\s*[a-z]+://", text, re.IGNORECASE):
        return "URLs aren't taken: only libraries of the package index can be installed"
    if re.match(r"\s*[./~\\]|\s*[A-Za-z]:\\", text) or re.search(r"\.(?:whl|zip|tar\.gz)\s*$", text):
        return "files and folders aren't taken: only libraries of the package index can be installed"
    return None


def _malformed(text: str) -> str:
    if slip := _SLIP.search(text):
        written = slip["two"] or slip["one"]
        return f"{written} compares nothing: write {_MEANT[written]}"
    if re.search(r"[^=<>!~]=[^=]", text):
        return "a single = compares nothing: write == for one exact version"
    return "must be a library's name with an optional PEP 440 specifier, such as numpy>=1.26,<2 or uvicorn[standard]"
