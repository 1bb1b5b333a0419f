"""Whether this machine and user can install system packages; found out by making a sandbox, not by guessing."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from image_registry.builds.packages.control_group import group_name
from image_registry.builds.packages.identities import remove_tree
from image_registry.builds.packages.sandbox import OutOfTimeError, Sandbox, SandboxError, Step, StepFailedError
from image_registry.builds.packages.wanted import Confinement

PROGRAMS = {"buildah": "buildah", "slirp4netns": "slirp4netns", "nft": "nftables"}
"""Programs and their packages in Debian."""
_SECONDS = 30.0
_NOT_CONFINED = "not confined: "
_REMEDY = (
    "run the worker as root, or let its user open /dev/net/tun and give it control groups to divide; "
    "or accept less: IMAGE_REGISTRY_SYSTEM_PACKAGES=relaxed"
)


@dataclass(frozen=True)
class MachineCheck:
    """`obstacle`: why system packages can't be installed, '' if they can; `remedy`: what to do about it.

    `gaps`: what they are not confined in, which only an unrequired confinement allows.
    """

    obstacle: str = ""
    remedy: str = ""
    gaps: tuple[str, ...] = ()


def look_at_machine(confinement: Confinement, work_dir: Path) -> MachineCheck:
    """Make a sandbox below `work_dir`, run the engine in it, and say what came of it. Takes about half a second.

    Call it from the main thread.
    """
    if sys.platform != "linux":
        return MachineCheck("only Linux can", "run a worker on Linux")
    needed = PROGRAMS if confinement.required else {"buildah": "buildah"}
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        packages = " ".join(PROGRAMS[name] for name in missing)
        return MachineCheck(f"{' and '.join(missing)} not installed", f"on Debian: apt-get install {packages}")
    lines: list[str] = []
    try:
        with tempfile.TemporaryDirectory(prefix="probe-", dir=work_dir) as folder:
            inside = Path(folder, "sandbox")
            inside.mkdir()
            bounds = replace(confinement, seconds=_SECONDS)
            sandbox = Sandbox(inside, group_name(Path(folder)), bounds, lines.append)
            try:
                sandbox.run([Step("engine", ("buildah", "--version"))])
            finally:
                remove_tree(inside)
    except StepFailedError as error:
        return MachineCheck(f"the container engine doesn't run: {(error.lines or [str(error)])[-1]}", "see its words")
    except OutOfTimeError:
        return MachineCheck(f"a sandbox took longer than {_SECONDS:g} s", "look at the machine's load")
    except (SandboxError, OSError) as error:
        known = error.remedy if isinstance(error, SandboxError) else ""
        return MachineCheck(str(error), known or _REMEDY)
    return MachineCheck(gaps=tuple(line.removeprefix(_NOT_CONFINED) for line in lines if _NOT_CONFINED in line))
