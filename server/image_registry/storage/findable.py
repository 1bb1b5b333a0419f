"""What an image can be found by: the keys of its rows in `image_libraries`, each with a version.

Libraries stand under their PEP 503 names. Two kinds of key can't be such a name: an extra that the image was asked
for, `uvicorn[standard]`, has the version of its library; a system package that it was asked for is `apt:git`, with the
version that was asked for, or none.
"""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from image_registry.models import ImageDefinition, PackageRequirement, PackageType
from image_registry.requirements import library_key, version_key

Version = tuple[str, str]  # public and local part, as `version_key` makes them
_MANAGERS = {PackageType.APT: "apt", PackageType.ROCKYLINUX: "yum"}


def keys_of(definition: ImageDefinition) -> dict[str, Version]:
    """All that a built image can be found by."""
    libraries = {library_key(one.name): version_key(one.version) for one in definition.pip_libraries}
    extras: dict[str, Version] = {}
    for requirement in definition.pip_requirements:
        library, *with_extras = requirement_keys(requirement.name)
        if library in libraries:
            extras |= dict.fromkeys(with_extras, libraries[library])
    packages = {package_key(one): (one.version, "") for one in definition.package_requirements}
    return libraries | extras | packages


def requirement_keys(name: str) -> list[str]:
    """The keys that all have to be there for a requirement's name: `uvicorn`, and `uvicorn[standard]` for an extra."""
    parsed = Requirement(name)
    library = library_key(parsed.name)
    return [library, *(f"{library}[{canonicalize_name(extra)}]" for extra in sorted(parsed.extras))]


def package_key(package: PackageRequirement) -> str:
    """The key of a system package."""
    return f"{_MANAGERS[package.package_type]}:{package.name}"
