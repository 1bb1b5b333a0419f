"""Fixtures that every test can use."""

import signal

# A shell's background job starts with SIGINT ignored, and so would the programs that tests send Ctrl-C to.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "tests.fixtures.skips",
    "tests.fixtures.order",
    "tests.fixtures.postgres",
    "tests.fixtures.service",
    "tests.fixtures.rest",
    "tests.fixtures.base_image",
]
