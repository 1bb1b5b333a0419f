"""When each attempt at each build really ran, read from the workers' logs."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from tests.faults.cluster import Cluster, Worker

_BEGAN = re.compile(r"job (\S+): build (\S+), attempt (\d+)")
_ENDED = re.compile(r"job (\S+): attempt (\d+)'s processes have ended")
_STOPPED = re.compile(r"job (\S+): stopped, .*")
_FREED = re.compile(r"(\d+) jobs of silent workers are free again")


@dataclass(frozen=True)
class Run:
    """The processes of one attempt existed between these times at most (seconds since 1970)."""

    image: str
    job: str
    attempt: int
    worker: str
    began: float
    ended: float


def runs(cluster: Cluster, frozen: list[tuple[str, float, float]]) -> list[Run]:
    """Every attempt. One without an end in the log ended with its worker."""
    return [run for worker in cluster.workers for run in _runs_of(worker, frozen)]


def overlaps(found: list[Run]) -> list[tuple[Run, Run]]:
    """Pairs of attempts at one image that ran at once."""
    by_image: dict[str, list[Run]] = defaultdict(list)
    for run in found:
        by_image[run.image].append(run)
    pairs = []
    for together in by_image.values():
        in_order = sorted(together, key=lambda run: run.began)
        pairs += [(a, b) for i, a in enumerate(in_order) for b in in_order[i + 1 :] if b.began < a.ended]
    return pairs


def takeovers(cluster: Cluster) -> int:
    """How many jobs were taken from silent workers."""
    return sum(int(m[1]) for worker in cluster.workers for _, text in _lines(worker) if (m := _FREED.fullmatch(text)))


def _runs_of(worker: Worker, frozen: list[tuple[str, float, float]]) -> Iterator[Run]:
    began: dict[tuple[str, int], tuple[float, str]] = {}
    ended: dict[tuple[str, int], float] = {}
    last: dict[str, int] = {}
    for at, text in _lines(worker):
        if match := _BEGAN.fullmatch(text):
            began[match[1], int(match[3])] = (at, match[2])
            last[match[1]] = int(match[3])
        elif match := _ENDED.fullmatch(text):
            ended[match[1], int(match[2])] = at
        elif (match := _STOPPED.fullmatch(text)) and match[1] in last:  # before it had any process
            ended.setdefault((match[1], last[match[1]]), at)
    for (job, attempt), (at, image) in began.items():
        deaths = [death for death in worker.part.deaths if death > at]
        end = ended.get((job, attempt), min(deaths, default=float("inf")))
        for name, stopped, last_build_gone in frozen:
            if name == worker.part.name and at < stopped and end > last_build_gone:
                end = last_build_gone
        yield Run(image, job, attempt, worker.part.name, at, end)


def _lines(worker: Worker) -> Iterator[tuple[float, str]]:
    for line in worker.part.log.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            yield datetime.fromisoformat(entry["time"]).timestamp(), entry["message"]
        except (ValueError, KeyError, TypeError):
            continue  # what is not the log's: the line that says it is ready, half a line of one that was killed
