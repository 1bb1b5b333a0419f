"""Rows as models."""

from __future__ import annotations

from psycopg.rows import DictRow

from image_registry.models import (
    ImageStatus,
    JobKind,
    JobStatus,
    RoleType,
    StoredImage,
    StoredJob,
    TerminationReason,
)


def present(row: DictRow | None) -> DictRow:
    """The row of a statement that always returns one."""
    if row is None:  # pragma: no cover (a mistake in the statement, if ever)
        raise RuntimeError("a statement that always returns a row returned none")
    return row


def to_image(row: DictRow, prefix: str = "") -> StoredImage:
    """A row of `images`, whose columns may stand under names with a prefix."""
    return StoredImage(
        id=row[f"{prefix}id"],
        name=row[f"{prefix}name"],
        role=RoleType(row[f"{prefix}role"]),
        status=ImageStatus(row[f"{prefix}status"]),
        python_version=row[f"{prefix}python_version"],
        platform_tag=row[f"{prefix}platform_tag"],
        base_image_id=row.get(f"{prefix}base_image_id"),
        definition=bytes(row[f"{prefix}definition"]),
        child_names=tuple(row.get("child_names", ())),
    )


def to_job(row: DictRow) -> StoredJob:
    """A row of `jobs` with its `running_seconds`; without a definition where only its state was read."""
    return StoredJob(
        id=row["id"],
        uuid=row["uuid"],
        kind=JobKind(row["kind"]),
        image_id=row["image_id"],
        image_name=row["image_name"],
        repository=row["repository"],
        definition=bytes(row.get("definition") or b""),
        status=JobStatus(row["status"]),
        termination_reason=TerminationReason(row["termination_reason"]),
        attempt=row["attempt"],
        faults=row["faults"],
        cancel_requested=row["cancel_requested"],
        progress=row["progress"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        agent_id=row["agent_id"],
        running_seconds=row["running_seconds"],
        has_log=row["log_parts"] > 0,
        creator=row.get("creator", ""),
        traceparent=row.get("traceparent", ""),
    )
