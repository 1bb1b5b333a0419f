"""Network addresses as people write them, and whether they are free."""

import contextlib
import errno
import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_registry.host import StartError, with_variable


@dataclass(frozen=True)
class Address:
    """Where a server listens: a host name, an IPv4 or IPv6 address (without brackets), and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address, whatever a host name in it resolves to."""
        try:
            return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            found = _resolve(self)
            return bool(found) and all(ipaddress.ip_address(str(host[0])).is_loopback for _, host in found)

    @property
    def reachable(self) -> "Address":
        """The address for a client on this machine: loopback instead of 'every interface'."""
        return Address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host), self.port)  # noqa: S104

    @property
    def resolved(self) -> "Address":
        """The address with an IP address in place of a host name, an IPv4 one if there is one. Raises StartError."""
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(self.host)
            return self
        found = sorted(_resolve(self), key=lambda one: one[0] != socket.AF_INET)
        if not found:
            raise StartError(f"{self}: the host {self.host!r} is unknown; write an IP address")
        return Address(str(found[0][1][0]), self.port)


def parse_address(text: str) -> Address:
    """Read '127.0.0.1:8080', '[::1]:8080' or 'localhost:8080'.

    Raises StartError with one sentence that shows the right form.
    """
    match = re.fullmatch(
        r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[\w.-]+)):(?P<port>[0-9]{1,5})", text.strip(), re.ASCII
    )
    if match is None:
        raise StartError(f"{text!r} is no address: write host:port, such as 127.0.0.1:8080 or [::1]:8080")
    port = int(match["port"])
    if not 0 < port < 65536:
        raise StartError(f"{text!r} is no address: a port is a number from 1 to 65535")
    for host, wanted in ((match["v6"], ipaddress.IPv6Address), (match["host"], ipaddress.IPv4Address)):
        if host and (wanted is ipaddress.IPv6Address or re.fullmatch(r"[0-9.]+", host)):
            try:
                wanted(host)
            except ValueError:
                raise StartError(f"{text!r} is no address: {host} is not a valid IP address") from None
    return Address(match["v6"] or match["host"], port)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach 'host:port'. Raises StartError when it isn't an address."""
    return parse_address(address).is_loopback


def check_free(address: Address, option: str) -> None:
    """Raise StartError, naming the `option` (or variable) to change, unless something could listen on `address` now.

    Of what a name stands for this machine needn't have all: `localhost` is ::1 as well where IPv6 is off.
    """
    found = _resolve(address)
    changed_by = with_variable(option) if option.startswith("--") else option
    if not found:
        raise StartError(f"{address}: the host {address.host!r} is unknown; choose another address with {changed_by}")
    absent = []
    for family, target in found:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(target)
                probe.listen(1)
        except OSError as error:
            absent.append(error)
            if error.errno not in _ABSENT or len(absent) == len(found):
                raise StartError(_cannot_listen(address, changed_by, error)) from error


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fits_socket(path: Path) -> bool:
    """Whether the kernel takes a path of this length for a Unix socket (unix(7): 108 bytes with the last one's NUL)."""
    return len(os.fsencode(path)) <= 107


def _resolve(address: Address) -> list[tuple[int, tuple[Any, ...]]]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):  # the latter for what can't be a host name, such as a..b
        return []
    return [(family, target) for family, _, _, _, target in found]


_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # no such address here, or no IPv6 at all


def _cannot_listen(address: Address, changed_by: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{address} is taken: stop what listens there or choose another with {changed_by}"
    if error.errno == errno.EACCES:
        return f"{address}: this user may not listen on that port; choose one above 1023 with {changed_by}"
    if error.errno in _ABSENT:
        return f"{address}: this machine has no address {address.host}; choose another with {changed_by}"
    return f"{address} can't be listened on ({error.strerror}); choose another with {changed_by}"
