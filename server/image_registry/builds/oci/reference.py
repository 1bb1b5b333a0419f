"""References to images: `oci:/dir:tag`, and registry references with Docker's rules for short names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_DOCKER_HUB = "docker.io"
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class LayoutReference:
    """An image in an OCI image layout on disk; `reference` is a tag, a digest, or empty for the only image there."""

    path: Path
    reference: str = ""


@dataclass(frozen=True)
class RegistryReference:
    """An image in a registry; `reference` is a tag or a digest."""

    host: str
    repository: str
    reference: str = "latest"


def parse_reference(text: str) -> LayoutReference | RegistryReference:
    """Read an image reference. Raises ValueError with what is wrong.

    `python:3.11` means `docker.io/library/python:3.11`, as container engines read it.
    """
    if text.startswith("oci:"):
        return _parse_layout(text.removeprefix("oci:"))
    name, at, digest = text.partition("@")
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, path = first, rest
    else:
        host, path = _DOCKER_HUB, name
    repository, colon, tag = path.partition(":")
    if host in {_DOCKER_HUB, "index.docker.io"}:
        host = _DOCKER_HUB
        repository = repository if "/" in repository else f"library/{repository}"
    if not _HOST.fullmatch(host) or not _REPOSITORY.fullmatch(repository) or len(repository) > 255:
        raise ValueError(f"{text!r} is not an image reference")
    if (colon and not _TAG.fullmatch(tag)) or (at and not _DIGEST.fullmatch(digest)):
        raise ValueError(f"{text!r} has a tag or a digest that no registry knows")
    return RegistryReference(host, repository, digest or tag or "latest")


def repository_within(text: str, root: RegistryReference) -> str:
    """Return the repository of a reference that is of the same registry as `root` and below its path, else ValueError.

    Nothing may follow the repository's name: a tag or digest names an image in it.
    """
    reference = parse_reference(text)
    if (
        isinstance(reference, LayoutReference)
        or reference.host != root.host
        or not reference.repository.startswith(f"{root.repository}/")
        or not text.endswith(reference.repository)
    ):
        raise ValueError(f"{text!r} is not a repository in {root.host}/{root.repository}")
    return reference.repository


def layout_within(text: str, root: LayoutReference) -> Path:
    """Return the folder of a reference to a layout; that it is below `root` is LayoutRepository's to check."""
    reference = parse_reference(text)
    if not isinstance(reference, LayoutReference):
        raise ValueError(f"{text!r} is not a folder in {root.path}")  # noqa: TRY004 (of the text, not of its type)
    return reference.path


def _parse_layout(text: str) -> LayoutReference:
    directory, at, digest = text.partition("@")
    if at:
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"{digest!r} is not a sha256 digest")
        reference = digest
    else:
        head, colon, tail = text.rpartition(":")
        directory, reference = (head, tail) if colon and _TAG.fullmatch(tail) else (text, "")
    path = Path(directory)
    if not path.is_absolute() or ".." in path.parts or not directory.isprintable():
        raise ValueError(f"{directory!r} is not an absolute path of an image layout")
    return LayoutReference(path, reference)
