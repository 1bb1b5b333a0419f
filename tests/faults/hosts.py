"""Hosts for workers: network namespaces on a bridge when root, else the machine itself.

A worker reaches the database and the package index through a relay on its host's side of the bridge, which listens
where the worker's host can reach it and passes on to loopback. Cutting a host's network loses packets without a word.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Host:
    """Where one worker runs. `enter` is put in front of its command; `address` is how it reaches the services."""

    name: str
    address: str = "127.0.0.1"
    enter: Sequence[str] = ()
    cable: str = ""
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def cut(self) -> None:
        """Lose every packet from now on."""
        self.open.clear()
        if self.cable:
            _ip("link", "set", self.cable, "down")

    def mend(self) -> None:
        """Let packets through again."""
        self.open.set()
        if self.cable:
            _ip("link", "set", self.cable, "up")


@asynccontextmanager
async def made_hosts(count: int) -> AsyncIterator[list[Host]]:
    """Make hosts, and remove them whatever happens."""
    if os.geteuid() != 0 or shutil.which("ip") is None or not _may_make_namespaces():
        hosts = [Host(f"host{number}") for number in range(count)]
        for host in hosts:
            host.open.set()
        yield hosts
        return
    tag, octet = secrets.token_hex(3), secrets.randbelow(250) + 2
    bridge, hosts = f"irb{tag}", []
    with contextlib.ExitStack() as cleaning:
        cleaning.callback(_ip, "link", "delete", bridge, check=False)
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"10.213.{octet}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number in range(count):
            space, cable = f"ir{tag}-{number}", f"irv{tag}{number}"
            cleaning.callback(_ip, "netns", "delete", space, check=False)
            cleaning.callback(_ip, "link", "delete", cable, check=False)
            _ip("netns", "add", space)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", cable, "master", bridge, "up")
            _ip("-n", space, "address", "add", f"10.213.{octet}.{number + 10}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")
            hosts.append(Host(space, f"10.213.{octet}.1", ("ip", "netns", "exec", space), cable))
            hosts[-1].open.set()
        yield hosts


@asynccontextmanager
async def relay(host: Host, port: int) -> AsyncIterator[int]:
    """Give the host a port at its `address` that leads to `port` of this machine's loopback."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(there_writer):
                ways = [_carry(host, reader, there_writer), _carry(host, there_reader, writer)]
                tasks = [asyncio.ensure_future(way) for way in ways]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, host.address, 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _carry(host: Host, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            await host.open.wait()
            writer.write(data)
            await writer.drain()


def _may_make_namespaces() -> bool:
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)
