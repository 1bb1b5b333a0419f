"""Keys and TLS as callers use them: through the client and the command line."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from image_registry import app
from image_registry.client import (
    AsyncImageRegistryClient,
    PermissionDeniedError,
    RetryPolicy,
    Tls,
    UnauthenticatedError,
    UnavailableError,
)
from image_registry.models import Role
from tests.fixtures.certificates import Authority
from tests.fixtures.keyed import person
from tests.fixtures.service import Service, make_settings

KEYED = pytest.mark.parametrize("service", [make_settings(auth="keys")], indirect=True)


async def run(*arguments: str, **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "image_registry", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **environment},
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode()


@KEYED
async def test_keys_are_checked_and_exchanged_without_a_restart(service: Service, tmp_path: Path) -> None:
    async with AsyncImageRegistryClient(service.address) as nobody:
        assert await nobody.is_serving()
        with pytest.raises(UnauthenticatedError) as caught:
            await nobody.get_image("vision")
        assert caught.value.reason == "KEY_MISSING"
    key = tmp_path / "key"
    key.write_text((await person(service, Role.MEMBER)).key)
    async with AsyncImageRegistryClient(service.address, api_key_file=key) as registry:
        await registry.create_image("vision", ["numpy"])
        with pytest.raises(PermissionDeniedError) as refused:
            await registry.delete_image("vision")
        assert refused.value.reason == "ROLE_NOT_ALLOWED"
        key.write_text((await person(service, Role.ADMIN)).key + "\n")
        await registry.delete_image("vision")


@KEYED
async def test_the_command_line_takes_the_key_from_a_file(service: Service, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text((await person(service, Role.MEMBER)).key)
    missing = await run("images", "list", "--server", service.address)
    assert missing[0] == 6
    assert "--api-key-file" in missing[1]
    by_option = await run("images", "list", "--server", service.address, "--api-key-file", str(key))
    assert by_option[0] == 0, by_option[1]
    by_variable = await run(
        "images", "list", IMAGE_REGISTRY_SERVER=service.address, IMAGE_REGISTRY_API_KEY_FILE=str(key)
    )
    assert by_variable[0] == 0, by_variable[1]
    config = tmp_path / "config.toml"
    config.write_text(f'[default]\nserver = "{service.address}"\napi_key_file = "key"\n')
    assert (await run("images", "list", "--config", str(config)))[0] == 0
    (tmp_path / "bad").write_text("of no deployment")
    malformed = await run("images", "list", "--config", str(config), "--api-key-file", str(tmp_path / "bad"))
    assert malformed[0] == 2
    assert "must be one line of printable ASCII" in malformed[1]
    assert "of no deployment" not in malformed[1]


async def test_tls_in_both_directions(dsn: str, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "ca")
    certificate, key = authority.issue("server")
    mine = authority.issue("builder", "DNS:builder.example.com")
    settings = make_settings(
        auth="keys",
        tls_certificate=certificate,
        tls_key=key,
        tls_client_ca=authority.certificate,
        certificate_roles={"builder.example.com": "system"},
    )
    once = RetryPolicy(attempts=1)
    async with app.running_server(settings, dsn, "127.0.0.1:0") as server:
        tls = Tls(authority.certificate, *mine)
        async with AsyncImageRegistryClient(server.address, tls=tls) as registry:
            await registry.ensure_image_existence()
            assert [image.name async for image in registry.list_images()] == [
                "system-python-3-11",
                "system-python-3-12",
            ]
        by_name = Tls(authority.certificate, *mine, server_name="localhost")
        async with AsyncImageRegistryClient(server.address, tls=by_name) as registry:
            await registry.get_image("system-python-3-11")
        misnamed = Tls(authority.certificate, *mine, server_name="other")
        for unfit in (False, True, Tls(authority.certificate), misnamed):
            async with AsyncImageRegistryClient(server.address, tls=unfit, retry=once, timeout=5) as registry:
                with pytest.raises(UnavailableError):
                    await registry.get_image("system-python-3-11")
        code, out = await run(
            *("images", "list", "-o", "name", "--server", server.address, "--ca-file", str(authority.certificate)),
            *("--client-certificate-file", str(mine[0]), "--client-key-file", str(mine[1])),
        )
        assert (code, out) == (0, "system-python-3-11\nsystem-python-3-12\n")
