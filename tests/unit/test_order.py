"""Workers of a shared run begin with the longest modules; a run by oneself keeps its order."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.fixtures.order import LONGEST, TESTS, pytest_collection_modifyitems


def ordered(config: Any) -> list[str]:
    """Two modules of two tests each, of which the second is long."""
    items: Any = [SimpleNamespace(path=path, name=f"{path.stem}-{n}") for path in (Path("x.py"), long()) for n in "12"]
    pytest_collection_modifyitems(config, items)
    return [item.name for item in items]


def long() -> Path:
    return TESTS / LONGEST[-1]


def test_the_longest_come_first_to_workers_alone() -> None:
    short_first = ["x-1", "x-2", f"{long().stem}-1", f"{long().stem}-2"]
    assert ordered(SimpleNamespace()) == short_first
    assert ordered(SimpleNamespace(workerinput={})) == short_first[2:] + short_first[:2]


def test_they_are_there() -> None:
    assert [name for name in LONGEST if not (TESTS / name).is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)
