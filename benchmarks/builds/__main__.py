"""`python -m benchmarks.builds`: every way of building in one run, interleaved, and docs/performance/builds.md with it.

As root on Debian, with buildah and docker-registry; says so and ends with 0 where they can't be had. `--without-memory`
leaves out the measurement of memory.
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
    """Measure and write the page."""
    if missing := _missing():
        say(f"no benchmark of builds here: {missing}")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="bench-builds-", dir="/var/tmp"))
    try:
        layout, python = _base()
        with running_registry(folder / "registry") as host:
            bases = [push_base(layout, host, "1"), push_base(layout, host, "2", extra="2\n")]
            small, small_count, _ = _compare(folder / "small", host, bases, SMALL, rounds=2)
            large, large_count, size = _compare(folder / "large", host, bases, LARGE, rounds=1)
        heavy = None
        if "--without-memory" not in sys.argv:
            heavy = memory.measure(folder / "memory", f"oci:{layout}", python)
            say(f"memory: {memory.as_json(heavy)}")
        _write_page([("numpy + pandas", small_count, small), ("an ML set", large_count, large)], heavy, size)
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


def _compare(
    folder: Path, host: str, bases: list[str], requirements: tuple[str, ...], *, rounds: int
) -> tuple[Times, int, int]:
    """Build in every way, cold and warm; return the times, the number of libraries, and the bytes of the image."""
    layers = Layers(folder / "layers", host)
    containers = {tool: Buildah(folder / tool, tool) for tool in ("pip", "uv")}
    times: Times = defaultdict(list)
    count = 0

    def note(way: str, state: str, seconds: float) -> None:
        times[way, state].append(seconds)
        say(f"{folder.name}: {way} {state}: {seconds:.2f} s")

    for _ in range(rounds):
        layers.forget()
        note("layers", "cold", layers.build(bases[0], requirements, name="image"))
        for tool, buildah in containers.items():
            buildah.forget()
            note(tool, "cold", buildah.build(bases[0], requirements))
        note("layers", "warm", layers.build(bases[0], requirements))
        for tool, buildah in containers.items():
            note(tool, "warm", buildah.build(bases[0], requirements))
            note("layers", "warm", layers.build(bases[0], requirements))
        result = layers.result
        if result is None:
            raise RuntimeError("nothing was built")
        count = len(result.lock.libraries)
        for base in (bases[1], bases[0], bases[1]):
            note("layers", "rebase", layers.build(base, requirements, name="image", lock=result.lock))
        note("pip", "rebase", containers["pip"].build(bases[1], requirements))
    for buildah in containers.values():
        buildah.forget()
    return times, count, int(size_of(folder / "layers" / "images" / "image")["bytes"])


def _write_page(sets: list[tuple[str, int, Times]], heavy: memory.Memory | None, size: int) -> None:
    tables = "\n\n".join(_table(name, count, times) for name, count, times in sets)
    about = ", ".join(f"{name} {text}" for name, text in versions().items())
    rss = (
        f"A worker with the processes of its build held at most **{heavy.resident / 1e6:.0f} MB** resident "
        f"({heavy.anonymous / 1e6:.0f} MB anonymous) while it layered {heavy.wheels_bytes / 1e9:.1f} GB of wheels in "
        f"{heavy.seconds:.0f} s. Goal: below 300 MB."
        if heavy
        else "Memory was not measured in this run."
    )
    machine = (
        f"{platform.system()} {platform.release()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    )
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(
        f"""# Building images

<!-- Written by `make bench-build`. -->

{datetime.now(UTC):%Y-%m-%d}, {machine}; {about}.
Again with `make bench-build` (as root on Debian).

All in one run, interleaved. Seconds from the request to the finished image in an OCI layout, medians. The base is the
same, Debian with Python, in a registry on loopback. *Cold*: no base, no wheel, no layer on the machine. *Warm*:
another image has the same libraries already; container builds have their base, uv its cache mount. *Rebase*: the
platform's base moved and the libraries stay, which for a container build is one more build. The container builds are
buildah's with chroot isolation, as root: `pip install` of wheels, and uv with a cache mount.

{tables}

The last set's image has {size / 1e6:.0f} MB of compressed layers.

## Memory

{rss}
"""
    )


def _table(name: str, count: int, times: Times) -> str:
    """Medians and ratios; the goals are pip's time over ours: 3 cold, 15 warm, 50 rebased."""
    medians = {key: statistics.median(values) for key, values in times.items()}
    lines = [
        f"## {name}: {count} libraries",
        "",
        "| | layers | pip in a container | uv in a container | pip / layers | uv / layers | goal (pip / layers) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for state, goal in (("cold", 3), ("warm", 15), ("rebase", 50)):
        ours, pip, uv = (medians.get((way, state)) for way in ("layers", "pip", "uv"))
        if ours is not None and pip is not None:
            by_uv = (f"{uv:.1f}", f"{uv / ours:.1f}") if uv is not None else ("", "")
            lines.append(f"| {state} | {ours:.2f} | {pip:.1f} | {by_uv[0]} | {pip / ours:.1f} | {by_uv[1]} | {goal} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
