"""apt and yum: which base takes which, the commands to run, and what their words mean for a build.

Grammar of a pinned version: apt `name=version` (apt-get(8)), yum `name-version` (dnf(8), "Specifying packages"; the
version may have an epoch before it and a release behind it). Names and versions were checked when the image was asked
for; here they are checked once more, since they become arguments of a program that runs as root of the sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from image_registry.builds.packages.wanted import Manager, SystemPackages
from image_registry.builds.plan import internal, user_error
from image_registry.models import PackageType
from image_registry.requirements import package_name_fault, package_version_fault

_TYPES = {Manager.APT: PackageType.APT, Manager.YUM: PackageType.ROCKYLINUX}
_FAMILIES = {
    Manager.APT: {"debian", "ubuntu"},
    Manager.YUM: {"rhel", "fedora", "centos", "rocky", "almalinux", "ol", "amzn"},
}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Recipe:
    """How a manager installs packages: `fetch` runs none of their code, `install` needs no network any more.

    `folders` in the container are shared by the commands and not part of the image.
    """

    environment: Mapping[str, str]
    folders: Sequence[str]
    fetch: Sequence[Sequence[str]]
    install: Sequence[str]


@dataclass(frozen=True)
class System:
    """What a base image's distribution is, read from its os-release and from which programs it has."""

    release: Mapping[str, str] = field(default_factory=dict)
    programs: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """The distribution for people: 'Debian GNU/Linux 12 (bookworm)'."""
        return self.release.get("PRETTY_NAME") or self.release.get("ID") or "of an unknown distribution"

    @property
    def manager(self) -> Manager | None:
        """The family of its package manager; None: neither."""
        names = {self.release.get("ID", ""), *self.release.get("ID_LIKE", "").split()}
        return next((manager for manager, family in _FAMILIES.items() if names & family), None)


def parse_release(text: str) -> dict[str, str]:
    """Read an os-release file, see os-release(5)."""
    return {name: value for name, _, value in re.findall(r"""^(\w+)=(["']?)(.*?)\2$""", text, re.MULTILINE)}


def recipe(wanted: SystemPackages, system: System) -> Recipe:
    """Return how to install what is wanted in a base. Raises BuildFailed when the base can't take it."""
    arguments = [_argument(wanted.manager, name, version) for name, version in sorted(wanted.packages)]
    if system.manager is not wanted.manager:
        takes = f"takes packages of type {_TYPES[system.manager].name}" if system.manager else "takes no such packages"
        user_error(f"The base image is {system.title}, which {takes}, not {_TYPES[wanted.manager].name}.")
    if wanted.manager is Manager.APT:
        return _apt(arguments)
    program = next((name for name in ("dnf", "yum") if name in system.programs), None)
    if program is None:
        has = "only microdnf, which can't install without a network" if "microdnf" in system.programs else "neither"
        internal(f"System packages need dnf or yum in the base image; {system.title} has {has}.")
    return _yum(program, arguments)


def _argument(manager: Manager, name: str, version: str) -> str:
    kind = _TYPES[manager]
    if fault := package_name_fault(name, kind) or package_version_fault(version, kind):
        user_error(f"The package {f'{name} {version}'[:80]!a} {fault}.")
    return f"{name}{'=' if manager is Manager.APT else '-'}{version}" if version else name


def _apt(arguments: Sequence[str]) -> Recipe:
    options = [
        *("-y", "-q", "--no-install-recommends", "--allow-downgrades"),
        *("-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-confold", "-o", "Acquire::Retries=2"),
        *("-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30"),
        *("-o", "APT::Update::Error-Mode=any", "-o", "Acquire::Languages=none"),
    ]
    return Recipe(
        environment={"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true"},
        folders=("/var/lib/apt/lists", "/var/cache/apt/archives"),
        fetch=(
            ("apt-get", "update", *options),
            ("apt-get", "install", "--download-only", *options, "--", *arguments),
        ),
        install=("apt-get", "install", "--no-download", *options, "--", *arguments),
    )


def _yum(program: str, arguments: Sequence[str]) -> Recipe:
    options = [
        *("-y", "--setopt=install_weak_deps=False", "--setopt=tsflags=nodocs", "--setopt=keepcache=True"),
        *("--setopt=cachedir=/var/cache/image-registry", "--setopt=retries=2", "--setopt=timeout=30"),
        *("--setopt=skip_if_unavailable=False", "--setopt=best=True", "--setopt=strict=True", "--setopt=color=never"),
    ]
    return Recipe(
        environment={},
        folders=("/var/cache/image-registry",),
        fetch=((program, "install", "--downloadonly", *options, "--", *arguments),),
        install=(program, "install", "--cacheonly", *options, "--", *arguments),
    )


def container_environment(recipe: Recipe) -> dict[str, str]:
    """The variables of a command in the container, on top of the image's: no Python of the managed environment."""
    return {"PATH": _PATH, "HOME": "/root", "LC_ALL": "C", "SOURCE_DATE_EPOCH": "315619200", **recipe.environment}


@dataclass(frozen=True)
class Cause:
    """Why installing failed; `passing`: the next attempt may succeed."""

    text: str
    passing: bool = False
    out_of_memory: bool = False


_NO_SPACE = re.compile(r"No space left on device|not enough free space|needs \d+\w* more space|You don't have enough")
_NO_MEMORY = re.compile(r"Cannot allocate memory|std::bad_alloc|MemoryError|virtual memory exhausted")
_NETWORK = re.compile(
    r"Temporary failure resolving|Could not (?:resolve|connect)|Failed to fetch|Connection (?:failed|timed out|refused)"
    r"|Unable to connect|Hash Sum mismatch|File has unexpected size|Could not resolve host|Curl error"
    r"|Status code: 5\d\d|Failed to download metadata|Cannot download|No more mirrors to try|Some index files failed"
)
_SCRIPT = re.compile(
    r"(?:installed|new|old) \S+ package (?:pre|post)-(?:installation|removal) script subprocess [^\n]*"
    r"|[Ee]rror in (?:PRE|POST)\w* scriptlet in rpm package \S+|%\w+\(\S+\) scriptlet failed[^\n]*"
)
_APT_FAULT = re.compile(r"^(?:E: |dpkg: error |W: )", re.MULTILINE)
_APT_GENERAL = re.compile(
    r"Sub-process|held broken packages|Unable to correct|Couldn't find any package by (?:glob|regex)"
)
_YUM_FAULT = re.compile(r"^(?:Error: |No match for argument: |Problem: |  ?- |nothing provides)", re.MULTILINE)
_YUM_GENERAL = re.compile(r"Unable to find a match|Transaction (?:test|check)? ?(?:error|failed)")
_ENGINE = re.compile(
    r"^(?:Error: exit status|subprocess exited with status|error running container)|while running runtime"
)
_ONE_LINE = 400


def cause(manager: Manager, lines: Sequence[str], *, fetching: bool) -> Cause:
    """Say in one line why a command that said `lines` failed, as far as possible in the manager's own words.

    Only what fails while fetching can be the network's fault.
    """
    lines = [line for line in lines if not _ENGINE.search(line)]
    text = "\n".join(lines)
    if _NO_SPACE.search(text):
        return Cause("The builder's disk is full.", passing=True)
    if _NO_MEMORY.search(text):
        return Cause("Installing the packages needs more memory than it may use.", out_of_memory=True)
    if script := _SCRIPT.search(text):
        return Cause(f"A package's own script failed: {_joined([script[0]])}.")
    fault, general = (_APT_FAULT, _APT_GENERAL) if manager is Manager.APT else (_YUM_FAULT, _YUM_GENERAL)
    said = [line.strip().removeprefix("E: ").removeprefix("Error: ") for line in lines if fault.match(line)]
    particular = [line for line in said if line and not general.search(line)]
    told = _joined(particular or said or [line.strip() for line in lines[-1:]] or [f"{manager} says nothing"])
    if fetching and _NETWORK.search(text):
        return Cause(f"The packages could not be fetched: {told}.", passing=True)
    return Cause(f"The packages can't be installed: {told}.")


def _joined(lines: Sequence[str]) -> str:
    text = "; ".join(dict.fromkeys(line.rstrip(" .") for line in lines))
    return text if len(text) <= _ONE_LINE else f"{text[:_ONE_LINE]}…"
