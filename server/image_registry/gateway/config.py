"""Envoy's configuration, rendered from one template for every deployment.

`python -m image_registry.gateway.config deploy/envoy` writes the production rendering there, with placeholder paths
that `deploy/envoy/README.md` explains; without a folder it prints the main file.
"""

import importlib.resources
import ipaddress
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2

from image_registry.gateway.rest_paths import read_interface
from image_registry.host.addresses import Address

MIB = 1024 * 1024
STANDARD_SERVICES = (  # native gRPC only
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)


def descriptor_set_path() -> Path:
    """Return the installed descriptor set of the product's protos."""
    return Path(str(importlib.resources.files("ri") / "api/imageregistry/descriptor_set.binpb"))


@dataclass(frozen=True)
class ListenerTls:
    """Certificate files (PEM) of the listener; with `client_ca` a client must show a certificate of it."""

    certificate: Path
    private_key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class UpstreamTls:
    """How to reach the gRPC servers: their authority, their name, and (mTLS) the own certificate; PEM files."""

    ca: Path
    server_name: str
    certificate: Path | None = None
    private_key: Path | None = None


@dataclass(frozen=True)
class TraceCollector:
    """An OpenTelemetry collector that takes OTLP over HTTP: its base URL, such as `http://collector:4318`.

    `ca`: the authority of its certificate (PEM), if it is reached by TLS.
    """

    url: str
    ca: Path = Path("/etc/ssl/certs/ca-certificates.crt")

    @property
    def encrypted(self) -> bool:
        """Whether it is reached by TLS."""
        return urlsplit(self.url).scheme == "https"

    @property
    def host(self) -> str:
        """Its host name or IP address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Its port."""
        return urlsplit(self.url).port or (443 if self.encrypted else 80)


@dataclass(frozen=True)
class GatewayOptions:
    """Everything that differs between deployments. Sizes are in bytes, times in seconds.

    - `upstreams`: the gRPC servers; a host name is resolved again and again, and every address of it is used.
    - `share_port`: spread connections well over many cores; a second Envoy could then listen here unnoticed.
    - `documents`: the folder with `openapi.json` and `openapi.html`, which are served as /openapi.json and /docs;
      None: they are not.
    - `admin`: where Envoy's admin interface listens, an address or a Unix socket's path; None: nowhere.
    - `metrics`: where Envoy's statistics are for Prometheus, at /metrics; needs `admin`, and shows nothing else of it.
    - `secrets_dir`: where Envoy finds the files of `render_secrets`.
    - `trusted_hops`: proxies in front whose `x-forwarded-for` is believed; 0: what callers send is dropped.
    - `cors_origins`: origins whose pages may call, over REST and gRPC-Web; none: both are off.
    - `request_timeout`: of a REST call, in whole seconds (gRPC callers set their own deadline).
    - `stream_timeout`: the longest life of a streaming or native gRPC call.
    - `access_log`: a file, such as /dev/stdout, for a JSON line per request; None: no log.
    - `collector`: where spans go; None: there are none, and a caller's `traceparent` is passed on as it is.
    """

    listen: Address
    upstreams: tuple[Address, ...]
    share_port: bool = False
    descriptor_set: Path = field(default_factory=descriptor_set_path)
    documents: Path | None = None
    admin: Address | Path | None = None
    metrics: Address | None = None
    tls: ListenerTls | None = None
    upstream_tls: UpstreamTls | None = None
    secrets_dir: Path = Path("/etc/envoy/secrets")
    trusted_hops: int = 0
    cors_origins: tuple[str, ...] = ()
    max_request_bytes: int = MIB
    max_response_bytes: int = 64 * MIB
    max_connections: int = 10_000
    request_timeout: int = 30
    stream_timeout: int = 3600
    idle_timeout: int = 300
    connect_timeout: float = 1.0
    health_interval: float = 0.25
    access_log: Path | None = None
    collector: TraceCollector | None = None


@dataclass(frozen=True)
class Document:
    """A file of `GatewayOptions.documents` that Envoy serves by itself."""

    path: str
    file: str
    content_type: str


DOCUMENTS = (
    Document("/openapi.json", "openapi.json", "application/json"),
    Document("/docs", "openapi.html", "text/html; charset=utf-8"),
)

_LATER = "%[89AB][0-9A-F]"  # any byte of a character but its first
WELL_FORMED = (  # printable ASCII, and escapes that are UTF-8 (RFC 3629, section 4) and not NUL
    "(?i:"
    "[!-$&-~]|%0[1-9A-F]|%[1-7][0-9A-F]"
    f"|%(?:C[2-9A-F]|D[0-9A-F]){_LATER}"
    f"|(?:%E0%[AB][0-9A-F]|%E[1-9A-CEF]{_LATER}|%ED%[89][0-9A-F]){_LATER}"
    f"|(?:%F0%[9AB][0-9A-F]|%F[1-3]{_LATER}|%F4%8[0-9A-F]){_LATER}{_LATER}"
    ")*"
)
DISGUISED = r"[^?]*\?(?:.*&)?[^=&%]*%.*"  # an escape in the name of a query parameter


@dataclass(frozen=True)
class LocalReply:
    """What a refusal by the proxy itself looks like: HTTP status, google.rpc.Code, text.

    `condition` (CEL) picks among refusals of one status by Envoy's `response.code_details`.
    """

    status: int
    code: int
    message: str
    condition: str = "true"


_HAS_TEXT = 'response.code_details == "direct_response" || response.code_details.contains("grpc_json_transcode")'
_TEXT, _DETAILS = "%LOCAL_REPLY_BODY%", "%RESPONSE_CODE_DETAILS%"

LOCAL_REPLIES = (
    LocalReply(400, 3, _TEXT, _HAS_TEXT),
    LocalReply(
        400,
        3,
        "the path holds a fragment, or an escape that is not allowed, such as %%2F",
        'response.code_details == "path_normalization_failed"',
    ),
    LocalReply(400, 3, f"the request is not proper HTTP, or not allowed here ({_DETAILS})"),
    LocalReply(401, 16, f"the caller is not known ({_DETAILS})"),
    LocalReply(403, 7, f"this is not allowed here ({_DETAILS})"),
    LocalReply(404, 5, _TEXT, _HAS_TEXT),
    LocalReply(404, 5, "no such path"),
    LocalReply(405, 12, _TEXT),
    LocalReply(408, 4, "the request did not arrive in time"),
    LocalReply(413, 3, "the request body is too large"),
    LocalReply(426, 9, "HTTP/1.1 or HTTP/2 is needed"),
    LocalReply(429, 8, "too many requests"),
    LocalReply(431, 3, "the request headers are too large"),
    LocalReply(502, 14, "the service gave no valid answer"),
    LocalReply(503, 14, "the service is not available right now; try again in a moment"),
    LocalReply(504, 4, "the service did not answer in time"),
)


def render(options: GatewayOptions) -> str:
    """Return Envoy's configuration (YAML) for `options`.

    The paths are those of the installed descriptor set; `options.descriptor_set` is where Envoy will find it.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("image_registry.gateway", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (YAML: every value passes through `q`)
    )
    environment.filters["q"] = json.dumps  # JSON is YAML
    environment.filters["address"] = _envoy_address
    environment.filters["is_ip"] = _is_ip
    return environment.get_template("envoy.yaml.j2").render(
        o=options,
        interface=read_interface(descriptor_set_path()),
        well_formed=WELL_FORMED,
        disguised=DISGUISED,
        standard_services=STANDARD_SERVICES,
        local_replies=LOCAL_REPLIES,
        documents=DOCUMENTS if options.documents else (),
        static_upstreams=all(_is_ip(upstream.host) for upstream in options.upstreams),
    )


def render_secrets(options: GatewayOptions) -> dict[str, str]:
    """Return the files that `options.secrets_dir` must hold: name to text (YAML). Without TLS there are none.

    They name certificate files; Envoy watches those and takes renewed ones without a restart.
    """
    secrets: dict[str, dict[str, object]] = {}
    if tls := options.tls:
        secrets["listener"] = _certificate(tls.certificate, tls.private_key)
        if tls.client_ca:
            secrets["client-ca"] = _authority(tls.client_ca)
    if upstream := options.upstream_tls:
        secrets["upstream-ca"] = _authority(upstream.ca)
        if upstream.certificate and upstream.private_key:
            secrets["upstream"] = _certificate(upstream.certificate, upstream.private_key)
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    return {
        f"{name}.yaml": json.dumps({"resources": [{"@type": kind, "name": name, **secret}]}, indent=2) + "\n"
        for name, secret in secrets.items()
    }


def _certificate(certificate: Path, private_key: Path) -> dict[str, object]:
    files = {"certificate_chain": {"filename": str(certificate)}, "private_key": {"filename": str(private_key)}}
    return {"tls_certificate": files}


def _authority(ca: Path) -> dict[str, object]:
    return {"validation_context": {"trusted_ca": {"filename": str(ca)}}}


def production_options() -> GatewayOptions:
    """The deployment that `deploy/envoy/envoy.yaml` shows; its paths and names are placeholders to replace."""
    certificates = Path("/etc/envoy/certificates")
    return GatewayOptions(
        listen=Address("0.0.0.0", 8443),  # noqa: S104
        upstreams=(Address("image-registry", 50051),),
        share_port=True,
        descriptor_set=Path("/etc/envoy/descriptor_set.binpb"),
        documents=Path("/etc/envoy"),
        admin=Address("127.0.0.1", 9901),
        metrics=Address("0.0.0.0", 9464),  # noqa: S104
        tls=ListenerTls(certificates / "tls.crt", certificates / "tls.key"),
        upstream_tls=UpstreamTls(
            ca=certificates / "upstream-ca.crt",
            server_name="image-registry",
            certificate=certificates / "client.crt",
            private_key=certificates / "client.key",
        ),
        health_interval=1.0,
        access_log=Path("/dev/stdout"),
    )


def _envoy_address(address: Address | Path) -> dict[str, Any]:
    if isinstance(address, Path):
        return {"pipe": {"path": str(address), "mode": 0o600}}
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def main(arguments: list[str]) -> None:
    """Print the production rendering, or write it with its secrets to the folder that is named."""
    options = production_options()
    if not arguments:
        sys.stdout.write(render(options))
        return
    folder = Path(arguments[0])
    (folder / "secrets").mkdir(parents=True, exist_ok=True)
    (folder / "envoy.yaml").write_text(render(options))
    for name, text in render_secrets(options).items():
        (folder / "secrets" / name).write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
