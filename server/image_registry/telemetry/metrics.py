"""The port to metrics: what is counted, timed and looked at, each named once in `catalogue`.

Counters and histograms are pushed, each call going to the sinks that are installed (none: it returns at once).
Whatever is a state already (a pool's size, a queue's length) is looked at when somebody asks, and costs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

Labels: TypeAlias = tuple[str, ...]
Sink: TypeAlias = Callable[[Labels, float], None]
Reading: TypeAlias = Mapping[Labels, float]
Source: TypeAlias = "tuple[Sampled, Callable[[], Reading]]"


class Part(Enum):
    """The processes that have a metric."""

    SERVER = "server"
    WORKER = "worker"
    BOTH = "server, worker"


@dataclass(frozen=True, slots=True)
class Metric:
    """A name by Prometheus' conventions, what it means, its labels, and what is known to have them."""

    name: str
    help: str
    labels: tuple[str, ...]
    part: Part
    _sinks: list[Sink] = field(default_factory=list, repr=False, compare=False)

    def attach(self, sink: Sink) -> None:
        """Send everything to `sink`, too."""
        self._sinks.append(sink)

    def detach_all(self) -> None:
        """Send nothing anywhere."""
        self._sinks.clear()


class Counter(Metric):
    """Counts what happens."""

    def add(self, *labels: str, amount: float = 1.0) -> None:
        """It happened, `amount` times."""
        for sink in self._sinks:
            sink(labels, amount)


@dataclass(frozen=True, slots=True)
class Histogram(Metric):
    """How long things take, in seconds; `buckets` are the upper bounds."""

    buckets: tuple[float, ...] = ()

    def observe(self, seconds: float, *labels: str) -> None:
        """It took so long."""
        for sink in self._sinks:
            sink(labels, seconds)


@dataclass(frozen=True, slots=True)
class Sampled(Metric):
    """What is looked at when somebody asks. `total`: it only grows, as a counter does."""

    total: bool = False
    _sources: list[Callable[[], Reading]] = field(default_factory=list, repr=False, compare=False)

    def read(self) -> dict[Labels, float]:
        """What the sources say now, by labels; may be called from any thread."""
        found: dict[Labels, float] = {}
        for source in list(self._sources):
            for labels, value in source().items():
                found[labels] = found.get(labels, 0.0) + value
        return found

    def add_source(self, source: Callable[[], Reading]) -> None:
        """Ask `source`, too; it must be quick, or keep its answers."""
        self._sources.append(source)

    def remove_source(self, source: Callable[[], Reading]) -> None:
        """Ask it no more."""
        self._sources.remove(source)


@contextmanager
def sampled(sources: Iterable[Source]) -> Iterator[None]:
    """Metrics are read from these sources until the block ends."""
    pairs = list(sources)
    for metric, source in pairs:
        metric.add_source(source)
    try:
        yield
    finally:
        for metric, source in pairs:
            metric.remove_source(source)


def one(read: Callable[[], float | None]) -> Callable[[], Reading]:
    """A source of a metric without labels; None: it can't be read now, and has no sample."""
    return lambda: {} if (value := read()) is None else {(): float(value)}
