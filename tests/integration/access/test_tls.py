"""TLS: who the server is, who the caller is, and certificates that are renewed while it runs."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

from image_registry import app
from image_registry.api.tls import ServerCertificates, TlsError, TlsFiles
from image_registry.cli.common import allowed_address
from image_registry.gateway.config import GatewayOptions, ListenerTls, UpstreamTls
from image_registry.gateway.process import run_gateway
from image_registry.host import StartError
from image_registry.host.addresses import free_port, parse_address
from image_registry.models import Role
from image_registry.registry.keys import Keys
from image_registry.settings import SettingsError, load
from image_registry.telemetry import catalogue
from tests.fixtures.certificates import Authority
from tests.fixtures.keyed import reason
from tests.fixtures.service import make_settings


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("ca"))


def credentials(ca: Path, pair: tuple[Path, Path] | None) -> grpc.ChannelCredentials:
    certificate, key = (path.read_bytes() for path in pair) if pair else (None, None)
    return grpc.ssl_channel_credentials(ca.read_bytes(), key, certificate)


@asynccontextmanager
async def channel(address: str, ca: Path, pair: tuple[Path, Path] | None = None) -> AsyncIterator[aio.Channel]:
    async with aio.secure_channel(address, credentials(ca, pair)) as opened:
        yield opened


async def test_the_names_in_client_certificates_have_roles(dsn: str, authority: Authority) -> None:
    certificate, key = authority.issue("server")
    settings = make_settings(
        auth="keys",
        tls_certificate=certificate,
        tls_key=key,
        tls_client_ca=authority.certificate,
        certificate_roles={"builder.example.com": "system", "ci": "member"},
    )
    async with app.running_server(settings, dsn, "127.0.0.1:0") as server:

        async def try_(name: str, alternative: str, **call: Any) -> str:
            async with channel(server.address, authority.certificate, authority.issue(name, alternative)) as opened:
                stub: Any = ImageRegistryStub(opened)
                try:
                    await stub.EnsureImageExistence(pb.EnsureImageExistenceRequest(), timeout=5, **call)
                except aio.AioRpcError as error:
                    return reason(error)
                return "OK"

        assert await try_("whoever", "DNS:builder.example.com") == "OK"
        assert await try_("ci", "DNS:unknown") == "ROLE_NOT_ALLOWED"
        assert await try_("gateway", "DNS:gateway") == "KEY_MISSING"
        system = (await Keys(server.database).create(Role.SYSTEM)).secret
        assert await try_("gateway", "DNS:gateway", metadata=[("rime-api-key", system)]) == "OK"
        assert await try_("builder", "DNS:builder.example.com", metadata=[("rime-api-key", "bad")]) == "KEY_INVALID"

        async with channel(server.address, authority.certificate) as nobody:
            with pytest.raises(aio.AioRpcError) as caught:
                await ImageRegistryStub(nobody).ListImages(pb.ListImagesRequest(), timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_gateway_shows_its_certificate_and_still_callers_need_a_key(dsn: str, authority: Authority) -> None:
    server_pair, gateway_pair = authority.issue("image-registry", "DNS:image-registry"), authority.issue("gateway")
    settings = make_settings(
        auth="keys",
        tls_certificate=server_pair[0],
        tls_key=server_pair[1],
        tls_client_ca=authority.certificate,
        certificate_roles={"builder": "system"},
    )
    stop, ready, port = asyncio.Event(), asyncio.Event(), free_port()
    async with app.running_server(settings, dsn, "127.0.0.1:0") as server, asyncio.TaskGroup() as group:
        options = GatewayOptions(
            listen=parse_address(f"127.0.0.1:{port}"),
            upstreams=(parse_address(server.address),),
            tls=ListenerTls(*gateway_pair),
            upstream_tls=UpstreamTls(authority.certificate, "image-registry", *gateway_pair),
        )
        group.create_task(run_gateway(options, stop=stop, ready=ready.set))
        await asyncio.wait_for(ready.wait(), 30)
        context = ssl.create_default_context(cafile=str(authority.certificate))
        async with httpx.AsyncClient(verify=context, base_url=f"https://localhost:{port}") as rest:
            key = (await Keys(server.database).create(Role.MEMBER)).secret
            for _ in range(200):  # until the gateway has seen that the server is healthy
                answer = await rest.get("/v1/images", headers={"rime-api-key": key})
                if answer.status_code == 200:
                    break
                await asyncio.sleep(0.05)
            assert answer.json() == {"images": [], "nextPageToken": ""}
            refused = await rest.get("/v1/images")
            assert refused.status_code == 401
            assert refused.json()["details"][0]["reason"] == "KEY_MISSING"
            forbidden = await rest.delete("/v1/images/some", headers={"rime-api-key": key})
            assert (forbidden.status_code, forbidden.json()["code"]) == (403, 7)
        stop.set()


async def test_renewed_certificates_are_used_without_a_restart(dsn: str, tmp_path: Path) -> None:
    old, new = Authority.make(tmp_path / "old"), Authority.make(tmp_path / "new")
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def install(pair: tuple[Path, Path]) -> None:
        for source, target in zip(pair, (certificate, key), strict=True):
            fresh = target.with_suffix(".fresh")
            fresh.write_bytes(source.read_bytes())
            fresh.rename(target)

    def until_expiry() -> timedelta:
        [(labels, end)] = catalogue.CERTIFICATE_EXPIRY.read().items()
        assert labels == ("tls_certificate",)
        return datetime.fromtimestamp(end, UTC) - datetime.now(UTC)

    install(old.issue("server"))
    settings = make_settings(tls_certificate=certificate, tls_key=key)
    async with (
        app.running_server(settings, dsn, "127.0.0.1:0") as server,
        channel(server.address, old.certificate) as a,
    ):
        await ImageRegistryStub(a).ListImages(pb.ListImagesRequest())
        assert timedelta(days=1) < until_expiry() <= timedelta(days=2)
        certificate.write_text("half written")
        assert await _issuer(server.address, old.certificate)  # the last good ones stay in force
        certificate.write_bytes(new.issue("of another key", days=90)[0].read_bytes())
        assert until_expiry() <= timedelta(days=2), "it is not in use"
        install(new.issue("server", days=30))
        assert timedelta(days=29) < until_expiry() <= timedelta(days=30)
        assert await _issuer(server.address, new.certificate), "gRPC was told although the metrics looked first"
        assert not await _issuer(server.address, old.certificate)
        await ImageRegistryStub(a).ListImages(pb.ListImagesRequest())  # connections under way are left alone


async def _issuer(address: str, ca: Path) -> bool:
    """Whether a new connection sees a certificate of that CA."""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="localhost")
    except ssl.SSLCertVerificationError:
        return False
    writer.close()
    return True


def test_files_that_do_not_fit_are_refused(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("one")
    _, other = authority.issue("two")
    for files in (
        TlsFiles(certificate, other),
        TlsFiles(certificate, tmp_path / "missing"),
        TlsFiles(key, key),
        TlsFiles(certificate, key, client_ca=key),
    ):
        with pytest.raises(TlsError):
            ServerCertificates(files)


@pytest.mark.parametrize(
    ("settings", "encrypted", "complaint"),
    [
        ({}, False, "callers aren't checked"),
        ({"auth": "keys"}, False, "no TLS"),
        ({}, True, "callers aren't checked"),
        ({"auth": "keys"}, True, ""),
        ({"insecure": True}, False, ""),
    ],
)
def test_other_machines_may_call_only_with_keys_and_tls(
    settings: dict[str, Any], encrypted: bool, complaint: str
) -> None:
    def guard(text: str) -> None:
        allowed_address(make_settings(**settings), text, "--grpc-address", encrypted=encrypted)

    guard("127.0.0.1:50999")
    if complaint:
        with pytest.raises(StartError, match=f"{complaint}.*--insecure"):
            guard("0.0.0.0:50999")
    else:
        guard("0.0.0.0:50999")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"tls_key": Path("a")}, "need each other"),
        ({"http_tls_key": Path("a")}, "http_tls_key need each other"),
        ({"upstream_certificate": Path("a"), "upstream_key": Path("b")}, "needs upstream_ca"),
        ({"tls_client_ca": Path("a")}, "needs tls_certificate"),
        ({"certificate_roles": "a=member"}, "needs tls_client_ca"),
        ({"certificate_roles": "a=root"}, "member, admin or system"),
        ({"auth": "yes"}, "IMAGE_REGISTRY_AUTH"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        load(**settings)
