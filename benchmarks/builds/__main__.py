"""`python -m benchmarks.builds`: every way of building in one run, interleaved, and docs/performance/builds.md with it.

As root on Debian, with buildah and docker-registry; says so and ends with 0 where they can't be had. A number as
argument is that of the rounds (1).
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.builds import memory
from benchmarks.builds.engines import Buildah, Layers, versions
from benchmarks.builds.registry import push_base, running_registry, size_of
from benchmarks.console import say
from image_registry.builds.debian import DebianBase

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "performance" / "builds.md"
SMALL = ("numpy", "pandas")
LARGE = (
    *("numpy", "pandas", "scipy", "scikit-learn", "matplotlib", "seaborn", "statsmodels", "sqlalchemy", "fastapi"),
    *("uvicorn", "httpx", "jupyterlab", "plotly", "networkx", "joblib", "tqdm", "rich", "boto3", "psycopg[binary]"),
)
Times = dict[tuple[str, str], list[float]]


def main() -> int:
    """Measure and write the page, which is whole after each part."""
    if missing := _missing():
        say(f"no benchmark of builds here: {missing}")
        return 0
    rounds = int(sys.argv[1]) if sys.argv[1:] else 1
    folder = Path(tempfile.mkdtemp(prefix="bench-builds-", dir="/var/tmp"))
    page = Page()
    try:
        layout, python = _base()
        with running_registry(folder / "registry") as host:
            bases = [push_base(layout, host, "1"), push_base(layout, host, "2", extra="2\n")]
            page.sets.append(_compare(folder / "small", host, bases, "numpy + pandas", SMALL, rounds))
            page.write()
            page.memory = memory.measure(folder / "memory", f"oci:{layout}", python)
            say(f"memory: {memory.as_json(page.memory)}")
            page.write()
            page.sets.append(_compare(folder / "large", host, bases, "an ML set", LARGE, rounds))
            page.write()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _missing() -> str:
    lacking = [tool for tool in ("buildah", "docker-registry") if shutil.which(tool) is None]
    if os.geteuid() != 0:
        return "buildah's chroot isolation needs root"
    return f"{' and '.join(lacking)} not installed (Debian: apt-get install buildah docker-registry)" if lacking else ""


def _base() -> tuple[Path, str]:
    """The Debian base that tests use too, made if it isn't there."""
    maker = DebianBase()
    layout = REPOSITORY / ".cache" / "bases" / maker.suite
    if not (layout / "index.json").exists():
        layout.parent.mkdir(parents=True, exist_ok=True)
        asyncio.run(maker.make(layout, lambda _: None))
    return layout, maker.python_version


@dataclass
class Compared:
    """One set of libraries: the seconds of each way and state, and the size of the image."""

    name: str
    times: Times
    libraries: int
    bytes: int


def _compare(
    folder: Path, host: str, bases: list[str], name: str, requirements: tuple[str, ...], rounds: int
) -> Compared:
    """Build in every way, cold, warm and on a base that moved."""
    layers = Layers(folder / "layers", host)
    containers = {tool: Buildah(folder / tool, tool) for tool in ("pip", "uv")}
    times: Times = defaultdict(list)

    def note(way: str, state: str, seconds: float) -> None:
        times[way, state].append(seconds)
        say(f"{name}: {way} {state}: {seconds:.2f} s")

    for _ in range(rounds):
        layers.forget()
        note("layers", "cold", layers.build(bases[0], requirements, name="image"))
        for tool, buildah in containers.items():
            buildah.forget()
            note(tool, "cold", buildah.build(bases[0], requirements))
        for tool, buildah in containers.items():
            note("layers", "warm", layers.build(bases[0], requirements))
            note("layers", "rebase", layers.build(bases[1], requirements, name="image", lock=layers.lock))
            note(tool, "warm", buildah.build(bases[0], requirements))
            note("layers", "warm", layers.build(bases[0], requirements))
            note("layers", "rebase", layers.build(bases[0], requirements, name="image", lock=layers.lock))
    for buildah in containers.values():
        buildah.forget()
    size = int(size_of(folder / "layers" / "images" / "image")["bytes"])
    return Compared(name, times, len(layers.lock.libraries), size)


@dataclass
class Page:
    """docs/performance/builds.md, as far as it has been measured."""

    sets: list[Compared] = field(default_factory=list)
    memory: memory.Memory | None = None
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def write(self) -> None:
        """Write the page."""
        about = ", ".join(f"{name} {text}" for name, text in versions().items())
        machine = f"{platform.system()} {platform.release()}, {os.cpu_count()} processors"
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(
            f"""# Building images

<!-- Written by `make bench-build`. -->

{datetime.now(UTC):%Y-%m-%d}, {machine}; {about}.
The machine's load was {self.load_before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end.
Again with `make bench-build` (as root on Debian).

All in one run, interleaved. Seconds from the request to the finished image in an OCI layout, medians. The base is the
same, Debian with Python, in a registry on loopback. *Cold*: no base, no wheel, no layer on the machine. *Warm*:
another image has the same libraries already; container builds have their base, uv its cache mount. *Rebase*: the
platform's base moved and the libraries stay, which for a container build is a warm build once more. The container
builds are buildah's with chroot isolation, as root: `pip install` of wheels, and uv with a cache mount.

{"".join(_table(one) for one in self.sets)}## Memory

{self._about_memory()}
"""
        )

    def _about_memory(self) -> str:
        if (seen := self.memory) is None:
            return "Memory was not measured in this run."
        return (
            f"A worker with the processes of its build held at most **{seen.resident / 1e6:.0f} MB** resident\n"
            f"({seen.anonymous / 1e6:.0f} MB anonymous) while it layered {seen.wheels_bytes / 1e9:.1f} GB of wheels in "
            f"{seen.seconds:.0f} s. Goal: below 300 MB."
        )


def _table(compared: Compared) -> str:
    """Medians and ratios; the goals are pip's time over ours: 3 cold, 15 warm, 50 rebased."""
    medians = {key: statistics.median(values) for key, values in compared.times.items()}
    medians |= {(way, "rebase"): medians[way, "warm"] for way in ("pip", "uv")}
    lines = [
        f"## {compared.name}: {compared.libraries} libraries, {compared.bytes / 1e6:.0f} MB of compressed layers",
        "",
        "| | layers | pip in a container | uv in a container | pip / layers | goal | uv / layers |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for state, goal in (("cold", 3), ("warm", 15), ("rebase", 50)):
        ours, pip, uv = (medians[way, state] for way in ("layers", "pip", "uv"))
        lines.append(f"| {state} | {ours:.2f} | {pip:.1f} | {uv:.1f} | {pip / ours:.1f} | {goal} | {uv / ours:.1f} |")
    return "\n".join([*lines, "", ""])


if __name__ == "__main__":
    sys.exit(main())
