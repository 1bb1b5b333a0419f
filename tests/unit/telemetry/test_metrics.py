"""The port of the metrics: what is pushed, what is looked at, and that nothing is done while nobody listens."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from image_registry.cli.common import telemetry_config
from image_registry.host import StartError
from image_registry.host.addresses import Address, free_port
from image_registry.telemetry import metrics, tracing
from image_registry.telemetry.catalogue import CATALOGUE
from image_registry.telemetry.metrics import Counter, Histogram, Part, Sampled
from image_registry.telemetry.running import TelemetryConfig, telemetry
from image_registry.telemetry.sampling import Sampler
from tests.fixtures.service import make_settings


def test_names_follow_prometheus_conventions() -> None:
    assert len({one.name for one in CATALOGUE}) == len(CATALOGUE)
    for one in CATALOGUE:
        counts = isinstance(one, Counter) or (isinstance(one, Sampled) and one.total)
        assert one.name.endswith("_total") is counts
        assert one.help.endswith(".")
        if isinstance(one, Histogram):
            assert one.name.endswith("_seconds")
            assert list(one.buckets) == sorted(one.buckets)


def test_a_counter_tells_its_sinks() -> None:
    counter, heard = Counter("c_total", "C.", ("a",), Part.BOTH), []
    counter.add("x")
    counter.attach(lambda labels, amount: heard.append((labels, amount)))
    counter.add("x")
    counter.add("y", amount=3)
    counter.detach_all()
    counter.add("x")
    assert heard == [(("x",), 1.0), (("y",), 3)]


def test_a_metric_is_read_from_its_sources_while_there_are_any() -> None:
    gauge = Sampled("g", "G.", (), Part.BOTH)
    with metrics.sampled([(gauge, metrics.one(lambda: 2)), (gauge, metrics.one(lambda: 3))]):
        assert gauge.read() == {(): 5.0}
    assert gauge.read() == {}
    with metrics.sampled([(gauge, metrics.one(lambda: None))]):
        assert gauge.read() == {}, "what can't be read is not 0"


async def test_readings_that_are_awaited_are_kept_and_may_fail() -> None:
    answers: list[Any] = [1, RuntimeError("away"), 3]

    async def read() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return int(answer)

    kept, fresh = Sampler(read, 60.0), Sampler(read, 0.0)
    assert [await asyncio.to_thread(kept.latest) for _ in range(2)] == [1, 1]
    assert [await asyncio.to_thread(fresh.latest) for _ in range(2)] == [None, 3]


def test_a_reading_is_none_when_the_loop_has_ended() -> None:
    async def read() -> int:
        return 1

    async def make() -> Sampler[int]:
        return Sampler(read, 0.0)

    assert asyncio.run(make()).latest() is None


async def test_a_reading_is_none_when_it_is_cancelled_with_the_loop() -> None:
    begun: asyncio.Future[asyncio.Task[Any]] = asyncio.get_running_loop().create_future()

    async def read() -> int:
        task = asyncio.current_task()
        assert task is not None
        begun.set_result(task)
        await asyncio.sleep(60)
        return 1

    asked = asyncio.create_task(asyncio.to_thread(Sampler(read, 0.0).latest))
    (await begun).cancel()
    assert await asked is None


def test_an_admin_address_that_is_taken_is_named_with_its_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = TelemetryConfig(Address("127.0.0.1", taken.getsockname()[1]))
        with (
            pytest.raises(StartError, match=r"choose another IMAGE_REGISTRY_ADMIN_ADDRESS$"),
            telemetry(config, Part.SERVER),
        ):
            pass


def test_nothing_runs_unless_it_is_configured() -> None:
    before = threading.active_count()
    with telemetry(TelemetryConfig(), Part.SERVER):
        assert not tracing.active()
        assert threading.active_count() == before
        with tracing.span("work") as span:
            span.set("a", 1)
        assert tracing.traceparent() == ""


def test_a_taken_admin_address_is_said_in_one_sentence() -> None:
    config = TelemetryConfig(Address("127.0.0.1", free_port()))
    with (
        telemetry(config, Part.WORKER),
        pytest.raises(StartError, match="can't be listened on"),
        telemetry(config, Part.WORKER),
    ):
        pass


def test_each_process_has_the_port_behind_the_one_before() -> None:
    port = free_port()
    found = telemetry_config(make_settings(admin_address=f"127.0.0.1:{port}"), process=0)
    assert found.admin == Address("127.0.0.1", port)
    assert telemetry_config(make_settings()).admin is None


def test_beyond_loopback_the_admin_address_has_to_be_allowed() -> None:
    with pytest.raises(StartError, match="IMAGE_REGISTRY_ADMIN_OPEN=true"):
        telemetry_config(make_settings(admin_address="0.0.0.0:9464"))
    opened = make_settings(admin_address=f"0.0.0.0:{free_port()}", admin_open=True)
    assert telemetry_config(opened).admin is not None


@pytest.mark.parametrize("wrong", ["collector:4318", "ftp://collector", "http://user:secret@collector", "http://"])
def test_an_address_of_a_collector_that_can_not_be_right_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="must be http:// or https://") as refused:
        make_settings(otlp_endpoint=wrong)
    assert "OTEL_EXPORTER_OTLP_HEADERS" in str(refused.value)
