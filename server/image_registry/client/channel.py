"""Where the service is and how to talk to it: address, TLS, API key."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import grpc

DEFAULT_ADDRESS = "127.0.0.1:50051"
LARGEST_RESPONSE = 64 << 20  # bytes; the service sends no larger messages
# While a call is under way, a server from which nothing comes is asked for a sign of life. Who goes away without a word
# (a stopped process, a forgotten NAT entry) is found out after both times; a followed log has no other end then.
PING_AFTER = 60_000  # ms of silence; the server takes no pings that are much more frequent (HARDENING in app.py)
PING_PATIENCE = 20_000  # ms until the answer
_ADDRESS = re.compile(r"(?:unix:\S+|(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+):(?P<port>\d{1,5}))", re.ASCII)
_KEY = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS particulars, as PEM files. Nothing set: the authorities that gRPC trusts by default.

    `certificate_file` and `key_file` (both or neither) are the client's own, for servers that ask for one;
    `server_name` is the name that the server's certificate has to show, where it differs from the address.
    """

    ca_file: Path | str | None = None
    certificate_file: Path | str | None = None
    key_file: Path | str | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("a client certificate needs both certificate_file and key_file")

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC makes of it. Raises OSError for a file that can't be read."""
        return grpc.ssl_channel_credentials(_read(self.ca_file), _read(self.key_file), _read(self.certificate_file))


class ApiKey:
    """An API key, given or in a file. Its value shows in no repr and no error.

    The file is read for each call, so that a key that was exchanged is used without a restart.
    """

    def __init__(self, value: str | None = None, file: Path | str | None = None) -> None:
        if value is not None and file is not None:
            raise ValueError("give api_key or api_key_file, not both")
        if value is not None:
            _check_key(value.strip(), "the API key")
        self._value = value
        self._file = Path(file) if file is not None else None

    def __repr__(self) -> str:
        return f"ApiKey(file={str(self._file)!r})" if self._file else "ApiKey(…)" if self._value else "ApiKey(None)"

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call carries. Raises OSError for an unreadable file, ValueError for one without a key."""
        if self._file is not None:
            text = self._file.read_text(encoding="ascii", errors="replace")
            key = _check_key(text.strip(), f"the API key in {self._file}")
        elif self._value is not None:
            key = self._value.strip()
        else:
            return ()
        return (("rime-api-key", key),)


@dataclass(frozen=True, slots=True)
class Target:
    """A server: `credentials` is None for a connection without TLS."""

    address: str
    credentials: grpc.ChannelCredentials | None
    server_name: str

    @property
    def options(self) -> list[tuple[str, str | int]]:
        """Channel options."""
        options: list[tuple[str, str | int]] = [
            ("grpc.max_receive_message_length", LARGEST_RESPONSE),
            ("grpc.primary_user_agent", f"image-registry-python/{_own_version()}"),
            ("grpc.keepalive_time_ms", PING_AFTER),
            ("grpc.keepalive_timeout_ms", PING_PATIENCE),
            ("grpc.http2.ping_timeout_ms", PING_PATIENCE),  # a minute otherwise, whatever the one above says
            ("grpc.http2.max_pings_without_data", 0),  # no bound: a log may be silent for long
        ]
        if self.server_name:
            options.append(("grpc.ssl_target_name_override", self.server_name))
        return options


def target(address: str, tls: Tls | bool | None) -> Target:
    """The server at 'host:port'. `tls` of None means TLS unless the address is this machine's loopback.

    Raises ValueError for a malformed address.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or (match["port"] and not 0 < int(match["port"]) < 65536):
        raise ValueError(f"{address!r} is no address: write host:port, such as {DEFAULT_ADDRESS}")
    if tls is None:
        tls = not is_loopback(address)
    if tls is False:
        return Target(address, None, "")
    chosen = Tls() if tls is True else tls
    return Target(address, chosen.credentials(), chosen.server_name)


def is_loopback(address: str) -> bool:
    """Whether 'host:port' is this machine's, told without asking a name server."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_key(key: str, what: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"{what} must be one line of printable ASCII without spaces")
    return key


def _read(file: Path | str | None) -> bytes | None:
    return None if file is None else Path(file).read_bytes()


def _own_version() -> str:
    try:
        return version("image-registry")
    except PackageNotFoundError:
        return "0"
