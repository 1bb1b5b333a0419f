"""The long fault test runs when it is asked for: `-m faults`."""

import pytest

from tests.fixtures.package_index import package_index  # noqa: F401 (a fixture)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "faults: the long fault test, many minutes; `make test-faults` runs it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "faults" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("faults"):
                item.add_marker(pytest.mark.skip(reason="long: make test-faults"))
