"""`image-registry jobs`: look at builds, read their logs, stop them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import click

from image_registry.cli.connection import Connection, connection_options
from image_registry.cli.exits import Failure
from image_registry.cli.groups import InOrder
from image_registry.cli.output import age, coloured, output_option, print_many, print_one
from image_registry.client import InvalidArgumentError, JobMetadata, JobStatus

_HEADER = ("JOB", "STATUS", "CREATED", "RAN", "PROGRESS")


@click.group(cls=InOrder)
def jobs() -> None:
    """Look at builds, read their logs, stop them.

    \b
    Examples:
      image-registry jobs list --image vision
      image-registry jobs logs 0198c0de-0000-7000-8000-000000000000 --follow
    """


@jobs.command("list")
@click.option("--image", "image_name", metavar="NAME", help="Only builds of this image.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([status.name for status in JobStatus if status.value], case_sensitive=False),
    help="Only jobs with this status; repeatable.",
)
@click.option("--limit", type=click.IntRange(min=1), default=20, metavar="N", help="Show at most that many. [20]")
@output_option
@connection_options
def list_(connection: Connection, image_name: str | None, statuses: tuple[str, ...], limit: int, output: str) -> None:
    """List builds, the newest first."""
    with connection.told(), connection.client() as client:
        selected = [JobStatus[status.upper()] for status in statuses]
        found = client.list_jobs(selected, image_name=image_name, page_size=min(limit, 1000), full=True)
        print_many(islice(found, limit), output, name=lambda job: job.job_id, header=_HEADER, row=_row)


@jobs.command()
@click.argument("job_id")
@output_option
@connection_options
def get(connection: Connection, job_id: str, output: str) -> None:
    """Show one build: how far it came, and why it ended."""
    with connection.told(), _names_of_images_told(job_id), connection.client() as client:
        job = client.get_job(job_id)
    print_one(job, output, name=job.job_id, table=lambda: _page(job))


@jobs.command()
@click.argument("job_id")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until the build ends.")
@connection_options
def logs(connection: Connection, job_id: str, follow: bool) -> None:
    """Print the log of a build."""
    with connection.told(), _names_of_images_told(job_id), connection.client() as client:
        for line in client.read_job_logs(job_id, follow=follow):
            click.echo(line)


@jobs.command()
@click.argument("job_id")
@connection_options
def cancel(connection: Connection, job_id: str) -> None:
    """Stop a build. One that waits ends at once, one that runs within seconds; twice is the same as once."""
    with connection.told(), _names_of_images_told(job_id), connection.client() as client:
        client.cancel_job(job_id)
        job = client.get_job(job_id)
    click.echo(f"{job_id} is {job.status}" if job.is_finished else f"{job_id} is being stopped")


@contextmanager
def _names_of_images_told(job_id: str) -> Iterator[None]:
    """What is no job's id may be an image's name: say which commands take that."""
    try:
        yield
    except InvalidArgumentError as error:
        if not any(fault.field == "jobId" for fault in error.faults):
            raise
        remedy = (
            f"if it is an image, the log of its newest build: image-registry images logs {job_id}\n"
            f"all of its builds: image-registry jobs list --image {job_id}"
        )
        raise Failure(f"{job_id!r} is no job's id", remedy=remedy) from error


def _row(job: JobMetadata) -> tuple[str, ...]:
    last = job.job_progress_str.splitlines()
    return (
        job.job_id,
        job.status.name,
        age(job.creation_time),
        f"{job.running_time_secs:.1f} s" if job.start_time else "-",
        last[0].partition(" · sha256:")[0] if last else "",
    )


def _page(job: JobMetadata) -> list[str]:
    def when(moment: object) -> str:
        return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "-"

    lines = [
        f"job       {job.job_id}",
        f"status    {coloured(job.status.name)}",
        f"ended by  {job.termination_reason.name}",
        f"created   {when(job.creation_time)}",
        f"started   {when(job.start_time)}",
        f"ran       {job.running_time_secs:.1f} s",
        f"worker    {job.agent_id or '-'}",
    ]
    if job.cancellation_requested:
        lines.append("cancel    requested")
    if job.archived_job_logs:
        lines.append(f"log       {job.archived_job_logs.url} until {when(job.archived_job_logs.expiration_time)}")
    if job.job_progress_str:
        first, *rest = job.job_progress_str.splitlines()
        lines += [f"progress  {first}", *(f"          {line}" for line in rest)]
    return lines
