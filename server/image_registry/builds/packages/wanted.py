"""What is to be installed by a package manager, and what that may use: plain values that travel with a build's plan."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Manager(StrEnum):
    """A family of package managers."""

    APT = "apt"
    YUM = "yum"


@dataclass(frozen=True, kw_only=True)
class SystemPackages:
    """Packages as (name, version); '' is the newest version that the base's own sources have."""

    manager: Manager
    packages: tuple[tuple[str, str], ...]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SystemPackages:
        """Read the decoded JSON of `asdict`. Raises ValueError, KeyError or TypeError for anything else."""
        packages = tuple((str(name), str(version)) for name, version in values["packages"])
        return cls(manager=Manager(values["manager"]), packages=packages)


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """What installing packages may use and reach.

    `required`: refuse to install where the machine can't give the step a network and a control group of its own;
    otherwise do without what it can't give, and say so in the build's log.
    `seconds` bounds each command of the step, `disk_bytes` what it writes, the unpacked base included. `egress_allowed`
    and `egress_denied` are addresses, networks (CIDR), or addresses with a port; what is allowed goes before the rest.
    """

    required: bool = True
    seconds: float = 900.0
    memory_bytes: int = 2 << 30
    cpus: float = 2.0
    processes: int = 512
    disk_bytes: int = 8 << 30
    egress_allowed: tuple[str, ...] = ()
    egress_denied: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Confinement:
        """Read the decoded JSON of `asdict`. Raises TypeError or KeyError for anything else."""
        lists = {name: tuple(values[name]) for name in ("egress_allowed", "egress_denied")}
        return cls(**{**values, **lists})
