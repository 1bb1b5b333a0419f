"""`python -m benchmarks` measures everything and writes docs/performance; `--quick` prints one line for each figure."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import document, tools
from benchmarks.bench import Bench
from benchmarks.console import say
from benchmarks.environment import Environment
from benchmarks.measuring import Load
from benchmarks.suites import create, get, lists, replica, rest, watch

SUITES = {
    "get": get.run,
    "lists": lists.run,
    "rest": rest.run,
    "replica": replica.run,
    "watch": watch.run,
    "create": create.run,
}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small registry, short rounds, no file written")
    parser.add_argument("--images", type=int, help="size of the registry [100,000; quick: 5,000]")
    parser.add_argument("--rounds", type=int, help="rounds [7; quick: 3]")
    parser.add_argument("--seconds", type=float, help="measured seconds of a contender in a round [2.5; quick: 1]")
    parser.add_argument("--only", nargs="+", choices=SUITES, default=list(SUITES), help="suites to run")
    chosen = parser.parse_args()
    program = tools.go_program("load")
    if program is None:
        sys.exit("there is no load generator without Go: nothing can be measured")
    with tempfile.TemporaryDirectory(prefix="image-registry-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres runs as another account when this is root
        asyncio.run(_run(chosen, program, Path(folder)))


async def _run(chosen: argparse.Namespace, program: Path, folder: Path) -> None:
    quick = chosen.quick
    began = time.monotonic()
    async with Environment(folder) as environment:
        bench = Bench(
            environment,
            Load(program, seconds=chosen.seconds or (1.0 if quick else 2.5)),
            images=chosen.images or (5_000 if quick else 100_000),
            rounds=chosen.rounds or (3 if quick else 7),
            go_server=tools.go_program("server"),
            pgbench=tools.pgbench(),
        )
        for name in chosen.only:
            await asyncio.to_thread(SUITES[name], bench)
        if not quick:
            document.write(
                bench.report, images=bench.images, command=shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
            )
    missed = [figure.name for figure in bench.report.figures if not figure.met]
    say(f"{len(bench.report.figures)} figures in {time.monotonic() - began:.0f} s, {len(missed)} miss their goal")


if __name__ == "__main__":
    main()
