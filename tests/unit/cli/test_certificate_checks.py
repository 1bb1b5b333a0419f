"""What `doctor` says about certificates, at different times."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from image_registry.cli.certificate_checks import certificates
from image_registry.cli.findings import State
from tests.fixtures.certificates import Authority
from tests.fixtures.service import make_settings


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("ca"))


def test_nothing_is_said_where_there_are_none() -> None:
    assert certificates(make_settings(), datetime.now(UTC)) == []


def test_the_nearest_end_decides(authority: Authority) -> None:
    served = authority.issue("served", days=100)
    gateway = authority.issue("gateway", days=60)
    settings = make_settings(
        tls_certificate=served[0], tls_key=served[1], http_tls_certificate=gateway[0], http_tls_key=gateway[1]
    )
    now = datetime.now(UTC)
    [well] = certificates(settings, now)
    assert (well.state, well.part) == (State.OK, "certificates")
    assert well.text == f"2 configured, the first of them is good until {now + timedelta(days=60):%Y-%m-%d}"
    [soon] = certificates(settings, now + timedelta(days=50))
    assert soon.state is State.NOTICE
    assert str(gateway[0]) in soon.text
    assert "(IMAGE_REGISTRY_HTTP_TLS_CERTIFICATE)" in soon.text
    assert "in 9 days" in soon.text
    assert "without a restart" in soon.remedy
    over = certificates(settings, now + timedelta(days=101))
    assert [finding.state for finding in over] == [State.BROKEN, State.BROKEN]
    assert all("ended on" in finding.text for finding in over)


def test_files_that_are_gone_or_nonsense_are_named(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("not a certificate")
    settings = make_settings(upstream_ca=tmp_path / "ca", http_tls_certificate=tmp_path / "no", http_tls_key=tmp_path)
    found = {finding.text: finding for finding in certificates(settings, datetime.now(UTC))}
    assert {finding.state for finding in found.values()} == {State.BROKEN}
    assert sorted(found) == [
        f"{tmp_path}/ca (IMAGE_REGISTRY_UPSTREAM_CA) can't be used: there is no certificate in it",
        f"{tmp_path}/no (IMAGE_REGISTRY_HTTP_TLS_CERTIFICATE) can't be read: No such file or directory",
    ]
