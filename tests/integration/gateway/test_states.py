"""The gateway while things change: servers come and go, certificates are renewed, the gateway itself stops."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import ssl
import tempfile
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_logs_pb2
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub
from ri.api.imageregistry.job_logs_pb2_grpc import JobLogsStub

from image_registry.gateway.config import GatewayOptions, ListenerTls, UpstreamTls
from image_registry.gateway.process import Gateway, run_gateway
from image_registry.host import StartError
from image_registry.host.addresses import Address, check_free, free_port
from image_registry.local.probes import http_status
from tests.fixtures.certificates import Authority
from tests.fixtures.proxied import Upstream
from tests.integration.gateway.conftest import proxied

NAMES = "DNS:image-registry,IP:127.0.0.1"
AWAY = {"code": 14, "details": [], "message": "the service is not available right now; try again in a moment"}


async def test_health_follows_the_server() -> None:
    async with proxied() as running:
        await eventually(lambda: status_is(running.http, "/healthz", 200))
        await running.upstream.set_serving(False)
        await eventually(lambda: status_is(running.http, "/healthz", 503))
        refused = await running.http.get("/healthz")
        assert (refused.json(), refused.headers["retry-after"]) == (AWAY, "1")
        assert refused.headers["content-type"] == "application/json"
        # A server that isn't well is asked all the same: its own answer tells more than the proxy can.
        assert (await running.http.get("/v1/images/unavailable")).json()["message"] == "the database is away"
        assert (await running.http.get("/v1/images/x")).status_code == 200
        await running.upstream.set_serving(True)
        await eventually(lambda: status_is(running.http, "/healthz", 200))


async def test_server_away_and_back() -> None:
    async with proxied() as running:
        port = running.upstream.port
        await running.upstream.stop()
        for method, path in (("GET", "/v1/images/x"), ("POST", "/v1/images"), ("DELETE", "/v1/images/x")):
            refused = await running.http.request(method, path)
            assert (refused.status_code, refused.json(), refused.headers["retry-after"]) == (503, AWAY, "1")
        async with aio.insecure_channel(str(running.address)) as channel:
            stub: Any = ImageRegistryStub(channel)
            with pytest.raises(aio.AioRpcError) as away:
                await stub.GetImage(pb.GetImageRequest(name="x"))
            assert away.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "{" not in (away.value.details() or "")
        await running.upstream.start(port)
        await eventually(lambda: status_is(running.http, "/v1/images/x", 200))
        await eventually(lambda: status_is(running.http, "/healthz", 200))


async def test_a_server_that_says_nothing() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        writer.close()

    silent = await asyncio.start_server(swallow, "127.0.0.1", 0)
    upstream = Address("127.0.0.1", silent.sockets[0].getsockname()[1])
    listen = Address("127.0.0.1", free_port())
    gateway = Gateway(GatewayOptions(listen=listen, upstreams=(upstream,), request_timeout=1))
    await gateway.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{listen}", trust_env=False) as client:
            assert (await client.get("/healthz")).status_code == 503
            refused = await client.get("/v1/images/x")
        expected = {"code": 4, "details": [], "message": "the service did not answer in time"}
        assert (refused.status_code, refused.json()) == (504, expected)
    finally:
        await gateway.kill()
        silent.close()


async def test_streams_may_be_silent_for_longer_than_connections() -> None:
    async with proxied(idle_timeout=1) as running, aio.insecure_channel(str(running.address)) as channel:
        running.upstream.logs.silence = 3
        stub: Any = JobLogsStub(channel)
        call = stub.ReadJobLogs(job_logs_pb2.ReadJobLogsRequest(job_id="x"))
        parts, over_rest = await asyncio.gather(
            asyncio.wait_for(alist(call), 20), running.http.get("/v1/jobs/x/logs", params={"follow": "true"})
        )
        assert b"".join(part.data for part in parts) == b"one\ntwo\n"
        assert over_rest.text == "one\ntwo\n"


async def alist(parts: AsyncIterable[Any]) -> list[Any]:
    return [part async for part in parts]


async def test_requests_under_way_end_when_the_gateway_stops() -> None:
    async with proxied() as running:
        slow = asyncio.create_task(running.http.get("/v1/images/slow", headers={"grpc-timeout": "1S"}))
        await asyncio.sleep(0.3)
        await running.gateway.stop(drain_seconds=5)
        assert (await slow).status_code == 504
        with pytest.raises(httpx.ConnectError):
            await running.http.get("/v1/images/x")


async def test_drain_has_an_end() -> None:
    async with proxied() as running:
        slow = asyncio.create_task(running.http.get("/v1/images/slow"))
        await asyncio.sleep(0.3)
        started = time.monotonic()
        await running.gateway.stop(drain_seconds=0.5)
        assert time.monotonic() - started < 2
        with pytest.raises(httpx.HTTPError):
            await slow


async def test_taken_port(tmp_path: Path) -> None:
    async with proxied() as running:
        second = Gateway(
            GatewayOptions(listen=running.address, upstreams=(Address("127.0.0.1", 1),)), log=tmp_path / "log"
        )
        with pytest.raises(StartError) as refused:
            await second.start()
        assert str(refused.value) == f"{running.address} is taken: stop what listens there or choose another address"
        assert (await running.http.get("/v1/images/x")).status_code == 200


async def test_missing_certificate(tmp_path: Path) -> None:
    tls = ListenerTls(tmp_path / "no.crt", tmp_path / "no.key")
    options = GatewayOptions(listen=Address("127.0.0.1", 1), upstreams=(Address("127.0.0.1", 2),), tls=tls)
    gateway = Gateway(options, run_dir=tmp_path)
    with pytest.raises(StartError, match=r"needs .*no\.crt, which can't be read: No such file or directory"):
        await gateway.start()
    assert not gateway._folder.exists()


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="run-") as name:
        yield Path(name)


async def test_its_files_are_private_and_go_with_it(short_dir: Path) -> None:
    options = GatewayOptions(listen=Address("127.0.0.1", free_port()), upstreams=(Address("127.0.0.1", 1),))
    gateway = Gateway(options, run_dir=short_dir)
    try:
        await gateway.start()
        folder = short_dir / f"gateway-{options.listen.port}"
        assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}
        await gateway.stop()
        assert not folder.exists()
    finally:
        await gateway.kill()


async def test_run_until_stopped() -> None:
    options = GatewayOptions(listen=Address("127.0.0.1", free_port()), upstreams=(Address("127.0.0.1", 1),))
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(run_gateway(options, stop=stop, ready=ready.set))
    await asyncio.wait_for(ready.wait(), 20)
    stop.set()
    await asyncio.wait_for(running, 10)


async def test_a_gateway_that_hangs_is_stopped_all_the_same() -> None:
    options = GatewayOptions(listen=Address("localhost", free_port()), upstreams=(Address("127.0.0.1", 1),))
    gateway = Gateway(options)
    await gateway.start()
    try:
        assert await http_status(options.listen, "/healthz") is not None, "it listens on the host's address"
        signal_envoy(options.listen, signal.SIGSTOP)
        await asyncio.wait_for(gateway.stop(0.1, leave_seconds=0.1), 20)
        assert not gateway._folder.exists()
    finally:
        await gateway.kill()


def is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


async def test_impatience_ends_a_gateway_that_leaves(tmp_path: Path) -> None:
    options = GatewayOptions(listen=Address("127.0.0.1", free_port()), upstreams=(Address("127.0.0.1", 1),))
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(run_gateway(options, stop=stop, ready=ready.set, run_dir=tmp_path, leave_seconds=60))
    await asyncio.wait_for(ready.wait(), 20)
    stop.set()
    await asyncio.sleep(0.3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    check_free(options.listen, "--http-address")
    assert is_empty(tmp_path)


async def test_a_killed_envoy_is_an_error() -> None:
    options = GatewayOptions(listen=Address("127.0.0.1", free_port()), upstreams=(Address("127.0.0.1", 1),))
    ready = asyncio.Event()
    running = asyncio.create_task(run_gateway(options, stop=asyncio.Event(), ready=ready.set))
    await asyncio.wait_for(ready.wait(), 20)
    signal_envoy(options.listen, signal.SIGKILL)
    with pytest.raises(StartError, match=r"^Envoy was killed by SIGKILL$"):
        await asyncio.wait_for(running, 10)


async def test_tls_and_renewed_certificates(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    live = (tmp_path / "live.crt", tmp_path / "live.key")
    install(authority.issue("first"), live)
    trust = ssl.create_default_context(cafile=str(authority.certificate))
    async with proxied(tls=ListenerTls(*live)) as running:
        async with httpx.AsyncClient(base_url=f"https://{running.address}", verify=trust, trust_env=False) as client:
            assert (await client.get("/v1/images/x")).status_code == 200
        credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
        async with aio.secure_channel(f"localhost:{running.address.port}", credentials) as channel:
            stub: Any = ImageRegistryStub(channel)
            assert (await stub.GetImage(pb.GetImageRequest(name="x"))).image.name == "x"
        before = await shown_certificate(running.address, trust)
        install(authority.issue("second"), live)

        async def renewed() -> bool:
            return await shown_certificate(running.address, trust) != before

        await eventually(renewed)


async def test_metrics_say_when_the_first_certificate_ends_and_show_nothing_else(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    metrics = Address("127.0.0.1", free_port())
    live = (tmp_path / "live.crt", tmp_path / "live.key")
    install(authority.issue("first", days=9), live)
    async with (
        proxied(metrics=metrics, tls=ListenerTls(*live)),
        httpx.AsyncClient(base_url=f"http://{metrics}", trust_env=False) as client,
    ):

        async def days_left(days: int) -> bool:
            text = (await client.get("/metrics")).text
            return f"envoy_server_days_until_first_cert_expiring{{}} {days}" in text.splitlines()

        await eventually(lambda: days_left(8))
        install(authority.issue("second", days=30), live)
        await eventually(lambda: days_left(29))
        for method, path in (
            *(("GET", path) for path in ("/", "/stats", "/config_dump", "/metrics/", "/metrics?help", "//metrics")),
            *(("POST", path) for path in ("/quitquitquit", "/healthcheck/fail", "/metrics")),
        ):
            assert (await client.request(method, path)).status_code == 404, path


async def test_mutual_tls_on_both_sides(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    server, client = authority.issue("server", NAMES), authority.issue("client")
    credentials = grpc.ssl_server_credentials(
        [(server[1].read_bytes(), server[0].read_bytes())],
        root_certificates=authority.certificate.read_bytes(),
        require_client_auth=True,
    )
    upstream = Upstream()
    await upstream.start(credentials=credentials)
    listen = Address("127.0.0.1", free_port())
    options = GatewayOptions(
        listen=listen,
        upstreams=(Address("127.0.0.1", upstream.port),),
        tls=ListenerTls(*server, client_ca=authority.certificate),
        upstream_tls=UpstreamTls(authority.certificate, "image-registry", *client),
    )
    gateway = Gateway(options)
    await gateway.start()
    try:
        trust = ssl.create_default_context(cafile=str(authority.certificate))
        async with httpx.AsyncClient(base_url=f"https://{listen}", verify=trust, trust_env=False) as stranger_client:
            with pytest.raises((httpx.HTTPError, ssl.SSLError)):
                await stranger_client.get("/v1/images/x")
        trust.load_cert_chain(*client)
        async with httpx.AsyncClient(base_url=f"https://{listen}", verify=trust, trust_env=False) as known:
            await eventually(lambda: status_is(known, "/healthz", 200))
            assert (await known.get("/v1/images/x")).status_code == 200
    finally:
        await gateway.kill()
        await upstream.stop()


async def test_a_server_with_another_name_is_not_trusted(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    certificate, key = authority.issue("server", NAMES)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    upstream = Upstream()
    await upstream.start(credentials=credentials)
    listen = Address("127.0.0.1", free_port())
    options = GatewayOptions(
        listen=listen,
        upstreams=(Address("127.0.0.1", upstream.port),),
        upstream_tls=UpstreamTls(authority.certificate, "somebody-else"),
    )
    gateway = Gateway(options)
    await gateway.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{listen}", trust_env=False) as client:
            assert (await client.get("/v1/images/x")).json() == AWAY
    finally:
        await gateway.kill()
        await upstream.stop()


async def test_browsers_of_configured_origins() -> None:
    origin = "https://console.example"
    asks = {"access-control-request-method": "DELETE", "access-control-request-headers": "rime-api-key"}
    async with proxied(cors_origins=(origin,)) as running:
        allowed = await running.http.options("/v1/images/x", headers={"origin": origin, **asks})
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, origin)
        assert "DELETE" in allowed.headers["access-control-allow-methods"]
        answer = await running.http.get("/v1/images/x", headers={"origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
        refused = await running.http.get("/v1/images/x?colour=red", headers={"origin": origin})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (400, origin)
        foreign = await running.http.get("/v1/images/x", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in foreign.headers
        # gRPC-Web: a frame of the message, then one of the trailers, in the body.
        message = pb.GetImageRequest(name="x").SerializeToString()
        web = await running.http.post(
            "/rime.ImageRegistry/GetImage",
            headers={"content-type": "application/grpc-web+proto", "origin": origin},
            content=b"\0" + len(message).to_bytes(4, "big") + message,
        )
        length = int.from_bytes(web.content[1:5], "big")
        assert pb.GetImageResponse.FromString(web.content[5 : 5 + length]).image.name == "x"
        assert b"grpc-status:0" in web.content[5 + length :]


async def test_browsers_are_refused_by_default() -> None:
    async with proxied() as running:
        answer = await running.http.get("/v1/images/x", headers={"origin": "https://console.example"})
        assert "access-control-allow-origin" not in answer.headers
        web = await running.http.post(
            "/rime.ImageRegistry/GetImage", headers={"content-type": "application/grpc-web"}, content=b""
        )
        assert (web.status_code, json.loads(web.content)["code"]) == (404, 5)


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 (other processes decide)
            await asyncio.sleep(0.05)


async def status_is(client: httpx.AsyncClient, path: str, status: int) -> bool:
    return (await client.get(path)).status_code == status


async def shown_certificate(address: Address, trust: ssl.SSLContext) -> bytes:
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=trust, server_hostname="localhost")
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


def install(made: tuple[Path, Path], live: tuple[Path, Path]) -> None:
    """Put a certificate and its key in place as renewal tools do: by renaming."""
    for source, target in reversed(list(zip(made, live, strict=True))):
        copy = target.with_suffix(".new")
        shutil.copy(source, copy)
        copy.rename(target)


def signal_envoy(listen: Address, number: signal.Signals) -> None:
    """Find Envoy by the configuration that it was started with."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError, ValueError):
            program, _, configuration, *_ = path.read_bytes().split(b"\0")
            listens = program.endswith(b"/envoy") and str(listen.port) in Path(os.fsdecode(configuration)).read_text()
            if listens:
                os.kill(int(path.parent.name), number)
