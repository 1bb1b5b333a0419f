"""The database itself refuses what `lifecycle.py` doesn't allow."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import product

import psycopg
import pytest
from psycopg import errors as pg

from image_registry.lifecycle import FINISHED, IMAGE_TRANSITIONS, JOB_TRANSITIONS, UNFINISHED
from image_registry.models import ImageStatus, JobStatus

Connection = psycopg.Connection[tuple[int, ...]]


@pytest.fixture
def conn(dsn: str) -> Iterator[Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


IMAGE = """insert into images (name, role, status, status_before_rebuild, python_version, platform_tag, definition)
    values ('system-' || (select count(*) from images), 1, %s, %s, '3.12', 'v1', '') returning id"""
JOB = """insert into jobs (kind, image_id, image_name, repository, definition, status, termination_reason, finished_at,
    lease_expires_at) values (1, %s, 'a', %s, '', %s, %s, %s, %s) returning id"""
IMAGE_AND_JOB = f"""with image as ({IMAGE}), job as ({JOB.replace("1, %s", "1, (select id from image)")})
    select image.id, job.id from image, job"""
BUILDING = {ImageStatus.BUILDING_FIRST_TIME, ImageStatus.REBUILDING}


def image_values(status: ImageStatus) -> list[int | None]:
    return [status, 3 if status is ImageStatus.REBUILDING else None]


def job_values(status: JobStatus, repository: str) -> list[object]:
    over, active = status in FINISHED, status in {JobStatus.PENDING, JobStatus.RUNNING}
    return [repository, status, 3 if over else 1, "now" if over else None, "now" if active else None]


def add_image(conn: Connection, status: ImageStatus) -> int:
    [[image_id]] = conn.execute(IMAGE, image_values(status)).fetchall()
    return image_id


def add_job(conn: Connection, image_id: int, repository: str = "r") -> None:
    conn.execute(JOB, [image_id, *job_values(JobStatus.REQUESTED, repository)])


def add_both(
    conn: Connection,
    job: JobStatus = JobStatus.REQUESTED,
    image: ImageStatus = ImageStatus.BUILDING_FIRST_TIME,
    repository: str = "r",
) -> tuple[int, int]:
    [[image_id, job_id]] = conn.execute(IMAGE_AND_JOB, [*image_values(image), *job_values(job, repository)]).fetchall()
    return image_id, job_id


def move_job(conn: Connection, job_id: int, status: JobStatus) -> None:
    over, active = status in FINISHED, status in {JobStatus.PENDING, JobStatus.RUNNING}
    conn.execute(
        "update jobs set status = %s, termination_reason = %s, finished_at = %s, lease_expires_at = %s where id = %s",
        [status, 3 if over else 1, "now" if over else None, "now" if active else None, job_id],
    )


def test_the_table_of_the_database_is_the_one_of_the_code(conn: Connection) -> None:
    def table(machine: str) -> set[tuple[int, ...]]:
        statement = "select from_status, to_status from status_transitions where machine = %s"
        return set(conn.execute(statement, [machine]).fetchall())

    assert table("image") == IMAGE_TRANSITIONS
    assert table("job") == JOB_TRANSITIONS


def test_nothing_leaves_an_end_and_everything_unfinished_can_end() -> None:
    assert not [old for old, _ in JOB_TRANSITIONS if old in FINISHED]
    for status in UNFINISHED:
        assert {new for old, new in JOB_TRANSITIONS if old is status} >= FINISHED


def test_an_image_takes_allowed_steps_only(conn: Connection) -> None:
    for old, new in product(ImageStatus, repeat=2):
        before = 3 if new is ImageStatus.REBUILDING else None
        with conn.transaction(force_rollback=True):  # what is judged at commits is tested below
            image_id = add_both(conn, image=old)[0] if old in BUILDING else add_image(conn, old)
            with allowed_or_refused(old, new, old is new or (old, new) in IMAGE_TRANSITIONS):
                step = "update images set status = %s, status_before_rebuild = %s where id = %s"
                conn.execute(step, [new, before, image_id])


def test_a_job_takes_allowed_steps_only(conn: Connection) -> None:
    for old, new in product(JobStatus, repeat=2):
        with conn.transaction(force_rollback=True):
            image = ImageStatus.READY if old in FINISHED else ImageStatus.BUILDING_FIRST_TIME
            _, job_id = add_both(conn, old, image)
            with allowed_or_refused(old, new, old is new or (old, new) in JOB_TRANSITIONS):
                move_job(conn, job_id, new)


def allowed_or_refused(old: int, new: int, allowed: bool) -> AbstractContextManager[object]:
    return nullcontext() if allowed else pytest.raises(pg.CheckViolation, match=f"status {new} can't follow {old}")


def test_an_image_and_its_job_are_written_together_or_not_at_all(conn: Connection) -> None:
    with pytest.raises(pg.CheckViolation, match="unfinished build is f"):
        add_image(conn, ImageStatus.BUILDING_FIRST_TIME)
    with pytest.raises(pg.CheckViolation, match="unfinished build is f"):
        add_both(conn, JobStatus.FAILED)
    with pytest.raises(pg.CheckViolation, match="unfinished build is t"):
        add_both(conn, image=ImageStatus.READY)
    _, job_id = add_both(conn)
    with pytest.raises(pg.CheckViolation, match="unfinished build is f"), conn.transaction():
        move_job(conn, job_id, JobStatus.FAILED)
    with pytest.raises(pg.CheckViolation, match="building is f"), conn.transaction():
        conn.execute("update images set status = 4")
    with conn.transaction():
        conn.execute("update images set status = 4")
        move_job(conn, job_id, JobStatus.FAILED)
    with pytest.raises(pg.CheckViolation, match="unfinished build is f"), conn.transaction():
        conn.execute("update images set status = 2, status_before_rebuild = 4")


def test_no_build_is_launched_for_an_image_at_rest(conn: Connection) -> None:
    image_id = add_image(conn, ImageStatus.READY)
    with pytest.raises(pg.CheckViolation, match="building is f"):
        add_job(conn, image_id)


def test_one_bad_row_of_many_is_found(conn: Connection) -> None:
    many = """with image as (
            insert into images (name, role, status, python_version, platform_tag, definition)
            select 'many-' || n, 1, 1, '3.12', 'v1', '' from generate_series(1, 50) n returning id, name
        )
        insert into jobs (kind, image_id, image_name, repository, definition)
        select 1, id, name, 'r', '' from image where name <> 'many-33'"""
    with pytest.raises(pg.CheckViolation, match="building is t, an unfinished build is f"):
        conn.execute(many)
    assert conn.execute("select count(*) from images").fetchall() == [(0,)]


def test_what_is_judged_is_found_by_index(conn: Connection) -> None:
    """Also where the plan was made when the tables were empty, as statistics said: it is kept while they grow."""
    conn.execute("vacuum (analyze) images, jobs")
    for _ in range(8):
        add_both(conn)
    conn.execute("select pg_stat_force_next_flush()")
    scans = "select relname, seq_scan from pg_stat_user_tables where relname in ('images', 'jobs') order by relname"
    before = conn.execute(scans).fetchall()
    with conn.transaction():
        conn.execute(
            """with image as (
                insert into images (name, role, status, python_version, platform_tag, definition)
                select 'many-' || n, 1, 1, '3.12', 'v1', '' from generate_series(1, 50) n returning id
            )
            insert into jobs (kind, image_id, image_name, repository, definition)
            select 1, id, 'a', 'r', '' from image"""
        )
    conn.execute("select pg_stat_force_next_flush()")
    assert conn.execute(scans).fetchall() == before


def test_the_build_of_a_deleted_image_may_still_have_to_be_stopped(conn: Connection) -> None:
    _, job_id = add_both(conn, JobStatus.RUNNING)
    conn.execute("delete from images")
    move_job(conn, job_id, JobStatus.CANCELLED)


def test_two_builds_of_one_image_never_meet(conn: Connection) -> None:
    image_id, _ = add_both(conn, repository="r1")
    with pytest.raises(pg.UniqueViolation, match="jobs_one_build_per_image"):
        add_job(conn, image_id, repository="r2")


def test_nobody_works_on_a_repository_beside_another(conn: Connection) -> None:
    add_both(conn, JobStatus.RUNNING)
    _, second = add_both(conn)
    with pytest.raises(pg.UniqueViolation, match="jobs_one_active_per_repository"):
        move_job(conn, second, JobStatus.PENDING)


NONSENSE = [
    "update images set status_before_rebuild = 3",  # remembers a rebuild that is none
    "update images set base_image_id = id",  # a system image on a managed base
    "update images set role = 2",  # a user's image without base
    "update images set role = 2, base_image_id = 1, next_definition = ''",  # only system images follow up
    "update jobs set termination_reason = 3",  # over without having ended
    "update jobs set finished_at = now()",
    "update jobs set lease_expires_at = now()",  # a lease without a worker
    "update jobs set definition = null",
    "insert into registry (only_row, token_secret) values (false, '')",
]


def test_rows_that_make_no_sense_are_refused(conn: Connection) -> None:
    add_both(conn)
    for change in NONSENSE:
        with pytest.raises(pg.CheckViolation):
            conn.execute(change)


def test_an_image_that_others_are_built_on_stays(conn: Connection) -> None:
    with conn.transaction():
        base = add_image(conn, ImageStatus.READY)
        conn.execute(
            """insert into images (name, role, status, python_version, platform_tag, base_image_id, definition)
            values ('a', 2, 3, '3.12', 'v1', %s, '')""",
            [base],
        )
    with pytest.raises(pg.ForeignKeyViolation):
        conn.execute("delete from images where id = %s", [base])
