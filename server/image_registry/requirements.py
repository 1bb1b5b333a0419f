"""The grammar of names, versions and requirements. Pure functions: each returns what is wrong as a sentence, or None.

Rules come from the behaviour that the product promises (CreateImage, ListImages), PEP 440 (versions), PEP 503 (names),
PEP 508 (extras), Debian policy 5.6 and RPM's naming for system packages, and the OCI distribution specification
(repository names of at most 255 characters).
"""

from __future__ import annotations

import re
from functools import lru_cache

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name, canonicalize_version
from packaging.version import InvalidVersion, Version

from image_registry import limits
from image_registry.models import PackageType

SYSTEM_PREFIX = "system-python-"

_IMAGE_NAME = re.compile(r"[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*", re.ASCII)
_DISTRIBUTION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_DISTRIBUTION_WITH_EXTRAS = re.compile(rf"{_DISTRIBUTION.pattern}(?: ?\[[A-Za-z0-9._, -]*\])?", re.ASCII)
_UNSAFE = re.compile(r"[^\x20-\x7e]")
# Names don't end with a hyphen, which no package's name does: apt would take it for "remove this package".
_PACKAGE_GRAMMAR = {
    PackageType.APT: (
        re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+]"),
        re.compile(r"(?:[0-9]+:)?[0-9][A-Za-z0-9.+~-]*"),
    ),
    PackageType.ROCKYLINUX: (
        re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+-]*[A-Za-z0-9_+])?"),
        re.compile(r"(?:[0-9]+:)?[A-Za-z0-9][A-Za-z0-9._+~^-]*"),
    ),
}
_MANAGER = {PackageType.APT: "apt", PackageType.ROCKYLINUX: "yum"}
_SPECIFIER_FAULT = "must be a PEP 440 specifier such as >=1.2,<2, or a bare version such as 1.0.2"


def system_image_name(python_version: str) -> str:
    """The name of the system image of a Python version ('3.11' → 'system-python-3-11')."""
    return SYSTEM_PREFIX + python_version.replace(".", "-")


def image_name_fault(name: str, prefix: str = "") -> str | None:
    """What is wrong with the name of a user's image whose repository is `prefix` and the name."""
    room = limits.REPOSITORY_NAME - len(prefix)
    if len(name) > room:
        return f"must have at most {room} characters, so that its repository's name fits {limits.REPOSITORY_NAME}"
    if not _IMAGE_NAME.fullmatch(name):
        return (
            "must match ^[a-z][a-z0-9]*(?:[_-][a-z0-9]+)*$: lower-case letters and digits from a letter on, "
            "in groups parted by a single - or _"
        )
    if name.startswith(SYSTEM_PREFIX):
        return f"must not start with {SYSTEM_PREFIX}, which is kept for system images"
    return None


def pip_name_fault(name: str) -> str | None:
    """What is wrong with the name field of a pip requirement (extras allowed)."""
    if not name:
        return "must name a distribution, such as numpy or uvicorn[standard]"
    if fault := text_fault(name):
        return fault
    if not _DISTRIBUTION_WITH_EXTRAS.fullmatch(name):
        return (
            "must be a distribution name with optional extras, such as numpy or uvicorn[standard]; "
            "versions go into versionSpecifier, and URLs, paths, options and markers are not taken"
        )
    if "[" not in name:
        return None
    try:
        Requirement(name)
    except InvalidRequirement:
        return "has malformed extras; write them as uvicorn[standard] or name[one,two]"
    return None


def pip_specifier_fault(specifier: str) -> str | None:
    """What is wrong with the version specifier of a pip requirement ('' is any version)."""
    if fault := text_fault(specifier):
        return fault
    if ";" in specifier or "@" in specifier:
        return "must be versions only: no markers (;) and no URLs (@)"
    if "===" in specifier:
        return "must not use ===; write == with a PEP 440 version"
    return None if _is_specifier(specifier) else _SPECIFIER_FAULT


@lru_cache(2048)  # the same few are sent again and again, and reading one takes longer than all else of its request
def _is_specifier(text: str) -> bool:
    """Whether a text of at most `limits.FIELD` characters is a specifier or a bare version."""
    spelt_out = pip_specifier(text)
    if spelt_out and not all(part.strip() for part in spelt_out.split(",")):
        return False
    try:
        SpecifierSet(spelt_out)
    except InvalidSpecifier:
        return False
    return True


def pip_specifier(specifier: str) -> str:
    """The specifier with a bare version ('1.0.2') spelt out ('==1.0.2')."""
    try:
        Version(specifier)
    except InvalidVersion:
        return specifier.strip()
    return f"=={specifier.strip()}"


def pip_requirement(name: str, specifier: str) -> str:
    """The PEP 508 string of a validated requirement."""
    return f"{name}{pip_specifier(specifier)}"


def package_name_fault(name: str, package_type: PackageType) -> str | None:
    """What is wrong with the name of a system package in its manager's grammar."""
    if fault := text_fault(name):
        return fault
    if not _PACKAGE_GRAMMAR[package_type][0].fullmatch(name):
        return f"must be a package name of {_MANAGER[package_type]}, such as git or libgomp1"
    return None


def package_version_fault(version: str, package_type: PackageType) -> str | None:
    """What is wrong with the version of a system package in its manager's grammar ('' is the newest)."""
    if not version:
        return None
    if fault := text_fault(version):
        return fault
    if not _PACKAGE_GRAMMAR[package_type][1].fullmatch(version):
        example = "1:2.39.5-0+deb12u2" if package_type is PackageType.APT else "2.43.5-1.el9"
        return f"must be one exact version in the grammar of {_MANAGER[package_type]}, such as {example}"
    return None


def filter_name_fault(name: str) -> str | None:
    """What is wrong with the name of a library filter."""
    if fault := text_fault(name):
        return fault
    if not _DISTRIBUTION.fullmatch(name):
        return "must be a distribution name, such as numpy"
    return None


def filter_version_fault(version: str | None) -> str | None:
    """What is wrong with the version of a library filter (None is any version)."""
    if version is None:
        return None
    if fault := text_fault(version):
        return fault
    try:
        Version(version)
    except InvalidVersion:
        return "must be one PEP 440 version such as 1.0.2; leave the field out for any version"
    return None


def library_key(name: str) -> str:
    """The name as PEP 503 compares it: `Scikit_Learn` and `scikit-learn` are one library."""
    return str(canonicalize_name(name))


def version_key(version: str) -> tuple[str, str]:
    """The public and local part of a version as PEP 440 compares them: `1.0` equals `1.0.0`.

    A version that PEP 440 can't read (pip shows such of old system packages) is compared letter by letter.
    """
    try:
        parsed = Version(version)
    except InvalidVersion:
        return version.strip().lower(), ""
    return canonicalize_version(parsed.public), parsed.local or ""


def text_fault(text: str) -> str | None:
    """What is wrong with any name or version field, whatever its grammar."""
    if len(text) > limits.FIELD:
        return f"must have at most {limits.FIELD} characters"
    if _UNSAFE.search(text):
        return "must be printable ASCII: no line breaks, control characters or other scripts"
    return None
