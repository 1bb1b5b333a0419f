"""The scripts of examples/ as a user runs them, against the real service."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.fixtures.service import Service

EXAMPLES = Path(__file__).parents[3] / "examples"


async def start(script: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / script), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def output(process: asyncio.subprocess.Process) -> str:
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return out.decode()


async def recorded(service: Service, *names: str) -> None:
    """Wait until a script has asked for these images."""
    async with asyncio.timeout(30):
        for name in names:
            while True:
                try:
                    await service.get(name)
                    break
                except Exception:  # noqa: BLE001  not there yet
                    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("create_and_wait.py", ["127.0.0.1:1", "team"]),
        ("many_at_once.py", ["127.0.0.1:1", "team"]),
        ("reuse_or_build.py", ["127.0.0.1:1", "team"]),
        *((path.name, []) for path in sorted(EXAMPLES.glob("*.py"))),
    ],
)
async def test_too_few_arguments_are_told_by_the_usage(script: str, arguments: list[str]) -> None:
    process = await start(script, *arguments)
    text = await output(process)
    assert text.startswith("usage: python ")
    assert text.count("\n") == 1
    assert process.returncode == 1


async def test_create_and_wait(service: Service) -> None:
    process = await start("create_and_wait.py", service.address, "vision", "numpy>=1.26", "pandas")
    await recorded(service, "vision")
    await service.report("vision", "numpy==1.26.4")
    text = await output(process)
    assert text.endswith("vision is READY: oci:/images/managed/vision\n")
    assert process.returncode == 0
    again = await start("create_and_wait.py", service.address, "vision", "numpy")
    assert await output(again) == "vision is READY: oci:/images/managed/vision\n"
    refused = await start("create_and_wait.py", service.address, "No", "numpy")
    assert (await output(refused)).startswith("name: must match")
    assert refused.returncode == 1


async def test_the_example_of_the_reference_page(service: Service, tmp_path: Path) -> None:
    page = (EXAMPLES.parent / "docs" / "reference" / "python-client.md").read_text(encoding="utf-8")
    script = page.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "script.py").write_text(script.replace("127.0.0.1:50051", service.address))
    process = await start(str(tmp_path / "script.py"))
    await recorded(service, "vision")
    await service.report("vision", "numpy==1.26.4")
    assert await output(process) == "READY 1.26.4 oci:/images/managed/vision\nvision\n"


async def test_find_by_library(service: Service) -> None:
    await service.create("vision", python_version="3.11")
    await service.report("vision", "numpy==1.26.4")
    found = await start("find_by_library.py", service.address, "numpy==1.26.4")
    assert await output(found) == "vision  Python 3.11  oci:/images/managed/vision\n"


async def test_reuse_or_build(service: Service) -> None:
    first = await start("reuse_or_build.py", service.address, "vision", "numpy>=1.26,<3", "pandas")
    await recorded(service, "vision")
    await service.report("vision", "numpy==1.26.4", "pandas==2.2", "six==1.16")
    assert await output(first) == "built oci:/images/managed/vision\n"
    again = await start("reuse_or_build.py", service.address, "other", "numpy>=1.26,<3", "pandas")
    assert await output(again) == (
        "found vision: numpy==1.26.4, pandas==2.2, and 1 further libraries\nreused oci:/images/managed/vision\n"
    )


async def test_many_at_once(service: Service) -> None:
    process = await start("many_at_once.py", service.address, "team-a=numpy", "team-b=pandas,scipy")
    await recorded(service, "team-a", "team-b")
    await service.report("team-a", "numpy==1.26.4")
    await service.report("team-b", ok=False)
    assert await output(process) == (
        "team-a is READY: oci:/images/managed/team-a\n"
        "team-b: the build of 'team-b' failed: reported FAILED by its builder\n"
    )
