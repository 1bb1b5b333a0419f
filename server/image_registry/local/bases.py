"""Base images of a local installation: the configured ones, else the official ones, else one made on this machine."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from image_registry.host import StartError
from image_registry.local.probes import answers_http

DOCKER_HUB = "https://registry-1.docker.io/v2/"
_PROBE_SECONDS = 3.0
_LOOK_AGAIN_SECONDS = 15.0
_PROGRESS_SECONDS = 5.0


class BaseMaker(Protocol):
    """Makes a base image without a container registry."""

    @property
    def python_version(self) -> str:
        """The Python of the base, X.Y."""

    @property
    def title(self) -> str:
        """What the base is, for people: 'Debian 12 (bookworm)'."""

    def obstacle(self) -> str | None:
        """Say in one sentence what has to be installed first, or None."""

    async def make(self, destination: Path, on_line: Callable[[str], None]) -> None:
        """Write an OCI image layout to `destination`, which doesn't exist yet. Raises StartError."""


@dataclass(frozen=True)
class BasePlan:
    """Which base images to build on.

    `images` maps Python versions to references; None leaves the defaults of the settings. `pending` is the folder
    of a base that `make_base` has to make before anything can be built.
    """

    images: dict[str, str] | None
    pending: Path | None = None


async def plan_bases(folder: Path, maker: BaseMaker, registry: str = DOCKER_HUB) -> BasePlan:
    """Decide for an installation without configured base images.

    A base made here earlier is used without asking the network. Otherwise the official images, if a
    container registry answers within 3 s, and else one base that `maker` will make in `folder`, an absolute path.
    """
    made = _read_record(folder)
    if made is not None:
        return BasePlan(made)
    if await answers_http(registry, _PROBE_SECONDS):
        return BasePlan(None)
    if "," in str(folder):
        raise StartError(f"{folder} can't hold base images: the path of the data folder must not contain a comma")
    destination = folder / f"python-{maker.python_version}"
    return BasePlan({maker.python_version: f"oci:{destination}"}, destination)


async def make_base(plan: BasePlan, maker: BaseMaker, log: Path, say: Callable[[str], None]) -> None:
    """Make the pending base of `plan`, however often it has to be tried; return when it is there."""
    if plan.pending is None or plan.images is None:
        return
    said = ""
    while True:
        obstacle = maker.obstacle()
        if obstacle is None:
            try:
                await _make(plan.pending, maker, log, say)
            except StartError as error:
                obstacle = f"the base image could not be made: {error}"
            else:
                _write_record(plan.pending.parent, plan.images)
                return
        if obstacle != said:
            say(f"{obstacle} (nothing can be built until then; looking again every {_LOOK_AGAIN_SECONDS:.0f} s)")
            said = obstacle
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)


async def _make(destination: Path, maker: BaseMaker, log: Path, say: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    say(
        f"no container registry answers, so a base image is made here once: {maker.title} with "
        f"Python {maker.python_version}; it takes about a minute, and builds wait for it (log: {log})"
    )
    shown = started

    with log.open("a") as file:

        def on_line(line: str) -> None:
            nonlocal shown
            file.write(f"{line}\n")
            file.flush()
            if line.strip() and loop.time() - shown >= _PROGRESS_SECONDS:
                shown = loop.time()
                say(f"  base image, {shown - started:.0f} s: {line.strip()[:160]}")

        await maker.make(destination, on_line)
    say(f"the base image is made ({loop.time() - started:.0f} s): builds use Python {maker.python_version} from now on")


def _read_record(folder: Path) -> dict[str, str] | None:
    """Return what an earlier start has made, if it is all still there."""
    try:
        images = json.loads((folder / "made.json").read_text())
        whole = isinstance(images, dict) and all(
            isinstance(reference, str) and Path(reference.removeprefix("oci:"), "index.json").exists()
            for reference in images.values()
        )
    except (OSError, ValueError):
        return None
    return images if whole and images else None


def _write_record(folder: Path, images: dict[str, str]) -> None:
    temporary = folder / "made.json.new"
    temporary.write_text(json.dumps(images))
    temporary.replace(folder / "made.json")
