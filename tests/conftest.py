"""Fixtures that every test can use."""

pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.service"]
