"""Limits of each key: requests per second, unfinished builds, images; and that the greedy don't starve the others."""

import asyncio
import time

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio

from image_registry.errors import Reason, RegistryError
from image_registry.models import Role
from image_registry.registry.caller import Caller
from image_registry.registry.rates import Bucket, Rates
from tests.fixtures.keyed import Person, details, person, reason
from tests.fixtures.service import make_settings, running_service


def test_a_bucket_gives_its_size_at_once_and_its_rate_from_then_on() -> None:
    now = 0.0
    bucket = Bucket(10, 3, lambda: now)
    assert [bucket.take() for _ in range(3)] == [0, 0, 0]
    assert bucket.take() == pytest.approx(0.1)
    now = 0.1
    assert bucket.take() == 0
    now = 100.0
    assert [bucket.take() > 0 for _ in range(4)] == [False, False, False, True]


def test_each_caller_has_a_bucket_and_0_is_no_limit() -> None:
    rates = Rates(1, lambda: 0.0)
    rates.take(Caller("a", Role.MEMBER))
    rates.take(Caller("b", Role.MEMBER))
    with pytest.raises(RegistryError) as caught:
        rates.take(Caller("a", Role.MEMBER))
    assert caught.value.reason is Reason.RATE_LIMITED
    unlimited = Rates(0)
    for _ in range(1000):
        unlimited.take(Caller("a", Role.MEMBER))


async def test_too_many_requests_are_told_whose_limit_it_is_and_how_long_to_wait(dsn: str) -> None:
    async with running_service(make_settings(auth="keys", key_requests=2), dsn) as service:
        greedy = await person(service, Role.MEMBER)
        await greedy.list_images()
        await greedy.list_images()
        with pytest.raises(aio.AioRpcError) as caught:
            await greedy.list_images()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason(caught.value) == "RATE_LIMITED"
        (quota,) = details(caught.value, error_details_pb2.QuotaFailure)
        assert quota.violations[0].subject == f"caller:{greedy.prefix}"
        (retry,) = details(caught.value, error_details_pb2.RetryInfo)
        assert 0 < retry.retry_delay.ToNanoseconds() <= 0.5e9


async def test_a_greedy_key_does_not_starve_another(dsn: str) -> None:
    async with running_service(make_settings(auth="keys", key_requests=50, pool_size=2), dsn) as service:
        codes = set()
        greedy, modest = await person(service, Role.MEMBER), await person(service, Role.MEMBER)
        stop = asyncio.Event()
        refused = 0

        async def flood() -> None:
            nonlocal refused
            while not stop.is_set():
                try:
                    await greedy.list_images()
                except aio.AioRpcError as error:
                    codes.add(error.code())
                    refused += 1

        floods = [asyncio.create_task(flood()) for _ in range(20)]
        waits = []
        for _ in range(20):
            began = time.monotonic()
            await modest.list_images()
            waits.append(time.monotonic() - began)
        stop.set()
        await asyncio.gather(*floods)
        assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert refused > 20
        assert sorted(waits)[-2] < 1.0  # on a shared machine; all of them are answered


async def test_unfinished_builds_and_images_of_a_key(dsn: str) -> None:
    async with running_service(make_settings(auth="keys", key_queued_builds=2, key_images=3), dsn) as service:
        one, other, admin, system = [
            await person(service, role) for role in (Role.MEMBER, Role.MEMBER, Role.ADMIN, Role.SYSTEM)
        ]
        await one.create("first")
        second = await one.create("second")
        await _refused(one, "third", "QUEUE_LIMIT")
        await other.create("of-another")  # the system image's build counts for nobody
        await one.cancel(second.job.job_id)
        third = await one.create("third")
        await one.cancel(third.job.job_id)
        await _refused(one, "fourth", "IMAGE_LIMIT")
        await admin.delete("third")
        await one.create("fourth")
        assert system.prefix != one.prefix


async def _refused(who: Person, name: str, why: str) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await who.create(name)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason(caught.value) == why
    assert details(caught.value, error_details_pb2.QuotaFailure)
    assert details(caught.value, error_details_pb2.RetryInfo)
