"""When certificates end, against what openssl says."""

import base64
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from image_registry.host.certificates import authority_end, chain_end
from tests.fixtures.certificates import Authority


def as_openssl_says(certificate: Path) -> datetime:
    told = subprocess.run(
        ["openssl", "x509", "-noout", "-enddate", "-in", certificate], capture_output=True, text=True, check=True
    )
    text = told.stdout.strip().removeprefix("notAfter=")
    return datetime.strptime(text, "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("ca"))


@pytest.mark.parametrize("days", [1, 90, 9000, 40_000])  # from 2050 on the time has another form
def test_the_end_is_the_one_that_openssl_finds(authority: Authority, days: int) -> None:
    certificate, _ = authority.issue(f"good-for-{days}", days=days)
    assert chain_end(certificate.read_bytes()) == as_openssl_says(certificate)


@pytest.mark.parametrize("key", ["ec", "rsa:2048", "ed25519"])
def test_a_certificate_without_issuer_and_of_any_key(tmp_path: Path, key: str) -> None:
    certificate = tmp_path / "one.crt"
    curve = ["-pkeyopt", "ec_paramgen_curve:P-256"] if key == "ec" else []
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", key, *curve, "-nodes", "-days", "7", "-subj", "/CN=x"),
            *("-keyout", tmp_path / "key", "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    assert chain_end(certificate.read_bytes()) == as_openssl_says(certificate)


def test_a_chain_ends_with_its_first_and_a_bundle_of_authorities_with_its_last(authority: Authority) -> None:
    soon, late = (authority.issue(name, days=days)[0] for name, days in (("soon", 1), ("late", 9)))
    both = b"a remark\n" + soon.read_bytes() + b"\n" + late.read_bytes()
    assert chain_end(both) == as_openssl_says(soon)
    assert authority_end(both) == as_openssl_says(late)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_no_certificate_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"in it"):
        chain_end(text)


def test_half_a_certificate_is_a_value_error(authority: Authority) -> None:
    der = base64.b64decode(b"".join(authority.certificate.read_bytes().splitlines()[1:-1]))
    for length in range(len(der)):
        text = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der[:length]) + b"\n-----END CERTIFICATE-----\n"
        with pytest.raises(ValueError, match="damaged"):
            chain_end(text)
