"""Fetching wheels from a package index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import httpx

from image_registry.builds.faults import UnavailableError
from image_registry.builds.http import check_answer, download, new_client, with_retries
from image_registry.builds.plan import PackageIndex, internal, retryable
from image_registry.builds.resolve import Wheel

_Origin = tuple[str, str, int | None]
# A wheel is packed already; an encoding on top of it would change its bytes.
_HEADERS = {"Accept-Encoding": "identity"}


@contextmanager
def wheel_downloads(index: PackageIndex, largest: int) -> Iterator[Callable[[Wheel, Path], None]]:
    """Give a function that writes a wheel to a path; threads may share it. A digest is the caller's to check.

    `largest` bounds a wheel whose size the index doesn't give. The function raises BuildFailed: RETRYABLE after
    several attempts, INTERNAL when the index doesn't give the file.
    """
    credentials = dict(_credentials(index))

    def fetch(wheel: Wheel, path: Path) -> None:
        url = urlsplit(wheel.url)
        if url.scheme not in {"http", "https"}:
            internal(f"The package index offers {wheel.filename} at an address that is neither http: nor https:.")

        def once() -> None:
            with client.stream("GET", wheel.url, headers=_HEADERS, auth=credentials.get(_origin(url))) as response:
                check_answer(response, wheel.filename)
                download(response, path, wheel.size or largest, wheel.filename)

        try:
            with_retries(once, wheel.filename)
        except UnavailableError as error:
            fail = retryable if error.is_transient else internal
            fail(f"The package index doesn't give a file that it lists ({error}).", error)

    with new_client(index.ca_bundle) as client:
        yield fetch


def _credentials(index: PackageIndex) -> Iterator[tuple[_Origin, httpx.BasicAuth]]:
    """Yield the credentials of each index; files get them when they are at the same scheme, host and port."""
    for address in (index.url, *index.extra_urls):
        url = urlsplit(address)
        if url.username is not None:
            yield _origin(url), httpx.BasicAuth(unquote(url.username), unquote(url.password or ""))


def _origin(url: SplitResult) -> _Origin:
    return url.scheme, (url.hostname or "").lower(), url.port or {"http": 80, "https": 443}.get(url.scheme)
