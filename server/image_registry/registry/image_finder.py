"""Looking for images that already hold what a new one would be made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from image_registry import limits
from image_registry.codec import decode_definition
from image_registry.models import FoundImage, ImageStatus, PipLibrary, WantedContents
from image_registry.requirements import library_key, pip_specifier
from image_registry.storage import image_finder
from image_registry.storage.database import Database
from image_registry.storage.findable import package_key, requirement_keys
from image_registry.storage.image_finder import Wanted


class ImageFinder:
    """Finds images by contents."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(self, contents: WantedContents, *, most: int) -> list[FoundImage]:
        """Up to `most` READY images that hold everything, the one with the fewest further libraries first.

        The answer ends before its definitions exceed `limits.PAGE_BYTES`, though not before its first image.
        """
        wanted = list(_wanted(contents))
        rows = await self._db.read(
            lambda conn: image_finder.find(conn, wanted, python_version=contents.python_version, limit=most)
        )
        libraries = [requirement_keys(pip.name)[0] for pip in contents.pip_requirements]
        found: list[FoundImage] = []
        size = 0
        for row in rows:
            definition = bytes(row["definition"])
            size += len(definition)
            if found and size > limits.PAGE_BYTES:
                break
            installed = decode_definition(definition).pip_libraries
            matching = tuple(_matching(libraries, {library_key(one.name): one for one in installed}))
            found.append(FoundImage(definition, ImageStatus(row["status"]), matching, len(installed) - len(matching)))
        return found


def _wanted(contents: WantedContents) -> Iterator[Wanted]:
    for pip in contents.pip_requirements:
        fits = _fits(pip.version_specifier)
        library, *extras = requirement_keys(pip.name)
        yield Wanted(library, fits, binds_local="+" in pip.version_specifier)
        yield from (Wanted(extra) for extra in extras)
    for package in contents.package_requirements:
        yield Wanted(package_key(package), _is(package.version) if package.version else None)


def _matching(libraries: Sequence[str], installed: Mapping[str, PipLibrary]) -> Iterator[PipLibrary]:
    for library in libraries:
        if library in installed:  # always, but for a rebuild that was recorded between two statements
            yield installed[library]


def _fits(specifier: str) -> Callable[[str, str], bool] | None:
    """Whether an installed version lies in the range. Pre-releases do, as they do for pip: they are there already."""
    spelt_out = pip_specifier(specifier)
    if not spelt_out:
        return None
    versions = SpecifierSet(spelt_out)

    def fits(public: str, local: str) -> bool:
        try:
            return versions.contains(Version(f"{public}+{local}" if local else public), prereleases=True)
        except InvalidVersion:
            return False

    return fits


def _is(version: str) -> Callable[[str, str], bool]:
    return lambda public, _: public == version
