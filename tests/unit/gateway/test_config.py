"""Envoy's configuration: both renderings hold, and the committed one is the rendered one."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from image_registry.gateway import config
from image_registry.gateway.config import (
    GatewayOptions,
    ListenerTls,
    TraceCollector,
    UpstreamTls,
    render,
    render_secrets,
)
from image_registry.gateway.process import find_envoy
from image_registry.host.addresses import Address
from tests.fixtures.certificates import Authority

REPOSITORY = Path(__file__).parents[3]
COMMITTED = REPOSITORY / "deploy" / "envoy"
EMBEDDED = GatewayOptions(listen=Address("127.0.0.1", 8080), upstreams=(Address("127.0.0.1", 50051),))


def test_committed_rendering_is_current(tmp_path: Path) -> None:
    """`python -m image_registry.gateway.config deploy/envoy` brings it up to date."""
    config.main([str(tmp_path)])
    for made in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert (COMMITTED / made.relative_to(tmp_path)).read_text() == made.read_text()


def test_main_file_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    config.main([])
    assert capsys.readouterr().out == (COMMITTED / "envoy.yaml").read_text()


def test_envoy_accepts_the_embedded_rendering(tmp_path: Path) -> None:
    validate(EMBEDDED, tmp_path)


def test_envoy_accepts_the_production_rendering(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    certificate, key = authority.issue("server")
    validate(
        replace(
            config.production_options(),
            descriptor_set=config.descriptor_set_path(),
            documents=REPOSITORY / "docs",
            tls=ListenerTls(certificate, key),
            upstream_tls=UpstreamTls(authority.certificate, "image-registry", certificate, key),
        ),
        tmp_path,
    )


def test_envoy_accepts_every_option_at_once(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    certificate, key = authority.issue("server")
    options = GatewayOptions(
        listen=Address("::1", 8443),
        upstreams=(Address("a.example", 1), Address("192.0.2.1", 2), Address("2001:db8::1", 3)),
        admin=Address("127.0.0.1", 9901),
        metrics=Address("::1", 9464),
        collector=TraceCollector("https://collector.example:4318"),
        tls=ListenerTls(certificate, key, client_ca=authority.certificate),
        upstream_tls=UpstreamTls(authority.certificate, "image-registry"),
        trusted_hops=2,
        cors_origins=("https://a.example", "https://\"quoted'.example"),
        access_log=tmp_path / "access: log.json",
    )
    validate(options, tmp_path)


def validate(options: GatewayOptions, folder: Path) -> None:
    """Let Envoy load the rendering, with warnings about deprecated fields taken for errors."""
    options = replace(options, secrets_dir=folder)
    for name, text in {"envoy.yaml": render(options), **render_secrets(options)}.items():
        (folder / name).write_text(text)
    done = subprocess.run(
        [find_envoy(), "--mode", "validate", "--log-level", "warning", "-c", folder / "envoy.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_of_production_is_missing() -> None:
    text = (COMMITTED / "envoy.yaml").read_text()
    rendered: Any = yaml.safe_load(text)
    assert rendered["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    listener, metrics = rendered["static_resources"]["listeners"]
    manager = metrics["filter_chains"][0]["filters"][0]["typed_config"]
    [route] = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert (route["match"]["path"], route["route"]["cluster"]) == ("/metrics", "admin")
    (chain,) = listener["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    assert chain["transport_socket"]["name"] == "envoy.transport_sockets.tls"
    assert manager["use_remote_address"] is True
    assert "json_format" in manager["access_log"][0]["typed_config"]["log_format"]
    _, cluster = rendered["static_resources"]["clusters"]
    assert cluster["transport_socket"]["name"] == "envoy.transport_sockets.tls"
    assert {"outlier_detection", "health_checks", "circuit_breakers"} <= set(cluster)
    names = [entry["name"] for entry in manager["http_filters"]]
    assert "envoy.filters.http.cors" not in names
    assert names[-1] == "envoy.filters.http.router"


def test_no_secret_reaches_the_access_log() -> None:
    rendered: Any = yaml.safe_load(render(replace(EMBEDDED, access_log=Path("/dev/stdout"))))
    manager = rendered["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    logged = manager["access_log"][0]["typed_config"]["log_format"]["json_format"].values()
    assert not any("KEY" in text.upper() or "AUTHORIZATION" in text.upper() for text in logged)
    assert [text for text in logged if "PATH" in text] == ["%PATH(NQ:ORIG_OR_PATH)%"]


def test_values_cannot_break_out_of_the_text() -> None:
    hostile = '/x"}\n- evil: {{ 7 * 7 }} \N{SNOWMAN}'
    rendered: Any = yaml.safe_load(render(replace(EMBEDDED, access_log=Path(hostile), cors_origins=(hostile,))))
    manager = rendered["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["access_log"][0]["typed_config"]["path"] == hostile


def test_the_environment_plays_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    before = render(EMBEDDED)
    for name in list(os.environ):
        monkeypatch.delenv(name)
    assert render(EMBEDDED) == before
