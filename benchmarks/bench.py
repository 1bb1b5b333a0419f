"""What every suite works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from ri.api.imageregistry import image_registry_pb2 as pb

from benchmarks import data
from benchmarks.environment import Environment, Server
from benchmarks.figures import Report
from benchmarks.measuring import Call, Contender, Load, write_calls
from image_registry.host.addresses import free_port

SERVICE = "/rime.ImageRegistry/"


@dataclass
class Bench:
    """A run: how large, how long, with what programs."""

    environment: Environment
    load: Load
    images: int
    rounds: int
    report: Report = field(default_factory=Report)
    go_server: Path | None = None
    pgbench: str | None = None

    @property
    def dsn(self) -> str:
        """The database that most suites use."""
        return self.environment.filled(self.images)

    def calls(self, name: str, calls: list[Call]) -> Path:
        """A file of calls."""
        return write_calls(self.environment.folder / f"{name}.calls", calls)

    def get_calls(self) -> Path:
        """GetImage of many names; each answer must begin with the image of that name."""
        step = max(1, self.images // 50_000)
        names = (data.name(number) for number in range(0, self.images, step))
        return self.calls("get", [Call(pb.GetImageRequest(name=n).SerializeToString(), named(n)) for n in names])

    def contender(self, server: Server, method: str, calls: Path, streams: int) -> Contender:
        """A server under gRPC load."""
        return lambda: self.load.run(server.address, SERVICE + method, calls, streams=streams, cpu=server.cpu_seconds)

    def answer(self, server: Server, method: str, request: bytes) -> bytes:
        """What a server answers to a call."""
        with grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", -1)]) as channel:
            call: Any = channel.unary_unary(SERVICE + method)
            return bytes(call(request))

    def go(self, dsn: str) -> Server | None:
        """The Go server, if it could be built. It takes the DSN as keywords: Go's URLs have no sockets as hosts."""
        if self.go_server is None:
            return None
        address = f"127.0.0.1:{free_port()}"
        keywords = make_conninfo(**{key: str(value) for key, value in conninfo_to_dict(dsn).items()})
        return self.environment.start([str(self.go_server), "-address", address, "-dsn", keywords], address)


def named(name: str) -> bytes:
    """The field of an encoded image that holds its name."""
    return pb.ManagedImage(name=name).SerializeToString()


def unchecked(calls: Path) -> Path:
    """The same calls for a server whose answers are canned."""
    copy = calls.with_suffix(".unchecked")
    lines = calls.read_text(encoding="ascii").splitlines()
    copy.write_text("".join(line.partition("\t")[0] + "\t\n" for line in lines), encoding="ascii")
    return copy
