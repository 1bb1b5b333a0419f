"""The command line against the real service, each command a process of its own."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from image_registry.host.addresses import free_port
from image_registry.registry.builds import Builds
from image_registry.registry.job_logs import JobLogs
from image_registry.storage.database import Database
from tests.fixtures.service import Service

_QUIET = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


async def start(service: Service, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "image_registry", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **_QUIET, "IMAGE_REGISTRY_SERVER": service.address},
    )


async def ended(process: asyncio.subprocess.Process) -> Done:
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def run(service: Service, *arguments: str) -> Done:
    return await ended(await start(service, *arguments))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process brings about."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def line_with(process: asyncio.subprocess.Process, text: str) -> str:
    """The next line of standard error that holds `text`."""
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while line := (await process.stderr.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"ended without {text!r}")


async def test_create_list_get_delete(service: Service, tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("pandas>=2 # frames\n")
    created = await run(
        service, "images", "create", "vision", "--pip", "numpy>=1.26", "-r", str(requirements), "--apt", "git",
        "--python", "3.11", "-o", "json",
    )  # fmt: skip
    assert created.code == 0, created.err
    image = json.loads(created.out)["image"]
    assert image["status"] == "STATUS_BUILDING_FIRST_TIME"
    assert image["pipRequirements"] == [
        {"name": "numpy", "versionSpecifier": ">=1.26"},
        {"name": "pandas", "versionSpecifier": ">=2"},
    ]
    assert image["packageRequirements"][0]["packageType"] == "PACKAGE_TYPE_APT"

    await service.report("vision", "numpy==1.26.4", "Pillow==10.0")
    found = await run(service, "images", "list", "--with", "pillow==10", "--with", "numpy", "-o", "name")
    assert (found.code, found.out) == (0, "vision\n")
    table = (await run(service, "images", "list", "--status", "ready")).out.splitlines()
    assert table[0].split() == ["NAME", "STATUS", "PYTHON", "TAG", "LIBRARIES", "REPOSITORY"]
    assert table[1].split() == ["vision", "READY", "3.11", "v1", "2", "oci:/images/managed/vision"]
    as_yaml = yaml.safe_load((await run(service, "images", "list", "-o", "yaml", "--limit", "1")).out)
    assert [one["name"] for one in as_yaml] == ["system-python-3-11"]
    page = (await run(service, "images", "get", "vision")).out
    assert "base image  system-python-3-11" in page
    assert "Pillow   10.0" in page

    unasked = await run(service, "images", "delete", "vision")
    assert unasked.code == 2
    assert "say --yes" in unasked.err
    deleted = await run(service, "images", "delete", "vision", "--yes")
    assert (deleted.code, deleted.out) == (0, "")
    missing = await run(service, "images", "get", "vision")
    assert missing.code == 3
    assert "there is no image named 'vision'" in missing.err


async def test_find_and_reuse(service: Service, tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("numpy>=1.26,<3\npandas\n")
    wanted = ["-r", str(requirements)]
    nothing = await run(service, "images", "find", *wanted)
    assert (nothing.code, nothing.out) == (3, "")
    assert "make one with: image-registry images create" in nothing.err
    built = await run(service, "images", "create", "vision", *wanted, "--reuse", "--python", "3.11", "-o", "name")
    assert (built.code, built.out) == (0, "vision\n")
    await service.report("vision", "numpy==1.26.4", "pandas==2.2", "six==1.16")
    assert (await run(service, "images", "find", *wanted, "-o", "name")).out == "vision\n"
    table = (await run(service, "images", "find", *wanted)).out.splitlines()
    assert table[0].split() == ["NAME", "PYTHON", "TAG", "FURTHER", "REPOSITORY", "MATCHING"]
    assert table[1].split() == [
        *["vision", "3.11", "v1", "1", "oci:/images/managed/vision", "numpy==1.26.4", "pandas==2.2"]
    ]
    (found,) = json.loads((await run(service, "images", "find", *wanted, "-o", "json")).out)
    assert (found["image"]["name"], found["furtherLibraries"]) == ("vision", "1")
    assert found["matchingLibraries"][0] == {"name": "numpy", "version": "1.26.4"}
    reused = await run(service, "images", "create", "other", *wanted, "--reuse", "--wait")
    assert (reused.code, reused.err) == (0, "vision holds all of it already: nothing is built\n")
    assert reused.out == "vision is READY: Python 3.11, 3 libraries, oci:/images/managed/vision\n"
    assert (await run(service, "images", "find", *wanted, "--python", "3.12")).code == 3
    requirements.write_text("-e .\nnumpy\n")
    refused = await run(service, "images", "find", *wanted)
    assert refused.code == 2
    assert "requirements.txt:1: -e .: editable installs aren't taken" in refused.err


async def test_refusals_list_every_fault_with_what_was_written(service: Service) -> None:
    refused = await run(service, "images", "create", "No", "--pip", "numpy===1", "--pip", "x", "--python", "2.7")
    assert (refused.code, refused.out) == (1, "")
    lines = refused.err.splitlines()
    assert lines[0] == "error: the request has 3 faults"
    assert [line.split(":")[0].strip() for line in lines[1:4]] == [
        "name (NAME)",
        "pipRequirements[0].versionSpecifier (--pip 'numpy===1')",
        "pythonVersion (--python)",
    ]
    await service.create("vision")
    assert (await run(service, "images", "create", "vision", "--pip", "numpy")).code == 7
    assert (await run(service, "images", "delete", "system-python-3-12", "--yes")).code == 6


async def test_waiting_prints_plain_lines_and_ends_with_the_image(service: Service) -> None:
    process = await start(service, "images", "create", "vision", "--pip", "numpy", "--wait")
    line = await line_with(process, "waits for its base image")
    assert "vision: waits for its base image system-python-3-12 (queued)" in line
    await service.report("vision", "numpy==1.26.4")
    done = await ended(process)
    assert done.code == 0
    assert done.out == "vision is READY: Python 3.12, 1 library, oci:/images/managed/vision\n"
    assert "vision: succeeded" in done.err
    assert "\x1b" not in done.err + done.out


async def test_a_failed_build_is_exit_code_5_with_its_cause(service: Service) -> None:
    process = await start(service, "images", "create", "vision", "--pip", "numpy", "--wait")
    await line_with(process, "waits for its base image")
    await service.report("vision", ok=False)
    done = await ended(process)
    assert (done.code, done.out) == (5, "")
    assert "error: the build of 'vision' failed" in done.err
    assert "reported FAILED by its builder" in done.err
    assert "its log: image-registry jobs logs" in done.err


async def test_an_image_whose_build_failed_is_explained_where_it_is_met(service: Service) -> None:
    await service.create("vision")
    taken = await run(service, "images", "create", "vision", "--pip", "numpy")
    assert (taken.code, "its build failed" in taken.err) == (7, False)
    await service.report("vision", ok=False)
    taken = await run(service, "images", "create", "vision", "--pip", "numpy")
    assert (taken.code, taken.out) == (7, "")
    assert "error: an image named 'vision' exists already; its build failed" in taken.err
    assert "image-registry images logs vision\n" in taken.err
    assert "image-registry images delete vision\n" in taken.err
    shown = await run(service, "images", "get", "vision")
    assert (shown.code, shown.err) == (0, "see why its build failed: image-registry images logs vision\n")
    assert (await run(service, "images", "get", "vision", "-o", "json")).err == ""


async def test_an_images_name_in_place_of_a_jobs_id(service: Service) -> None:
    for command in ("get", "logs", "cancel"):
        done = await run(service, "jobs", command, "vision")
        assert (done.code, done.out) == (1, "")
        assert "error: 'vision' is no job's id" in done.err
        assert "image-registry images logs vision" in done.err


async def test_ctrl_c_leaves_the_build_running_and_says_so(service: Service) -> None:
    process = await start(service, "images", "create", "vision", "--pip", "numpy", "--wait")
    await line_with(process, "waits for its base image")
    process.send_signal(signal.SIGINT)
    done = await ended(process)
    assert done.code == 130
    assert "the build of 'vision' goes on without you" in done.err
    assert "Traceback" not in done.err
    await service.report("vision", "numpy==1.26.4")
    assert (await run(service, "images", "wait", "vision", "-o", "name")).out == "vision\n"


async def test_waiting_can_be_bounded(service: Service) -> None:
    await service.create("vision")
    done = await run(service, "images", "wait", "vision", "--wait-timeout", "0.2")
    assert done.code == 4
    assert "still BUILDING_FIRST_TIME" in done.err


async def test_jobs_are_listed_looked_at_and_cancelled(service: Service) -> None:
    job_id = (await service.create("vision")).job.job_id
    listed = await run(service, "jobs", "list", "--image", "vision", "--status", "requested", "-o", "name")
    assert listed.out == f"{job_id}\n"
    got = json.loads((await run(service, "jobs", "get", job_id, "-o", "json")).out)
    assert got["status"] == "JOB_STATUS_REQUESTED"
    assert "status    REQUESTED" in (await run(service, "jobs", "get", job_id)).out
    assert (await run(service, "jobs", "cancel", job_id)).out == f"{job_id} is CANCELLED\n"
    assert (await run(service, "jobs", "cancel", job_id)).code == 0
    assert (await run(service, "jobs", "get", "0198c0de-0000-7000-8000-000000000000")).code == 3
    no_log = await run(service, "jobs", "logs", job_id)
    assert no_log.code == 3
    assert "has no log" in no_log.err


async def test_the_log_of_an_image_is_that_of_its_newest_build(service: Service, database: Database) -> None:
    builds, logs = Builds(database), JobLogs(database, 3600.0)

    async def build(text: str) -> None:
        claim = await builds.claim(agent_id=uuid4(), lease=30)
        assert claim is not None
        assert claim.job.image_name == "vision"
        await builds.start(claim.job)
        await logs.append(claim.job, text)

    await service.create("vision", python_version="3.12")
    await service.report("system-python-3-12", "pip==24.0")
    await build("the first build\n")
    await service.report("vision", "numpy==1.0")
    assert (await run(service, "images", "logs", "vision")).out == "the first build\n"
    await run(service, "images", "sync", "vision", "--force")
    await build("the second build\n")
    following = await start(service, "images", "logs", "vision", "--follow")
    await service.report("vision", "numpy==1.0")
    assert (await ended(following)).out == "the second build\n"
    nobody = await run(service, "images", "logs", "nobody")
    assert (nobody.code, nobody.out) == (3, "")
    assert "there is no image named 'nobody'" in nobody.err


async def test_sync_and_ensure(service: Service) -> None:
    assert (await run(service, "ensure")).code == 0
    assert (await run(service, "images", "list", "-o", "name")).out == "system-python-3-11\nsystem-python-3-12\n"
    await service.report("system-python-3-11", "pip==24.0")
    up_to_date = await run(service, "images", "sync", "system-python-3-11")
    assert up_to_date.out == "system-python-3-11 is READY at tag v1: nothing to do\n"
    forced = await run(service, "images", "sync", "system-python-3-11", "--force")
    assert forced.out.startswith("system-python-3-11 is REBUILDING, job ")


async def test_the_configuration_file_names_the_server(service: Service, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[default]\nserver = "127.0.0.1:{free_port()}"\n[real]\nserver = "{service.address}"\n')
    environment = {key: value for key, value in os.environ.items() if key != "IMAGE_REGISTRY_SERVER"}

    async def listed(*arguments: str) -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "image_registry", "images", "list", "--config", str(config), *arguments),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment,
        )  # fmt: skip
        return (await ended(process)).code

    assert await listed("--profile", "real") == 0
    assert await listed() == 4


@pytest.mark.parametrize("output", ["table", "json", "yaml", "name"])
async def test_an_empty_registry_lists_nothing(service: Service, output: str) -> None:
    done = await run(service, "images", "list", "-o", output)
    assert (done.code, done.err) == (0, "")
