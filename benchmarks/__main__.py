"""`python -m benchmarks` measures everything and writes docs/performance; `--quick` prints one line for each figure."""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import document, tools
from benchmarks.bench import Bench
from benchmarks.console import say
from benchmarks.environment import Environment
from benchmarks.measuring import Load
from benchmarks.suites import create, get, lists, replica, rest, soak, watch

# Each part starts and stops what it needs, so that one can fail without the others.
PARTS: dict[str, Callable[[Bench], None]] = {
    "get": get.run,
    "lists": lists.run,
    "large-page": lists.large_page,
    "rest": rest.run,
    "start": replica.start,
    "memory": replica.memory,
    "processes": replica.processes,
    "watch": watch.run,
    "create": create.run,
}


def main() -> None:
    """Entry point. The exit code is 1 if a part failed, 0 otherwise, whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small registry, short rounds, no file written")
    parser.add_argument("--images", type=int, help="size of the registry [100,000; quick: 5,000]")
    parser.add_argument("--rounds", type=int, help="rounds [7; quick: 3]")
    parser.add_argument("--seconds", type=float, help="measured seconds of a contender in a round [2.5; quick: 0.8]")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--tables", action="store_true", help="print the tables too")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="only watch a server's memory under full load")
    chosen = parser.parse_args()
    program = tools.go_program("load")
    if program is None:
        sys.exit("there is no load generator without Go: nothing can be measured")
    with tempfile.TemporaryDirectory(prefix="image-registry-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres runs as another account when this is root
        sys.exit(asyncio.run(_run(chosen, program, Path(folder))))


async def _run(chosen: argparse.Namespace, program: Path, folder: Path) -> int:
    quick = chosen.quick or bool(chosen.soak)
    began = time.monotonic()
    async with Environment(folder) as environment:
        bench = Bench(
            environment,
            Load(program, seconds=chosen.seconds or (0.8 if quick else 2.5)),
            images=chosen.images or (5_000 if quick else 100_000),
            rounds=chosen.rounds or (3 if quick else 7),
            go_server=None if chosen.soak else tools.go_program("server"),
            pgbench=None if chosen.soak else tools.pgbench(),
        )
        if chosen.soak:
            parts: dict[str, Callable[[Bench], None]] = {"soak": lambda bench: soak.run(bench, chosen.soak)}
        else:
            parts = {name: PARTS[name] for name in chosen.only}
        failed = [name for name, part in parts.items() if not await asyncio.to_thread(_measured, name, part, bench)]
        if not quick and not failed:
            document.write(
                bench.report, images=bench.images, command=shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
            )
        if chosen.tables:
            say(document.tables(bench.report))
    missed = [figure.name for figure in bench.report.figures if not figure.met]
    say(f"{len(bench.report.figures)} figures in {time.monotonic() - began:.0f} s, {len(missed)} miss their goal")
    if failed:
        say(f"FAILED: {', '.join(failed)}" + ("" if quick else "; nothing was written"))
    return 1 if failed else 0


def _measured(name: str, part: Callable[[Bench], None], bench: Bench) -> bool:
    """Run a part; a fault in it is told and ends no other."""
    try:
        part(bench)
    except Exception as error:  # noqa: BLE001 (whatever it was: the other figures still count)
        say(f"{name}: FAILED: {type(error).__name__}: {error}")
        return False
    finally:
        bench.environment.stop_servers()
    return True


if __name__ == "__main__":
    main()
