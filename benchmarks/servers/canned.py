"""The Python limit: grpc.aio on uvloop that answers every call with the same bytes, without a look at the request."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import grpc
import uvloop
from grpc import aio

METHODS = ("GetImage", "CreateImage", "ListImages")


async def serve(address: str, answer: bytes) -> None:
    """Answer until the process is ended."""

    async def respond(_request: bytes, _context: Any) -> bytes:
        return answer

    server = aio.server(options=[("grpc.so_reuseport", 1), ("grpc.max_send_message_length", -1)])
    handlers: dict[str, Any] = dict.fromkeys(METHODS, grpc.unary_unary_rpc_method_handler(respond))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("rime.ImageRegistry", handlers),))
    port = server.add_insecure_port(address)
    await server.start()
    print("serving on", f"127.0.0.1:{port}", flush=True)  # noqa: T201
    await server.wait_for_termination()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="127.0.0.1:0")
    parser.add_argument("--canned", type=Path, required=True, help="a file that is every answer")
    chosen = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(chosen.address, chosen.canned.read_bytes()))


if __name__ == "__main__":
    main()
