"""Addresses, TLS and the API key."""

from pathlib import Path

import pytest

from image_registry.client import AsyncImageRegistryClient, ImageRegistryClient, Tls
from image_registry.client.channel import ApiKey, target


@pytest.mark.parametrize("address", ["127.0.0.1:50051", "localhost:1", "[::1]:50051", "127.9.9.9:1", "unix:/run/x"])
def test_loopback_needs_no_tls(address: str) -> None:
    assert target(address, None).credentials is None


@pytest.mark.parametrize("address", ["registry.example.org:443", "10.0.0.1:50051", "[fe80::1]:50051"])
def test_beyond_loopback_tls_is_on_unless_it_is_switched_off(address: str) -> None:
    assert target(address, None).credentials is not None
    assert target(address, tls=False).credentials is None
    assert target(address, tls=True).credentials is not None


@pytest.mark.parametrize(
    "address", ["", "registry", "registry:", ":50051", "a:b", "x:0", "x:65536", "http://x:1", "a b:1"]
)
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="write host:port"):
        target(address, None)


def test_tls_particulars(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both"):
        Tls(certificate_file="cert.pem")
    with pytest.raises(FileNotFoundError):
        target("x.example:1", Tls(ca_file=tmp_path / "missing.pem"))
    assert ("grpc.ssl_target_name_override", "y") in target("x.example:1", Tls(server_name="y")).options


def test_the_key_goes_along_and_never_shows(tmp_path: Path) -> None:
    assert ApiKey(" secret-1 ").metadata() == (("rime-api-key", "secret-1"),)
    assert ApiKey().metadata() == ()
    client = ImageRegistryClient(api_key="secret-1")
    assert "secret-1" not in f"{client!r}{client._key!r}{AsyncImageRegistryClient(api_key='secret-1')!r}"


def test_a_key_file_is_read_for_each_call(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one\n")
    key = ApiKey(file=path)
    assert key.metadata() == (("rime-api-key", "one"),)
    path.write_text("two\n")
    assert key.metadata() == (("rime-api-key", "two"),)
    assert "two" not in repr(key)


@pytest.mark.parametrize("value", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_malformed_key_is_refused_without_showing_it(value: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the API key must be") as caught:
        ApiKey(value)
    assert not value or value not in str(caught.value)
    path = tmp_path / "key"
    path.write_text(value)
    with pytest.raises(ValueError, match=r"the API key in .* must be"):
        ApiKey(file=path).metadata()


def test_a_key_file_that_is_no_text_is_named_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"secret-\xff\xfe1")
    with pytest.raises(ValueError, match=r"^the API key in .*/key must be one line of printable ASCII") as caught:
        ApiKey(file=path).metadata()
    assert not isinstance(caught.value, UnicodeError), "it would hold the file's bytes"
    assert "secret" not in str(caught.value)


def test_a_key_comes_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        ApiKey("x", tmp_path)
