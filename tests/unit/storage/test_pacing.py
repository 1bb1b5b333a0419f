"""When a statement that several callers share leaves."""

import pytest

from image_registry.storage.pacing import Pace

EACH, LONGEST = 0.0002, 0.004


@pytest.fixture
def pace() -> Pace:
    return Pace(each=EACH, longest=LONGEST)


def test_who_comes_alone_waits_for_nobody(pace: Pace) -> None:
    for now in (0.0, 0.0001, 0.0002):
        assert pace.lone
        assert pace.wait(1, now) == 0
        pace.left(1, now)


def test_after_several_the_next_waits_for_as_many(pace: Pace) -> None:
    pace.left(8, now=1.0)
    assert not pace.lone
    assert pace.wait(7, now=1.001) == pytest.approx(8 * EACH - 0.001)
    assert pace.wait(8, now=1.001) == 0


def test_nobody_waits_longer_than_so_many_take_to_come(pace: Pace) -> None:
    pace.left(8, now=1.0)
    assert pace.wait(1, now=1.0 + 8 * EACH) == 0
    pace.left(64, now=2.0)
    assert pace.wait(1, now=2.001) == pytest.approx(LONGEST - 0.001)  # 64 of them would take longer
    assert pace.wait(1, now=2.0 + LONGEST) == 0


def test_those_who_came_once_are_forgotten_step_by_step(pace: Pace) -> None:
    pace.left(64, now=1.0)
    pace.left(3, now=1.1)
    assert pace.wait(57, now=1.1) > 0
    assert pace.wait(58, now=1.1) == 0  # nine tenths of 64 are still expected
    for _ in range(50):
        pace.left(1, now=2.0)
    assert pace.lone


def test_callers_at_moments_of_their_own_soon_wait_for_nobody(pace: Pace) -> None:
    """A thousand a second come one by one, of which two once met."""
    pace.left(2, now=1.0)
    for millisecond in range(1, 20):
        now = 1.0 + millisecond / 1000
        assert pace.wait(1, now) == 0
        pace.left(1, now)
    assert pace.lone
