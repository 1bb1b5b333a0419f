"""The test's end of the conversation with a published client."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.acceptance.published_clients.environments import environment_of

DRIVERS = Path(__file__).parent / "drivers"
STILL_THERE = 60.0  # seconds after which a client that says nothing is stuck


class ClientError(Exception):
    """The published client raised; `kind` is its exception's class, `text` is what its user would read."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class Driver:
    """A process in the environment of one release of rime-sdk; it serves any number of tests, one after another."""

    def __init__(self, sdk: str, process: subprocess.Popen[str]) -> None:
        self._sdk = sdk
        self._process = process

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"rime-sdk {self._sdk} ended with {self._process.wait()}; its standard error says why"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """End a process that is stuck, so that whoever waits for it goes on."""
        self._process.kill()


@contextmanager
def running_driver(sdk: str, program: str) -> Iterator[Driver]:
    """Start the process, and first make its environment if there is none yet."""
    python = environment_of(sdk)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    local = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    process = subprocess.Popen(
        [python, DRIVERS / program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean | local
    )
    with process:
        yield Driver(sdk, process)
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


class PublishedClient:
    """A client of a release of rime-sdk for one address: `await client("has", name="vision")`."""

    def __init__(self, driver: Driver, address: str, key: str = "") -> None:
        self._driver = driver
        self._connection = {"address": address, "key": key}
        self.printed = ""

    async def __call__(self, call: str, **arguments: Any) -> Any:
        """What the client returns; `printed` then holds what it printed. Raises ClientError when it raises."""
        asking = asyncio.to_thread(self._driver.ask, {**self._connection, "call": call, "arguments": arguments})
        try:
            async with asyncio.timeout(STILL_THERE):
                answer = await asking
        except TimeoutError:
            self._driver.kill()
            raise
        if "error" in answer:
            raise ClientError(answer["error"], answer["text"])
        self.printed = answer["printed"]
        return answer["result"]
