"""What can go wrong below a build, and what each of it means for the build."""

from __future__ import annotations

import errno
import os

from image_registry.builds.plan import BuildFailed, FailureReason, Limits

_PASSING_STATUSES = {408, 425, 429, 500, 502, 503, 504}
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
PASSING_DISK_FAULTS = NO_ROOM | {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}


class InvalidImageError(Exception):
    """What should be a manifest, an index, a layout or a blob is something else; the text says what is wrong."""


class BaseMovedError(Exception):
    """The base image is another one by now, and a blob of the one that this build began with is gone."""


class DamagedBlobError(Exception):
    """A blob is not what its digest says."""


class ForeignRepositoryError(Exception):
    """The repository belongs to another life of the name, whose deletion is still to come."""


class OwnerDeletedError(Exception):
    """The image that is to be pushed has been deleted meanwhile."""


class UnavailableError(Exception):
    """A server can't be reached or answered with an error; `status` is its HTTP status, or 0 without an answer.

    `retry_after` is the number of seconds after which the server wants to be asked again.
    """

    def __init__(self, message: str, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.status == 0 or self.status in _PASSING_STATUSES


def as_failure(error: Exception, limits: Limits) -> BuildFailed:
    """Return what an exception means for the build. What nobody foresaw is INTERNAL, and its text stays out of it."""
    match error:
        case BuildFailed():
            return error
        case MemoryError():
            megabytes = limits.memory_bytes // 1_000_000
            reason, message = FailureReason.OUT_OF_MEMORY, f"The build needs more memory than its {megabytes} MB."
        case InvalidImageError():
            reason, message = FailureReason.INTERNAL, f"The base image can't be used: {error}."
        case BaseMovedError():
            reason, message = FailureReason.RETRYABLE, f"The build has to begin again: {error}."
        case UnavailableError():
            reason = FailureReason.RETRYABLE if error.is_transient else FailureReason.INTERNAL
            message = f"The container registry can't be used: {error}."
        case ForeignRepositoryError():
            reason, message = FailureReason.RETRYABLE, f"The image can't be pushed yet: {error}."
        case OwnerDeletedError():
            reason, message = FailureReason.INTERNAL, f"The image can't be pushed: {error}."
        case OSError(errno=number) if number in PASSING_DISK_FAULTS:
            reason, message = FailureReason.RETRYABLE, f"The builder's disk: {os.strerror(number)}."
        case _:
            reason, message = FailureReason.INTERNAL, "The build failed for a reason of the service's own; see its log."
    return BuildFailed(reason, message)
