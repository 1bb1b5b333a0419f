"""Retries: what is sent again, when, and what isn't. No network, no clock: the steps themselves are looked at."""

from collections.abc import Callable
from typing import Any

import pytest

from image_registry.client import (
    CallError,
    DeadlineExceededError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    RetryPolicy,
    UnavailableError,
    UnimplementedError,
    calls,
)
from image_registry.client.calls import Call, Safety
from image_registry.client.flow import Flow, Limits, Pause, Send, Step, perform

READ = calls.get_image("vision")
WRITE = calls.delete_image("vision")
CREATE = calls.create_image("vision", [], [], "", "id-1")
HANGS = object()  # an outcome: no answer before the deadline of the call
POLICY = RetryPolicy(attempts=3, first_delay=0.1, longest_delay=1.0)


class World:
    """Carries steps out: time passes in pauses and unanswered calls; `outcomes` are what the sent calls come to."""

    def __init__(self, *outcomes: Any, connected: bool = True, timeout: float = 30.0) -> None:
        self.now = 0.0
        self.outcomes = list(outcomes)
        self.connected = connected
        self.steps: list[Step] = []
        self.limits = Limits(timeout, 5.0, POLICY, clock=lambda: self.now)

    def run(self, flow: Flow[Any]) -> Any:
        answer: Callable[[], Step] = lambda: next(flow)  # noqa: E731
        try:
            while True:
                step = answer()
                self.steps.append(step)
                outcome = self._outcome(step)
                if isinstance(outcome, Exception):
                    answer = lambda error=outcome: flow.throw(error)  # type: ignore[misc]  # noqa: E731
                else:
                    answer = lambda value=outcome: flow.send(value)  # type: ignore[misc]  # noqa: E731
        except StopIteration as end:
            return end.value

    def _outcome(self, step: Step) -> Any:
        match step:
            case Pause(seconds):
                self.now += seconds
                return None
            case Send(timeout=timeout, wait_for_ready=True):
                return None if self.connected else self._pass(timeout)
            case Send(timeout=timeout):
                outcome = self.outcomes.pop(0)
                return self._pass(timeout) if outcome is HANGS else outcome

    def _pass(self, seconds: float) -> DeadlineExceededError:
        self.now += max(0.0, seconds)
        return DeadlineExceededError("no answer")

    @property
    def sent(self) -> list[Call[Any]]:
        return [step.call for step in self.steps if isinstance(step, Send) and not step.wait_for_ready]

    @property
    def pauses(self) -> list[float]:
        return [step.seconds for step in self.steps if isinstance(step, Pause)]


def test_a_read_is_repeated_while_the_service_is_away() -> None:
    world = World(UnavailableError("away"), UnavailableError("away"), "image")
    assert world.run(perform(READ, world.limits)) == "image"
    assert len(world.sent) == 3
    assert 0.05 <= world.pauses[0] <= 0.1
    assert 0.1 <= world.pauses[1] <= 0.2


def test_attempts_end_and_the_last_error_is_raised() -> None:
    world = World(*(UnavailableError(f"away {number}") for number in range(5)))
    with pytest.raises(UnavailableError, match="away 2"):
        world.run(perform(READ, world.limits))
    assert len(world.sent) == 3


def test_the_services_own_delay_is_kept() -> None:
    world = World(ResourceExhaustedError("busy", reason="OVERLOADED", retry_after=2.0), "image")
    assert world.run(perform(READ, world.limits)) == "image"
    assert 2.0 <= world.pauses[0] < 2.2


def test_no_delay_goes_beyond_the_deadline() -> None:
    world = World(UnavailableError("away", retry_after=10.0), timeout=9.0)
    with pytest.raises(UnavailableError):
        world.run(perform(READ, world.limits))
    assert world.pauses == []


def test_every_attempt_gets_what_is_left_of_the_time() -> None:
    world = World(UnavailableError("away", retry_after=4.0), "image", timeout=10.0)
    world.run(perform(READ, world.limits))
    timeouts = [step.timeout for step in world.steps if isinstance(step, Send)]
    assert timeouts[0] == 10.0
    assert 5.9 < timeouts[1] <= 6.0


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("none"),
        DeadlineExceededError("late"),
        InternalError("oops"),
        ResourceExhaustedError("the answer is larger than the client takes"),
        ResourceExhaustedError("as many images as the limit allows", reason="IMAGE_LIMIT", retry_after=60.0),
        ResourceExhaustedError("as many builds as the limit allows", reason="QUEUE_LIMIT", retry_after=5.0),
    ],
)
def test_what_a_repetition_doesnt_mend_is_raised_at_once(error: CallError) -> None:
    world = World(error)
    with pytest.raises(type(error)):
        world.run(perform(READ, world.limits))
    assert len(world.sent) == 1


def test_a_write_waits_for_a_connection_and_is_sent_once() -> None:
    world = World(UnavailableError("broke off"))
    with pytest.raises(UnavailableError):
        world.run(perform(WRITE, world.limits))
    assert isinstance(world.steps[0], Send)
    assert world.steps[0].wait_for_ready
    assert world.steps[0].timeout == 5.0
    assert world.sent == [WRITE]


@pytest.mark.parametrize("reason", ["OVERLOADED", "RATE_LIMITED"])
def test_a_write_that_was_turned_away_untouched_is_sent_again(reason: str) -> None:
    world = World(ResourceExhaustedError("busy", reason=reason, retry_after=1.0), "created")
    assert world.run(perform(WRITE, world.limits)) == "created"
    assert world.sent == [WRITE, WRITE]


def test_without_a_connection_a_write_is_not_sent_and_the_probe_says_why() -> None:
    world = World(UnavailableError("connection refused"), connected=False)
    with pytest.raises(UnavailableError, match="refused"):
        world.run(perform(WRITE, world.limits))
    assert [call.method for call in world.sent] == ["/grpc.health.v1.Health/Check"]


def test_a_write_without_a_connection_keeps_its_deadline() -> None:
    world = World(HANGS, HANGS, connected=False, timeout=1.0)
    with pytest.raises(DeadlineExceededError):
        world.run(perform(WRITE, world.limits))
    assert world.now == pytest.approx(1.0)


def test_a_short_deadline_leaves_time_to_learn_why_there_is_no_connection() -> None:
    world = World(UnavailableError("connection refused"), connected=False, timeout=1.0)
    with pytest.raises(UnavailableError, match="refused"):
        world.run(perform(WRITE, world.limits))
    assert world.now < 1.0


@pytest.mark.parametrize("answer", [None, UnimplementedError("no health service")])
def test_a_write_goes_on_when_the_probe_finds_a_server_after_all(answer: Any) -> None:
    world = World(answer, "created", connected=False)
    assert world.run(perform(WRITE, world.limits)) == "created"


def test_a_create_is_repeated_under_the_same_id() -> None:
    world = World(UnavailableError("broke off"), "created")
    assert world.run(perform(CREATE, world.limits)) == "created"
    assert [call.metadata for call in world.sent] == [(("x-request-id", "id-1"),)] * 2


def test_which_calls_may_be_repeated() -> None:
    once: list[Call[Any]] = [WRITE, calls.sync_image_tag("x", force=True)]
    once.append(calls.update_build_info("x", built_successfully=True, libraries=[]))
    repeatable: list[Call[Any]] = [READ, CREATE, calls.list_images([], 0, ""), calls.get_job("x")]
    repeatable += [calls.list_jobs([], None, 0, "", full=True)]
    repeatable += [calls.cancel_job("x"), calls.ensure_image_existence(), calls.sync_image_tag("x", force=False)]
    assert {call.safety for call in once} == {Safety.ONCE}
    assert {call.safety for call in repeatable} == {Safety.REPEATABLE}
