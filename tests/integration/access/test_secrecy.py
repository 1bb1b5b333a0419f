"""A key is nowhere but with its owner: not in logs, errors, process lists or core dumps of the real process."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

from image_registry.host.addresses import free_port
from image_registry.models import Role
from image_registry.registry.keys import Keys
from image_registry.storage.database import Database


async def test_the_real_process_tells_no_key(dsn: str, database: Database, tmp_path: Path) -> None:
    keys = Keys(database)
    made = [await keys.create(role) for role in Role]
    revoked = await keys.create(Role.ADMIN)
    await keys.revoke(revoked.stored.prefix)
    sent = [*(key.secret for key in made), revoked.secret, "imgreg_00000000_" + "5ec4e7" * 10 + "abcd"]
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-m", "image_registry", "serve", "--grpc-address", address),
        env=os.environ
        | {
            "IMAGE_REGISTRY_DATABASE_URL": dsn,
            "IMAGE_REGISTRY_DATA_DIR": str(tmp_path),
            "IMAGE_REGISTRY_AUTH": "keys",
            "IMAGE_REGISTRY_LOG_FORMAT": "json",
            "GRPC_VERBOSITY": "debug",
            "PYTHONASYNCIODEBUG": "1",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert b"serving gRPC" in await asyncio.wait_for(process.stdout.readline(), 30)
    told = await _call_with(address, sent)
    shown = "".join(_proc(process.pid, name) for name in ("cmdline", "environ", "limits"))
    process.terminate()
    out, err = await process.communicate()
    assert process.returncode == 0
    log = out.decode() + err.decode()
    assert "refused" in log
    assert '\\"audit\\": \\"CreateImage\\"' in log
    for key in sent:
        secret = key.rpartition("_")[2]
        for text in (log, shown, told):
            assert secret not in text
            assert secret[:16] not in text
    limits = next(line.split() for line in shown.splitlines() if line.startswith("Max core file size"))
    assert limits[4] in {"0", "1"}


async def _call_with(address: str, keys: list[str]) -> str:
    """Use every key as it should be, and where it shouldn't be; return all that the service said."""
    told = ""
    async with aio.insecure_channel(address) as channel:
        stub = ImageRegistryStub(channel)
        for number, key in enumerate(keys):
            for metadata in ([("rime-api-key", key)], [("authorization", key)], [("rime-api-key", f"Bearer {key}")]):
                for name in (f"image-{number}", f"NOT {key}"):
                    request = pb.CreateImageRequest(name=name, pip_requirements=[{"name": "numpy"}])
                    try:
                        told += str(await stub.CreateImage(request, metadata=metadata))
                    except aio.AioRpcError as error:
                        told += repr(error)
    return told


def _proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")


@pytest.mark.parametrize("text", ["imgreg_0123abcd_{}", "x imgreg_0123abcd_{} y", "key='imgreg_0123abcd_{}'"])
def test_a_key_in_a_line_of_the_log_is_cut(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    import logging  # noqa: PLC0415

    from image_registry.cli.logs import CarefulHandler  # noqa: PLC0415

    secret = "5ec4e7" * 10 + "abcd"
    handler = CarefulHandler(sys.stderr)
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, "%s", (text.format(secret),), None))
    shown = capsys.readouterr().err
    assert secret[:8] not in shown
    assert "imgreg_0123abcd_…" in shown
