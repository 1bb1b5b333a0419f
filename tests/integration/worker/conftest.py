"""Fixtures of the worker's tests."""

from tests.fixtures.package_index import package_index  # noqa: F401 (a fixture)
