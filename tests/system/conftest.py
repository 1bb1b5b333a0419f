"""System tests run side by side, but those that share a machine's address, a server or a built image stay together."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """A group for each file, and one for all of system packages."""
    for item in items:
        if HERE in item.path.parents:
            name = "packages" if item.path.parent.name == "packages" else item.path.stem
            item.add_marker(pytest.mark.xdist_group(name))
