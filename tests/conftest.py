"""Fixtures that every test can use."""

pytest_plugins = [
    "tests.fixtures.postgres",
    "tests.fixtures.service",
    "tests.fixtures.rest",
    "tests.fixtures.base_image",
]
