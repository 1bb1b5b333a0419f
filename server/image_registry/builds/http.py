"""HTTP for builds: which certificates to trust, when to try again, and downloads of a bounded size."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeAlias, TypeVar

import httpx

from image_registry.builds.faults import UnavailableError

Result = TypeVar("Result")
_Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

_WAITS = (0.5, 1.5, 4.0)
_LONGEST_WAIT = 30.0
UNTRUSTED = 495
"""Stands in an UnavailableError for a certificate of no known authority, which has no HTTP status."""
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)


def new_client(ca_bundle: Path | None = None, *, also: Path | None = None) -> httpx.Client:
    """Return a client that trusts the certificates of `ca_bundle`, else those of the machine and of `also`.

    It follows redirects, but not to this machine, to a cloud's metadata address, or from https to http.
    Raises OSError for a file that can't be read.
    """
    return httpx.Client(
        verify=_tls_context(ca_bundle, also),
        timeout=_TIMEOUT,
        follow_redirects=True,
        max_redirects=5,
        event_hooks={"response": [_check_redirect]},
    )


def _check_redirect(response: httpx.Response) -> None:
    """A server may send us on, but not make us ask what only this machine can reach. Raises UnavailableError.

    Names are looked up here and again by the connection: a name that changes in between gets through.
    """
    if not response.has_redirect_location:
        return
    origin = response.url
    try:
        target = origin.join(response.headers["location"])
    except (httpx.InvalidURL, ValueError):
        raise _refused(origin, "what is no address") from None
    if target.scheme not in {origin.scheme, "https"}:
        raise _refused(origin, f"{target.scheme or 'no'} addresses")
    if target.host == origin.host:
        return
    inside = [address for address in _addresses(target.host) if _is_inside(address)]
    if inside and not (_all_loopback(origin.host) and _all_loopback(target.host)):
        raise _refused(origin, f"an address that only this machine can reach ({inside[0]})")


def _refused(origin: httpx.URL, where: str) -> UnavailableError:
    return UnavailableError(f"{origin.host} redirects to {where}, which is not followed", 403)


def _is_inside(address: _Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified or mapped.is_multicast)


def _all_loopback(host: str) -> bool:
    found = _addresses(host)
    return bool(found) and all(address.is_loopback for address in found)


def _addresses(host: str) -> list[_Address]:
    """What a host's name stands for; empty: nothing, so that the connection will fail by itself."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]


def _tls_context(ca_bundle: Path | None, also: Path | None) -> ssl.SSLContext:
    if ca_bundle is not None:
        return ssl.create_default_context(cafile=str(ca_bundle))
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        context = ssl.create_default_context()
    else:
        import certifi  # noqa: PLC0415 (for machines without certificates of their own)

        context = ssl.create_default_context(cafile=certifi.where())
    if also is not None:
        context.load_verify_locations(cafile=str(also))
    return context


def check_answer(response: httpx.Response, what: str) -> None:
    """Raise UnavailableError unless the answer is a success. `what` names the request without credentials."""
    if response.is_success:
        return
    raise UnavailableError(
        f"{what}: HTTP {response.status_code} {response.reason_phrase}".rstrip(),
        response.status_code,
        _seconds(response.headers.get("retry-after", "")),
    )


def _seconds(retry_after: str) -> float:
    """A `Retry-After` as a span from now: it is a number of seconds or a date (RFC 9110, 10.2.3)."""
    if retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return 0.0


def with_retries(action: Callable[[], Result], what: str, sleep: Callable[[float], object] | None = None) -> Result:
    """Run an action that uses the network; after a fault that may pass, wait and run it again, three times at most.

    The waits grow; a server's `Retry-After` is obeyed up to 30 s. Raises UnavailableError, and what `sleep` does.
    """
    for wait in _WAITS:
        try:
            return run_once(action, what)
        except UnavailableError as fault:
            if not fault.is_transient:
                raise
            wait_for(fault, wait, sleep)
    return run_once(action, what)


def wait_for(fault: UnavailableError, wait: float, sleep: Callable[[float], object] | None = None) -> None:
    """Sleep for `wait` seconds, or for as long as the server asked, up to 30 s."""
    (sleep or time.sleep)(min(max(wait, fault.retry_after), _LONGEST_WAIT))


def run_once(action: Callable[[], Result], what: str) -> Result:
    """Run an action that uses the network. Raises UnavailableError for every fault of it."""
    try:
        return action()
    except httpx.HTTPError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise UnavailableError(f"{what}: its certificate is not trusted", UNTRUSTED) from error
        raise UnavailableError(f"{what}: {type(error).__name__}", 0) from error


def download(response: httpx.Response, path: Path, limit: int, what: str) -> None:
    """Write a streamed answer's body to a file. Raises UnavailableError when it is cut off or above `limit` bytes."""
    size = 0
    with path.open("wb") as file:
        for chunk in response.iter_raw():
            size += len(chunk)
            if size > limit:
                raise UnavailableError(f"{what}: more than the expected {limit} bytes", 413)
            file.write(chunk)
