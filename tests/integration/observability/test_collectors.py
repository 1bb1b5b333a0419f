"""Collectors of every kind: by TLS, away, silent; and what traces promise where calls share a statement."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from grpc import aio
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry.image_registry_pb2_grpc import ImageRegistryStub

from image_registry.host.addresses import free_port
from image_registry.telemetry.metrics import Part
from image_registry.telemetry.otel import _within
from image_registry.telemetry.running import TelemetryConfig, telemetry
from tests.fixtures.certificates import Authority
from tests.fixtures.collector import Span, running_collector
from tests.fixtures.part import running_part
from tests.fixtures.server_process import ServerProcess
from tests.fixtures.service import make_settings, running_service

CREATE = "rime.ImageRegistry/CreateImage"


async def test_server_and_gateway_send_to_a_collector_by_tls(dsn: str, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    ports = {"GRPC_ADDRESS": f"127.0.0.1:{free_port()}", "HTTP_ADDRESS": f"127.0.0.1:{free_port()}"}
    with running_collector(*authority.issue("collector")) as collector:
        told = {"OTLP_ENDPOINT": collector.url, "OTLP_CA": str(authority.certificate)}
        with (
            running_part("serve", DATABASE_URL=dsn, DATA_DIR=str(tmp_path), **ports, **told),
            running_part("gateway", DATA_DIR=str(tmp_path), **ports, **told),
        ):
            async with httpx.AsyncClient(base_url=f"http://{ports['HTTP_ADDRESS']}", trust_env=False) as http:
                assert (await http.get("/v1/images")).status_code == 200
            services = {"image-registry-gateway", "image-registry-server"}
            spans = await asyncio.to_thread(collector.wait_for, lambda spans: {s.service for s in spans} >= services)
    [call] = [span for span in spans if span.name == "rime.ImageRegistry/ListImages"]
    assert call.parent in {span.id for span in spans if span.service == "image-registry-gateway"}


async def test_a_collector_that_shows_another_authoritys_certificate_is_told_nothing(tmp_path: Path) -> None:
    stranger = Authority.make(tmp_path / "stranger")
    trusted = Authority.make(tmp_path / "trusted")
    with running_collector(*stranger.issue("collector")) as collector:
        with telemetry(TelemetryConfig(None, collector.url, trusted.certificate), Part.SERVER):
            pass  # its end sends the metrics
        assert collector.bodies == []
        with telemetry(TelemetryConfig(None, collector.url, stranger.certificate), Part.SERVER):
            pass
        assert collector.bodies != []


@contextlib.contextmanager
def silent_collector() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def absent_collector() -> Iterator[str]:
    """Nobody is there."""
    yield f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize("collector", [silent_collector, absent_collector])
async def test_a_collector_that_is_away_keeps_neither_calls_nor_the_end(collector: Any, dsn: str) -> None:
    with collector() as url:
        server = ServerProcess(dsn, OTLP_ENDPOINT=url)
        server.start()
        try:
            async with aio.insecure_channel(server.address) as channel:
                stub: Any = ImageRegistryStub(channel)
                for number in range(3000):  # more spans than the exporter's queue holds
                    await stub.ListImages(pb.ListImagesRequest(page_size=1 + number % 3), timeout=10)
            server.terminate()  # fails unless it ends by itself, and well
        finally:
            server.kill()


def test_the_end_waits_for_nobody_who_hangs() -> None:
    done, forever = threading.Event(), threading.Event()
    _within(0.05, forever.wait, done.set)
    assert done.is_set()
    began = time.monotonic()
    _within(0.5, *[forever.wait] * 4)
    assert time.monotonic() - began < 1, "the time is that of all together"
    forever.set()


@pytest.mark.parametrize(("recorded", "with_ids"), [(True, False), (True, True), (False, False)])
async def test_creates_that_share_a_statement_are_linked_with_it(recorded: bool, with_ids: bool, dsn: str) -> None:
    """Each call's trace holds a span of its own, its wait included; the statement's span is in none of them."""
    flag = "01" if recorded else "00"
    callers = {f"image-{n}": f"{n + 1:032x}" for n in range(40)}
    with running_collector() as collector:
        with telemetry(TelemetryConfig(None, collector.url), Part.SERVER):
            async with running_service(make_settings(otlp_endpoint=collector.url), dsn) as service:
                await service.create("first")  # with it comes the system image

                async def create(name: str, trace: str) -> None:
                    wanted = pb.CreateImageRequest(name=name, pip_requirements=[{"name": "numpy"}])
                    headers = [("traceparent", f"00-{trace}-{1:016x}-{flag}"), ("x-request-id", name)]
                    await service.images.CreateImage(wanted, metadata=headers[: 1 + with_ids])

                await asyncio.gather(*(create(name, trace) for name, trace in callers.items()))
        spans = list(collector.spans)
    shared = {(span.trace, span.id): span for span in spans if span.name == "images.create_several"}
    own = [span for span in spans if span.name == "images.create" and span.trace in callers.values()]
    if not recorded:
        assert (own, shared) == ([], {})
        return
    calls = {span.id: span.trace for span in spans if span.name == CREATE}
    assert sorted(span.trace for span in own) == sorted(callers.values()), "one in the trace of each call"
    assert all(calls[span.parent] == span.trace for span in own)
    assert shared, "some went together"
    assert not {trace for trace, _ in shared} & set(callers.values())
    linked = [shared[link] for span in own for link in span.links]
    assert len(linked) == sum(span.attributes["image_registry.creates"] for span in shared.values())
    for span in shared.values():
        assert span.attributes["image_registry.creates"] == linked.count(span) > 1


async def test_reads_that_share_a_statement_have_spans_of_their_own(dsn: str) -> None:
    traces = [f"{n + 1:032x}" for n in range(30)]
    with running_collector() as collector:
        with telemetry(TelemetryConfig(None, collector.url), Part.SERVER):
            async with running_service(make_settings(otlp_endpoint=collector.url), dsn) as service:
                await service.create("first")

                async def get(trace: str) -> None:
                    header = ("traceparent", f"00-{trace}-{1:016x}-01")
                    await service.images.GetImage(pb.GetImageRequest(name="first"), metadata=[header])

                await asyncio.gather(*(get(trace) for trace in traces))
        spans: list[Span] = list(collector.spans)
    calls = {span.id: span for span in spans if span.name == "rime.ImageRegistry/GetImage"}
    reads = [span for span in spans if span.name == "images.point_read"]
    assert sorted(span.trace for span in reads) == traces
    assert all(calls[span.parent].trace == span.trace for span in reads)
