"""The example of `up --example` against the real service; the builds' results come through UpdateBuildInfo."""

import asyncio

import pytest

from image_registry.cli.example import NAME, build_example
from tests.fixtures.service import Service


async def report(service: Service, *, ok: bool) -> None:
    """Wait until the example is recorded, and report its build."""
    async with asyncio.timeout(30):
        while True:
            try:
                await service.get(NAME)
                break
            except Exception:  # noqa: BLE001  not there yet
                await asyncio.sleep(0.02)
    await service.report(NAME, *(["numpy==2.1.0"] if ok else []), ok=ok)


async def test_it_is_made_shown_and_explained(service: Service, capfd: pytest.CaptureFixture[str]) -> None:
    made, _ = await asyncio.gather(build_example(service.address, "127.0.0.1:8080"), report(service, ok=True))
    assert made
    shown = capfd.readouterr()
    assert f"{NAME}: waits for" in shown.err
    assert f"{NAME} is READY: Python 3.12, numpy 2.1.0, oci:/images/managed/{NAME}" in shown.out
    assert f"image-registry images list --with numpy==2.1.0 --server {service.address}" in shown.out
    assert f"curl http://127.0.0.1:8080/v1/images/{NAME}" in shown.out

    assert await build_example(service.address, None)
    again = capfd.readouterr().out
    assert f"{NAME} exists already and is READY" in again
    assert "curl" not in again


async def test_a_failure_is_explained_and_the_next_start_tries_again(
    service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    made, _ = await asyncio.gather(build_example(service.address, None), report(service, ok=False))
    assert not made
    failed = capfd.readouterr()
    assert f"the build of '{NAME}' failed" in failed.err
    assert "reported FAILED by its builder" in failed.err
    assert f"image-registry images sync {NAME}" in failed.out

    again = asyncio.create_task(build_example(service.address, None))
    async with asyncio.timeout(30):
        while (await service.get(NAME)).status != 2:  # REBUILDING  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await service.report(NAME, "numpy==2.1.0")
    assert await again
    assert "it is built again" in capfd.readouterr().out


async def test_a_service_that_is_away_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    assert not await build_example("127.0.0.1:1", None)
    assert "the example could not be made" in capfd.readouterr().err


async def test_it_ends_when_it_is_cancelled(service: Service, capfd: pytest.CaptureFixture[str]) -> None:
    task = asyncio.create_task(build_example(service.address, None))
    async with asyncio.timeout(30):
        while f"{NAME}: waits" not in capfd.readouterr().err:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "Traceback" not in capfd.readouterr().err
    await service.report(NAME, "numpy==2.1.0")
