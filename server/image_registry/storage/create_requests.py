"""First answers to creates that carried an id of their caller's (`x-request-id`)."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from image_registry.models import CreatedImage
from image_registry.storage.database import Connection
from image_registry.storage.queries import load

EXPIRED_AT_ONCE = 1_000
_KEY = "create_requests_pkey"  # one row for each caller and id
_SQL = load("create_requests.sql")


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Which request it is: whose, under which id, and the SHA-256 of what it asks."""

    creator: str
    request_id: str
    fingerprint: bytes


class KnownRequestError(Exception):
    """Another create has used this id already, or is using it; the transaction under way must write nothing."""


def is_known_request(error: psycopg.Error) -> bool:
    """Whether a statement failed since another create has used an id of its own already."""
    return error.diag.constraint_name == _KEY


async def remember(conn: Connection, key: RequestKey, created: CreatedImage) -> None:
    """Keep what a create was answered, in its transaction. Raises KnownRequestError."""
    values = {
        "creator": key.creator,
        "request_id": key.request_id,
        "fingerprint": key.fingerprint,
        "definition": created.definition,
        "job_uuid": created.job_uuid,
        "created_at": created.created_at,
    }
    if (await conn.execute(_SQL["remember"], values)).rowcount == 0:
        raise KnownRequestError


async def first_answer(conn: Connection, key: RequestKey) -> tuple[CreatedImage, bytes] | None:
    """What the first request under this id was answered, and its fingerprint; None: the id is new."""
    values = {"creator": key.creator, "request_id": key.request_id}
    row = await (await conn.execute(_SQL["first_answer"], values)).fetchone()
    if row is None:
        return None
    return CreatedImage(bytes(row["definition"]), row["job_uuid"], row["created_at"]), bytes(row["fingerprint"])


async def expire(conn: Connection, age: float) -> bool:
    """Forget some answers older than `age` seconds; whether there may be more."""
    return (await conn.execute(_SQL["expire"], {"age": age, "limit": EXPIRED_AT_ONCE})).rowcount == EXPIRED_AT_ONCE
