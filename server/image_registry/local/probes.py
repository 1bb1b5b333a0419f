"""Questions that tell whether a part of the product can be used. None of them raises when the answer is no."""

import asyncio
import contextlib
import ssl
import threading
import urllib.error
import urllib.request

from image_registry.host.addresses import Address

_SECONDS = 2.0


async def http_status(address: Address, path: str, *, tls: bool = False) -> int | None:
    """The status of a plain GET, or None when nothing at `address` answers with HTTP in time.

    With `tls` whoever answers is not asked who it is: this is a question of whether, on this machine.
    """
    context = _unverified() if tls else None
    with contextlib.suppress(OSError, TimeoutError, ValueError, IndexError):
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n".encode())
                return int((await reader.readline()).split()[1])
            finally:
                writer.close()
    return None


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def grpc_serving(address: Address) -> bool:
    """Whether the server at `address` says SERVING for itself as a whole (grpc.health.v1.Health/Check).

    The one call is written out as HTTP/2 frames: the threads of the gRPC library don't go with a process that forks.
    """
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                writer.write(_HEALTH_CHECK)
                while True:
                    head = await reader.readexactly(9)
                    payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                    if head[3] == _DATA:
                        return payload == _SERVING
                    if head[3] in _LAST_FRAMES or (head[3] == _HEADERS and head[4] & _END_STREAM):
                        return False
            except asyncio.IncompleteReadError:
                return False
            finally:
                writer.close()
    return False


# HTTP/2 (RFC 9113): frame types and the flag of a stream's last frame.
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_LAST_FRAMES = {_RST_STREAM, _GOAWAY}
_END_STREAM, _END_HEADERS = 1, 4


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _header(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value  # HPACK literal (RFC 7541, 6.2.2)


_HEALTH_CHECK = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(_SETTINGS, 0, 0)
    + _frame(
        _HEADERS,
        _END_HEADERS,
        1,
        _header(b":method", b"POST")
        + _header(b":scheme", b"http")
        + _header(b":path", b"/grpc.health.v1.Health/Check")
        + _header(b":authority", b"localhost")
        + _header(b"content-type", b"application/grpc")
        + _header(b"te", b"trailers"),
    )
    + _frame(_DATA, _END_STREAM, 1, bytes(5))  # not compressed, no bytes: an empty HealthCheckRequest
)
_SERVING = b"\x00\x00\x00\x00\x02\x08\x01"  # not compressed, 2 bytes: HealthCheckResponse(status=SERVING)


async def answers_http(url: str, seconds: float) -> bool:
    """Whether a server at `url` gives any HTTP answer within `seconds`, directly or through the system's proxy.

    It is asked in a thread that nobody waits for: a name that doesn't resolve can block for much longer.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bool] = loop.create_future()

    def tell(found: bool) -> None:
        if not answer.done():
            answer.set_result(found)

    def ask() -> None:
        found = _gets_answer(url, seconds)
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=ask, daemon=True, name="probe").start()
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        return False


def _gets_answer(url: str, seconds: float) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=seconds):  # noqa: S310 (a URL of the product's own)
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
