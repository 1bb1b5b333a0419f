"""Which status an image or a job may take next: the one place that says so.

The database enforces the same two tables (`status_transitions`, read by a trigger on each write), and
`tests/integration/storage/test_lifecycle.py` holds the two against each other.
"""

from __future__ import annotations

from image_registry.models import ImageStatus as Image
from image_registry.models import JobStatus as Job

IMAGE_TRANSITIONS: frozenset[tuple[Image, Image]] = frozenset(
    {
        (Image.BUILDING_FIRST_TIME, Image.READY),
        (Image.BUILDING_FIRST_TIME, Image.FAILED),
        (Image.READY, Image.OUTDATED),
        (Image.READY, Image.REBUILDING),
        (Image.OUTDATED, Image.REBUILDING),
        (Image.FAILED, Image.REBUILDING),
        (Image.REBUILDING, Image.READY),
        (Image.REBUILDING, Image.FAILED),
        (Image.REBUILDING, Image.OUTDATED),  # only back to where a cancelled rebuild came from
    }
)

JOB_TRANSITIONS: frozenset[tuple[Job, Job]] = frozenset(
    {
        (Job.REQUESTED, Job.PENDING),
        (Job.REQUESTED, Job.CANCELLED),
        (Job.REQUESTED, Job.SUCCEEDED),  # a builder outside this service reported the build
        (Job.REQUESTED, Job.FAILED),
        (Job.PENDING, Job.RUNNING),
        (Job.PENDING, Job.REQUESTED),  # handed back by a draining worker, or put off after a passing fault
        (Job.PENDING, Job.RECONCILING),
        (Job.PENDING, Job.SUCCEEDED),
        (Job.PENDING, Job.FAILED),
        (Job.PENDING, Job.CANCELLED),
        (Job.RUNNING, Job.REQUESTED),
        (Job.RUNNING, Job.RECONCILING),
        (Job.RUNNING, Job.SUCCEEDED),
        (Job.RUNNING, Job.FAILED),
        (Job.RUNNING, Job.CANCELLED),
        (Job.RECONCILING, Job.PENDING),
        (Job.RECONCILING, Job.SUCCEEDED),
        (Job.RECONCILING, Job.FAILED),
        (Job.RECONCILING, Job.CANCELLED),
    }
)

BUILDING = frozenset({Image.BUILDING_FIRST_TIME, Image.REBUILDING})
CLAIMABLE = frozenset({Job.REQUESTED, Job.RECONCILING})
ACTIVE = frozenset({Job.PENDING, Job.RUNNING})
UNFINISHED = CLAIMABLE | ACTIVE
FINISHED = frozenset({Job.SUCCEEDED, Job.FAILED, Job.CANCELLED})
