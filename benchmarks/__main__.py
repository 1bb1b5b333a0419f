"""`python -m benchmarks` measures everything and writes docs/performance; `--quick` prints one line for each figure.

With `--only` some parts are measured anew; the document then has the others as they were found last.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import document, results, tools
from benchmarks.bench import Bench
from benchmarks.console import say
from benchmarks.environment import Environment
from benchmarks.figures import Figure, Report
from benchmarks.measuring import Load
from benchmarks.suites import create, find, get, lists, peers, replica, rest, soak, watch

# Each part starts and stops what it needs, so that one can fail without the others.
PARTS: dict[str, Callable[[Bench], None]] = {
    "get": get.run,
    "lists": lists.run,
    "find": find.run,
    "large-page": lists.large_page,
    "rest": rest.run,
    "start": replica.start,
    "memory": replica.memory,
    "processes": replica.processes,
    "watch": watch.run,
    "create": create.run,
    "peers": peers.run,
}

SLOW = {"peers"}  # not part of --quick: they are installed and take a minute to start


def main() -> None:
    """Entry point. The exit code is 1 if a part failed, 0 otherwise, whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small registry, short rounds, no file written")
    parser.add_argument("--images", type=int, help="size of the registry [100,000; quick: 5,000]")
    parser.add_argument("--rounds", type=int, help="rounds [7; quick: 3]")
    parser.add_argument("--seconds", type=float, help="measured seconds of a contender in a round [2.5; quick: 0.8]")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="parts to run [all; quick: all but peers]")
    parser.add_argument("--tables", action="store_true", help="print the tables too")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="only watch a server's memory under full load")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the databases in this folder, and use those that are there"
    )
    chosen = parser.parse_args()
    program = tools.go_program("load")
    if program is None:
        sys.exit("there is no load generator without Go: nothing can be measured")
    with tempfile.TemporaryDirectory(prefix="image-registry-bench-") as folder:
        Path(folder).chmod(0o755)  # Postgres runs as another account when this is root
        sys.exit(asyncio.run(_run(chosen, program, Path(folder))))


async def _run(chosen: argparse.Namespace, program: Path, folder: Path) -> int:
    quick = chosen.quick
    began = time.monotonic()
    async with Environment(folder, chosen.keep) as environment:
        bench = Bench(
            environment,
            Load(program, seconds=chosen.seconds or (0.8 if quick else 2.5)),
            images=chosen.images or (5_000 if quick else 100_000),
            rounds=chosen.rounds or (3 if quick else 7),
            go_server=None if chosen.soak else tools.go_program("server"),
            pgbench=None if chosen.soak else tools.pgbench(),
        )
        parts = _parts(chosen)
        failed: list[str] = []
        figures: list[Figure] = []
        for name, part in parts.items():
            bench.report = Report()
            if not await asyncio.to_thread(_measured, name, part, bench):
                failed.append(name)
            elif not quick:
                effort = f"{bench.rounds} x {bench.load.seconds:g} s" if name != "soak" else f"{chosen.soak:g} s"
                results.keep(name, bench.report, images=bench.images, effort=effort, command=_command(sys.argv[1:]))
            figures += bench.report.figures
            if chosen.tables:
                say(document.tables(bench.report.tables))
    if not quick:
        document.write(results.kept([*PARTS, "soak"]))
    missed = [figure.name for figure in figures if not figure.met]
    say(f"{len(figures)} figures in {time.monotonic() - began:.0f} s, {len(missed)} miss their goal")
    if failed:
        say(f"FAILED: {', '.join(failed)}" + ("" if quick else "; what was found of them before is left as it was"))
    return 1 if failed else 0


def _parts(chosen: argparse.Namespace) -> dict[str, Callable[[Bench], None]]:
    """What is measured, in this order."""
    if chosen.soak:
        return {"soak": lambda bench: soak.run(bench, chosen.soak)}
    wanted = chosen.only or [name for name in PARTS if not (chosen.quick and name in SLOW)]
    return {name: part for name, part in PARTS.items() if name in wanted}


def _command(arguments: list[str]) -> str:
    """What was typed, but for folders of this machine."""
    if "--keep" in arguments:
        place = arguments.index("--keep")
        arguments = arguments[:place] + arguments[place + 2 :]
    return shlex.join(["python", "-m", "benchmarks", *arguments])


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
