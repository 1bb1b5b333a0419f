"""What the metrics say about the pool."""

from __future__ import annotations

from collections.abc import Callable

from image_registry.storage.database import Database
from image_registry.telemetry import catalogue
from image_registry.telemetry.metrics import Reading, Source, one


def pool_readings(db: Database) -> list[Source]:
    """Each metric of the pool with its source."""

    def stat(name: str, unit: float = 1.0) -> Callable[[], Reading]:
        return one(lambda: db.pool_stats().get(name, 0) * unit)

    def in_use() -> float:
        stats = db.pool_stats()
        return stats.get("pool_size", 0) - stats.get("pool_available", 0)

    return [
        (catalogue.POOL_MAX, stat("pool_max")),
        (catalogue.POOL_CONNECTIONS, stat("pool_size")),
        (catalogue.POOL_IN_USE, one(in_use)),
        (catalogue.POOL_WAITING, stat("requests_waiting")),
        (catalogue.POOL_WAITS, stat("requests_queued")),
        (catalogue.POOL_WAIT_SECONDS, stat("requests_wait_ms", 0.001)),
        (catalogue.POOL_TIMEOUTS, stat("requests_errors")),
    ]
