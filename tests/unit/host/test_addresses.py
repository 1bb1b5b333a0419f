"""Addresses as people write them."""

import re
import socket
from typing import Any

import pytest

from image_registry.host import StartError, with_variable
from image_registry.host.addresses import Address, check_free, free_port, is_loopback, parse_address
from image_registry.settings import PREFIX, Settings


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50051", Address("127.0.0.1", 50051)),
        ("[::1]:8080", Address("::1", 8080)),
        ("localhost:1", Address("localhost", 1)),
        ("  registry.example-1.com:65535 ", Address("registry.example-1.com", 65535)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
    ],
)
def test_read_and_write(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        *("", "8080", ":8080", "localhost", "localhost:", "localhost:http", "::1:8080", "[127.0.0.1]:1", "[::1]"),
        *("127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:999999", "256.1.1.1:80", "1.2.3:80", "[::g]:1", "a b:1"),
        *("http://x:1", "localhost:\N{ARABIC-INDIC DIGIT THREE}", "x:1/", "x:-1"),
    ],
)
def test_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(StartError, match="is no address: ") as refused:
        parse_address(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("192.0.2.1:1", False),
        ("no-such-host.invalid:1", False),
        ("a..b:1", False),
    ],
)
def test_loopback(text: str, loopback: bool) -> None:
    assert is_loopback(text) is loopback


def test_a_client_reaches_every_interface_over_loopback() -> None:
    assert Address("0.0.0.0", 1).reachable == Address("127.0.0.1", 1)
    assert Address("::", 1).reachable == Address("::1", 1)
    assert Address("192.0.2.1", 1).reachable == Address("192.0.2.1", 1)


def test_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address("127.0.0.1", server.getsockname()[1])
        with pytest.raises(StartError) as refused:
            check_free(address, "--grpc-address")
    named = "--grpc-address (IMAGE_REGISTRY_GRPC_ADDRESS)"
    assert str(refused.value) == f"{address} is taken: stop what listens there or choose another with {named}"


def test_a_port_that_a_variable_alone_sets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(StartError, match=r" with IMAGE_REGISTRY_X$"):
        check_free(Address("127.0.0.1", server.getsockname()[1]), "IMAGE_REGISTRY_X")


@pytest.mark.parametrize("option", ["--data-dir", "--grpc-address", "--http-address", "--insecure"])
def test_an_option_is_named_with_its_variable(option: str) -> None:
    variables = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    named = re.fullmatch(r"(--[a-z-]+) \((\w+)\)", with_variable(option))
    assert named is not None
    assert named[1] == option
    assert named[2] in variables


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b"])
def test_an_unknown_host(host: str) -> None:
    with pytest.raises(StartError, match=r"is unknown; choose another address with --grpc-address \("):
        check_free(Address(host, 1), "--grpc-address")
    with pytest.raises(StartError, match=r"is unknown; write an IP address$"):
        _ = Address(host, 1).resolved


@pytest.mark.parametrize("host", ["192.0.2.1", "::", "fe80::1%eth0"])
def test_an_ip_address_stands_for_itself(host: str) -> None:
    assert Address(host, 1).resolved == Address(host, 1)
    assert Address("localhost", 1).resolved == Address("127.0.0.1", 1)


@pytest.mark.parametrize("absent", ["2001:db8::1", "192.0.2.1"])
def test_a_name_stands_for_an_address_that_the_machine_lacks(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    """As `localhost` for ::1, where IPv6 is off."""
    original, asked = socket.getaddrinfo, ["127.0.0.1", absent]

    def resolve(_host: str, port: int, **options: Any) -> list[Any]:
        return [found for host in asked for found in original(host, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(2):
            with pytest.raises(StartError, match="is taken"):
                check_free(Address("localhost", server.getsockname()[1]), "--grpc-address")
            asked.reverse()
    for _ in range(2):
        check_free(Address("localhost", free_port()), "--grpc-address")
        asked.reverse()
    asked[:] = [absent]
    with pytest.raises(StartError, match="this machine has no address localhost"):
        check_free(Address("localhost", free_port()), "--grpc-address")


def test_free_port_is_free() -> None:
    check_free(Address("127.0.0.1", free_port()), "--grpc-address")


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        (Address("192.0.2.1", 8080), "this machine has no address 192.0.2.1"),
        (Address("no-such-host.invalid", 8080), "the host 'no-such-host.invalid' is unknown"),
    ],
)
def test_unusable_host(address: Address, problem: str) -> None:
    with pytest.raises(StartError, match=problem):
        check_free(address, "--http-address")
