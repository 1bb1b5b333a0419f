"""Interleaved rounds: every contender is measured once a round, and what counts are the ratios within a round."""

from __future__ import annotations

import base64
import json
import re
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CONNECTING = 1.5  # seconds that pgbench's clients may take to connect before they count


@dataclass(frozen=True)
class Sample:
    """One contender in one round; processor time for a call in the server, `cpu_us`, and in the load generator."""

    per_second: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_us: float = 0.0
    load_us: float = 0.0
    calls: int = 0
    failures: int = 0


@dataclass
class Series:
    """One contender over all rounds."""

    samples: list[Sample] = field(default_factory=list)

    def median(self, attribute: str = "per_second") -> float:
        """The median of one attribute."""
        return float(statistics.median(getattr(sample, attribute) for sample in self.samples))

    def tail(self) -> float:
        """The median of p99 divided by p50."""
        return statistics.median(sample.p99_ms / sample.p50_ms for sample in self.samples if sample.p50_ms)


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios within each round, with the lowest and the highest."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.lowest:.2f}-{self.highest:.2f}]"


Contender = Callable[[], Sample]


def rounds(contenders: Mapping[str, Contender], count: int) -> dict[str, Series]:
    """Measure all contenders `count` times, one after the other in each round."""
    found = {name: Series() for name in contenders}
    for _ in range(count):
        for name, measure in contenders.items():
            found[name].samples.append(measure())
    return found


def ratio(found: Mapping[str, Series], name: str, bound: str, attribute: str = "per_second") -> Ratio:
    """One contender against another, round by round."""
    pairs = zip(found[name].samples, found[bound].samples, strict=True)
    values = [getattr(one, attribute) / getattr(other, attribute) for one, other in pairs]
    return Ratio(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Call:
    """A request and what its answer must contain."""

    request: bytes
    want: bytes = b""


def write_calls(file: Path, calls: Iterable[Call]) -> Path:
    """Put calls where the load generator reads them."""
    lines = (f"{base64.b64encode(c.request).decode()}\t{base64.b64encode(c.want).decode()}\n" for c in calls)
    with file.open("w", encoding="ascii") as out:
        out.writelines(lines)
    return file


@dataclass(frozen=True)
class Load:
    """The load generator with what stays the same over a run."""

    program: Path
    seconds: float
    warmup: float = 0.4

    def run(
        self,
        target: str,
        method: str,
        calls: Path,
        *,
        streams: int,
        once: bool = False,
        tolerant: bool = False,
        ids: bool = False,
        cpu: Callable[[], float] = lambda: 0.0,
    ) -> Sample:
        """Send calls for a while, with `ids` each with an x-request-id of its own.

        Raises RuntimeError when an answer is an error or a wrong one, unless `tolerant`.
        """
        argv = [str(self.program), "-target", target, "-method", method, "-calls", str(calls)]
        argv += ["-streams", str(streams), "-seconds", str(self.seconds), "-warmup", str(self.warmup)]
        argv += [*(["-once"] if once else []), *(["-ids"] if ids else [])]
        before = cpu()
        output = subprocess.run(argv, capture_output=True, text=True, check=True)
        spent = cpu() - before
        seen = json.loads(output.stdout)
        failures = seen["errors"] + seen["wrong"]
        if failures and not tolerant:
            raise RuntimeError(f"{method}: {seen['errors']} errors, {seen['wrong']} wrong: {seen['last_failure']}")
        sent = max(1, seen["sent"])
        return Sample(
            seen["per_second"],
            seen["p50_ms"],
            seen["p99_ms"],
            cpu_us=spent / sent * 1e6,
            load_us=seen["cpu_seconds"] / sent * 1e6,
            calls=seen["calls"],
            failures=failures,
        )


def pgbench(program: str, dsn: str, script: Path, *, clients: int, seconds: float) -> Sample:
    """Transactions a second of one script with prepared statements."""
    argv = [program, "-n", "-M", "prepared", "-f", str(script), "-c", str(clients), "-j", "2"]
    argv += ["-T", str(round(seconds + CONNECTING)), dsn]
    output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)
    if rate is None:
        raise RuntimeError(f"pgbench counted nothing: {output}")
    return Sample(float(rate[1]))


def median_ms(times: Sequence[float]) -> float:
    """The median of seconds, in milliseconds."""
    return statistics.median(times) * 1000
