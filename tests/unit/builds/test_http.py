"""Redirects of registries and indexes: followed, but not to what only this machine can reach."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from image_registry.builds.faults import UnavailableError
from image_registry.builds.http import _check_redirect, new_client


@pytest.mark.parametrize(
    "location",
    [
        "http://203.0.113.9/blob",
        "https://127.0.0.1/blob",
        "https://127.1.2.3/blob",
        "https://localhost/blob",
        "https://0.0.0.0/blob",
        "https://2130706433/blob",
        "https://[::1]/blob",
        "https://[::ffff:127.0.0.1]/blob",
        "https://[::ffff:169.254.169.254]/latest/meta-data",
        "https://169.254.169.254/latest/meta-data",
        "https://[fe80::1]/blob",
        "https://224.0.0.1/blob",
        "file:///etc/passwd",
        "gopher://203.0.113.9/",
    ],
)
def test_not_followed(location: str) -> None:
    with pytest.raises(UnavailableError, match="not followed") as caught:
        _check_redirect(_redirect("https://198.51.100.7/v2/x", location))
    assert not caught.value.is_transient


@pytest.mark.parametrize(
    ("origin", "location"),
    [
        ("https://198.51.100.7/v2/x", "https://203.0.113.9/blob"),
        ("https://198.51.100.7/v2/x", "https://10.1.2.3/blob"),
        ("https://198.51.100.7/v2/x", "/other"),
        ("http://198.51.100.7/v2/x", "https://203.0.113.9/blob"),
        ("http://127.0.0.1:5000/v2/x", "http://127.0.0.1:6000/blob"),
        ("http://127.0.0.1:5000/v2/x", "http://localhost:6000/blob"),
    ],
)
def test_followed(origin: str, location: str) -> None:
    _check_redirect(_redirect(origin, location))


@pytest.fixture
def redirecting() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("location", "http://169.254.169.254/latest/meta-data")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_the_client_checks(redirecting: str) -> None:
    with new_client(None) as client, pytest.raises(UnavailableError, match=r"169\.254\.169\.254"):
        client.get(redirecting)


def _redirect(origin: str, location: str) -> httpx.Response:
    return httpx.Response(307, headers={"location": location}, request=httpx.Request("GET", origin))
