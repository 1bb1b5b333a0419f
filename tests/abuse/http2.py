"""HTTP/2 by hand (RFC 9113, RFC 7541 without tables or Huffman): a client that may misbehave."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
NAMES = {DATA: "data", HEADERS: "headers", RST_STREAM: "reset", SETTINGS: "settings", PING: "ping", GOAWAY: "goaway"}


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def header(name: str, value: str) -> bytes:
    """A literal without indexing."""
    return b"\0" + _string(name.encode()) + _string(value.encode())


def indexed_header(name: str, value: str) -> bytes:
    """A literal that goes into the dynamic table, where `again` finds it as the newest entry."""
    return b"\x40" + _string(name.encode()) + _string(value.encode())


again = b"\xbe"  # the newest entry of the dynamic table (index 62)


def call(method: str, metadata: Iterable[tuple[str, str]] = (), host: str = "localhost") -> bytes:
    """The header block of a gRPC call."""
    fixed = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", host),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    return b"".join(header(name, value) for name, value in [*fixed, *metadata])


def _string(data: bytes) -> bytes:
    return _integer(len(data)) + data


def _integer(value: int) -> bytes:
    if value < 127:
        return bytes([value])
    rest, out = value - 127, [127]
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    return bytes([*out, rest])


class Connection:
    """A connection that has said hello; what comes back is counted by kind of frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.seen: Counter[str] = Counter()
        self.next_stream = 1
        self._listener = asyncio.create_task(self._listen())

    @classmethod
    async def open(cls, port: int, *, hello: bool = True) -> "Connection":
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        made = cls(reader, writer)
        if hello:
            await made.send(PREFACE + frame(SETTINGS, 0))
        return made

    async def send(self, data: bytes) -> bool:
        """Whether the other side still takes it."""
        try:
            self.writer.write(data)
            async with asyncio.timeout(5):
                await self.writer.drain()
        except (OSError, TimeoutError):
            return False
        return not self._listener.done()

    def stream(self) -> int:
        self.next_stream += 2
        return self.next_stream - 2

    async def close(self) -> None:
        self._listener.cancel()
        self.writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._listener
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self.writer.wait_closed()

    async def _listen(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                self.seen[NAMES.get(head[3], "other")] += 1
                if head[3] == SETTINGS and not head[4] & ACK:
                    self.writer.write(frame(SETTINGS, 0, flags=ACK))
                elif head[3] == PING and not head[4] & ACK:
                    self.writer.write(frame(PING, 0, payload, ACK))
        except (OSError, asyncio.IncompleteReadError):
            self.seen["closed"] += 1
