"""What the metrics say about the queue: one look at the database for all of them, at most every few seconds."""

from __future__ import annotations

from collections.abc import Callable

from image_registry.models import Priority
from image_registry.registry.builds import MAX_ATTEMPTS
from image_registry.storage import jobs
from image_registry.storage.database import Database
from image_registry.storage.jobs import QueueState
from image_registry.telemetry import catalogue
from image_registry.telemetry.metrics import Reading, Source
from image_registry.telemetry.sampling import Sampler

KEEP = 5.0  # seconds; scrapes of several Prometheus servers cost one look


def queue_readings(db: Database) -> list[Source]:
    """Each metric of the queue with its source; without the database they say nothing."""
    sampler = Sampler(lambda: db.read(lambda conn: jobs.queue_state(conn, MAX_ATTEMPTS)), KEEP)

    def source(read: Callable[[QueueState], Reading]) -> Callable[[], Reading]:
        def look() -> Reading:
            state = sampler.latest()
            return {} if state is None else read(state)

        return look

    return [
        (catalogue.JOBS_WAITING, source(lambda state: {(_name(p),): float(n) for p, n in state.waiting.items()})),
        (catalogue.JOBS_WAITING_FOR_PACKAGES, source(lambda state: {(): float(state.waiting_for_packages)})),
        (catalogue.JOBS_OLDEST, source(lambda state: {(_name(p),): seconds for p, seconds in state.oldest.items()})),
        (catalogue.JOBS_RUNNING, source(lambda state: {(): float(state.running)})),
    ]


def _name(priority: Priority) -> str:
    return priority.name.lower()
