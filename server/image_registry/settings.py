"""The configuration: the one place that reads the environment. Everything else gets values as arguments.

Each field is an environment variable with the prefix `IMAGE_REGISTRY_`: `database_url` is
`IMAGE_REGISTRY_DATABASE_URL`. A list is written with commas, a map as `key=value` pairs with commas.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from image_registry.models import PackageType, Role
from image_registry.requirements import pip_name_fault, pip_specifier_fault

PREFIX = "IMAGE_REGISTRY_"
SECRETS_DIR = f"{PREFIX}SECRETS_DIR"
OFFICIAL_BASES = {v: f"docker.io/library/python:{v}-slim" for v in ("3.9", "3.10", "3.11", "3.12", "3.13")}

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
_PATH = r"[a-z0-9]+(?:[._-][a-z0-9]+)*(?:/[a-z0-9]+(?:[._-][a-z0-9]+)*)*"
_DOCKER_HUB = {"docker.io", "index.docker.io", "registry-1.docker.io"}


class SettingsError(Exception):
    """The configuration can't be used; the text names every faulty variable and what would be right."""


class Settings(BaseSettings):
    """Typed configuration with its defaults. Durations are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, validate_default=True)

    database_url: SecretStr | None = Field(None, description="Postgres to use; empty: `up` brings its own")
    data_dir: Path = Field(
        Path(platformdirs.user_data_dir("image-registry")),
        description="where `up` keeps its database, images, caches and logs",
    )
    grpc_address: str = Field("127.0.0.1:50051", description="where the gRPC server listens")
    http_address: str = Field("127.0.0.1:8080", description="where the gateway (REST) listens")
    insecure: bool = Field(
        False, description="allow listening beyond loopback although callers aren't checked, or in plain text"
    )
    auth: str = Field(
        "none", pattern="^(none|keys)$", description="`keys`: callers need an API key; `none`: they don't"
    )
    certificate_roles: Annotated[dict[str, str], NoDecode] = Field(
        {}, description="role of callers with a client certificate and no key, by its name: `ci.example.com=member,…`"
    )
    key_requests: float = Field(
        100.0, ge=0, description="requests per second of one key to one server process; 0: no limit"
    )
    key_queued_builds: int = Field(100, ge=0, description="unfinished builds of one key; 0: no limit")
    key_images: int = Field(10_000, ge=0, description="images created by one key; 0: no limit")
    tls_certificate: Path | None = Field(None, description="certificate chain of the gRPC server, PEM")
    tls_key: Path | None = Field(None, description="private key of that certificate, PEM")
    tls_client_ca: Path | None = Field(None, description="every gRPC caller must show a certificate of this CA, PEM")
    http_tls_certificate: Path | None = Field(None, description="certificate chain of the gateway, PEM")
    http_tls_key: Path | None = Field(None, description="private key of that certificate, PEM")
    http_tls_client_ca: Path | None = Field(None, description="every REST caller must show a certificate of this CA")
    upstream_ca: Path | None = Field(None, description="the gateway reaches the gRPC server by TLS and trusts this CA")
    upstream_name: str = Field("image-registry", description="name in the gRPC server's certificate")
    upstream_certificate: Path | None = Field(None, description="certificate that the gateway shows the gRPC server")
    upstream_key: Path | None = Field(None, description="private key of that certificate, PEM")

    platform_tag: str = Field(
        "local", pattern=r"^\w[\w.-]{0,127}$", description="version of the platform's wheels; recorded with every build"
    )
    platform_requirements: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="pip requirements that every system image holds, with commas"
    )
    base_images: Annotated[dict[str, str], NoDecode] = Field(
        OFFICIAL_BASES, description="base image of each supported Python: `3.11=docker.io/library/python:3.11-slim,…`"
    )
    default_python: str = Field("", description="Python of a request that names none; empty: the newest supported")
    base_packages: PackageType = Field(
        PackageType.APT, description="system packages that the bases take: APT, ROCKYLINUX"
    )

    repository: str = Field(
        "", description="where built images go: `oci:/absolute/folder` or `host[:port][/path]`; empty: in the data dir"
    )
    repository_prefix: str = Field("managed", description="path below the repository; nothing outside is touched")
    repository_username: str = Field("", description="user of that registry, if Docker's config or the cloud has none")
    repository_password: SecretStr | None = Field(None, description="password or token of that user")
    docker_config: Path | None = Field(
        None, description="folder of Docker's `config.json`, for credentials; empty: `DOCKER_CONFIG`, else `~/.docker`"
    )
    registry_ca_bundle: Path | None = Field(
        None, description="authorities to trust for container registries besides the machine's own, PEM"
    )
    registry_endpoints: Annotated[dict[str, str], NoDecode] = Field(
        {}, description="where registries really are: `localhost:5000=http://localhost:5000,docker.io=https://mirror,…`"
    )
    index_url: SecretStr | None = Field(None, description="package index in place of PyPI; may hold credentials")
    index_ca_bundle: Path | None = Field(None, description="certificates to trust for the package index")

    legacy_page_echo: bool = Field(False, description="end listings as gRPC clients of rime-sdk up to 0.18 expect it")
    processes: int = Field(
        1, ge=1, le=64, description="server processes on the gRPC port, for machines with many cores"
    )
    pool_size: int = Field(16, ge=1, description="database connections of one server process")
    pool_wait: float = Field(5.0, gt=0, description="longest wait for a connection")
    statement_timeout: float = Field(10.0, gt=0, description="longest time of one database statement")
    page_memory: int = Field(
        32 << 20, ge=0, description="memory of one server process for what large pages have shown, bytes; 0: none"
    )
    shutdown_delay: float = Field(
        0.0, ge=0, description="how long a server or gateway that is to stop says so first, for load balancers to see"
    )
    drain_timeout: float = Field(8.0, ge=0, description="time that calls under way get at shutdown")

    worker_concurrency: int = Field(2, ge=1, description="builds at once in one worker")
    lease: float = Field(30.0, gt=0, description="a worker silent for so long has lost its jobs")
    poll: float = Field(5.0, gt=0, description="longest sleep between two looks at the queue")
    build_timeout: float = Field(1800.0, gt=0, description="longest time of one build")
    build_memory: int = Field(4 << 30, ge=64 << 20, description="memory of one build, bytes")
    system_packages: str = Field(
        "confined",
        pattern="^(confined|relaxed|off)$",
        description="`confined`: a worker installs system packages if it can confine the step wholly; `relaxed`: "
        "it does without a network or control group of its own if the machine has none to give; `off`: it doesn't",
    )
    package_timeout: float = Field(
        900.0, gt=0, description="longest time of each command that installs system packages"
    )
    package_memory: int = Field(2 << 30, ge=128 << 20, description="memory of installing system packages, bytes")
    package_cpus: float = Field(2.0, gt=0, description="processors that installing system packages may use")
    package_processes: int = Field(512, ge=32, description="processes and threads that it may have at once")
    package_disk: int = Field(8 << 30, ge=256 << 20, description="disk that it may use, unpacked base included, bytes")
    package_egress_allowed: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="what it may reach all the same: `10.1.2.3:3142`, `10.0.0.0/8`, with commas; IPv4"
    )
    package_egress_denied: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="what it may not reach, beside this machine and the cloud's metadata: as above"
    )
    package_patience: float = Field(
        600.0, gt=0, description="how long a build waits while no worker can install system packages, before it fails"
    )
    log_retention: float = Field(30 * 86400.0, gt=0, description="how long the log of an ended build can be read")
    public_url: str = Field("", description="address of the gateway in links; empty: http:// and `http_address`")
    log_format: str = Field("console", pattern="^(console|json)$", description="`console` or `json`")
    access_log: str = Field(
        "changes",
        pattern="^(all|changes|none)$",
        description="calls that get a line in the log: `all`, `changes` (what changes something, and refusals), `none`",
    )
    admin_address: str = Field(
        "", description="where server, worker or gateway shows its metrics to Prometheus; empty: nowhere"
    )
    admin_open: bool = Field(False, description="allow an admin address beyond loopback, which anybody there can read")
    otlp_endpoint: str = Field(
        "", description="OpenTelemetry collector for traces and metrics, such as http://127.0.0.1:4318; empty: none"
    )
    otlp_ca: Path | None = Field(
        None, description="authority of that collector's certificate, PEM; empty: those that the machine trusts"
    )

    @field_validator("platform_requirements", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in re.split(r",(?![^\[]*\])(?=\s*[A-Za-z])", value) if part.strip())
        return value

    @field_validator("platform_requirements")
    @classmethod
    def _check_requirements(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for requirement in value:
            name, specifier = split_requirement(requirement)
            if fault := pip_name_fault(name) or pip_specifier_fault(specifier):
                raise ValueError(f"{requirement!r}: {fault}")
        return value

    @field_validator("registry_endpoints", mode="before")
    @classmethod
    def _split_endpoints(cls, value: Any) -> Any:
        if isinstance(value, str):
            pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
            return {host: address.rstrip("/") for host, _, address in pairs}
        return value

    @field_validator("registry_endpoints")
    @classmethod
    def _check_endpoints(cls, value: dict[str, str]) -> dict[str, str]:
        for host, address in value.items():
            if not _HOST.fullmatch(host) or not re.fullmatch(rf"https?://{_HOST.pattern}", address):
                shown = re.sub("//[^/]*@", "//…@", f"{host}={address}")
                raise ValueError(f"{shown} must be a host and an address such as http://{host or 'host'}")
        return value

    @field_validator("package_egress_allowed", "package_egress_denied", mode="before")
    @classmethod
    def _split_targets(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("package_egress_allowed", "package_egress_denied")
    @classmethod
    def _check_targets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for target in value:
            address, colon, port = target.partition(":")
            try:
                ipaddress.IPv4Network(address)
                is_right = not colon or 0 < int(port) < 65536
            except ValueError:
                is_right = False
            if not is_right:
                raise ValueError(f"{target!r} must be an IPv4 address, address:port, or a network such as 10.0.0.0/8")
        return value

    @field_validator("certificate_roles", mode="before")
    @classmethod
    def _split_roles(cls, value: Any) -> Any:
        if isinstance(value, str):
            pairs = [part.strip().rpartition("=") for part in value.split(",") if part.strip()]
            return {name: role for name, _, role in pairs}
        return value

    @field_validator("certificate_roles")
    @classmethod
    def _check_roles(cls, value: dict[str, str]) -> dict[str, str]:
        for name, role in value.items():
            if not name or role not in {one.value for one in Role}:
                raise ValueError(f"{name}={role} must be a name and a role: member, admin or system")
        return value

    @field_validator("base_images", mode="before")
    @classmethod
    def _split_map(cls, value: Any) -> Any:
        if isinstance(value, str):
            pairs = [part.strip() for part in value.split(",") if part.strip()]
            if bad := [pair for pair in pairs if "=" not in pair]:
                raise ValueError(f"{bad[0]!r} must be written as X.Y=image, such as 3.11={OFFICIAL_BASES['3.11']}")
            return dict(pair.split("=", 1) for pair in pairs)
        return value

    @field_validator("base_images")
    @classmethod
    def _check_bases(cls, value: dict[str, str]) -> dict[str, str]:
        if not value:
            raise ValueError("at least one Python version with its base image is needed")
        for version in value:
            if not re.fullmatch(r"3\.[0-9]{1,2}", version):
                raise ValueError(f"{version!r} must be a Python version X.Y, such as 3.11")
        return value

    @field_validator("base_packages", mode="before")
    @classmethod
    def _named_type(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value.upper() not in PackageType.__members__:
                raise ValueError("must be APT or ROCKYLINUX")
            return PackageType[value.upper()]
        return value

    @field_validator("repository")
    @classmethod
    def _check_repository(cls, value: str) -> str:
        value = value.rstrip("/")
        if not value or value.startswith("oci:/"):
            return value
        host, _, path = value.partition("/")
        if host in _DOCKER_HUB:
            raise ValueError("can't be Docker Hub, which has no repositories below a prefix; choose another registry")
        is_host = _HOST.fullmatch(host) and ("." in host or ":" in host or host == "localhost")
        if not is_host or not re.fullmatch(rf"(?:{_PATH})?", path):
            raise ValueError(
                "must be oci: and an absolute folder, such as oci:/srv/images, or a registry without https://, "
                "such as registry.example.com:5000/team"
            )
        if host.endswith("-docker.pkg.dev") and "/" not in path:
            raise ValueError(f"must name project and repository, such as {host}/my-project/my-repository")
        return value

    @field_validator("repository_prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        if not re.fullmatch(_PATH, value):
            raise ValueError("must be lower-case path parts such as managed or team/images")
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_collector(cls, value: str) -> str:
        url = urlsplit(value)
        if value and (url.scheme not in {"http", "https"} or not url.hostname or url.username or url.query):
            raise ValueError(
                "must be http:// or https://, a host and a port, such as http://127.0.0.1:4318 "
                "(a token goes into OTEL_EXPORTER_OTLP_HEADERS)"
            )
        return value.rstrip("/")

    @model_validator(mode="after")
    def _check_default_python(self) -> Settings:
        if self.default_python and self.default_python not in self.base_images:
            raise ValueError(f"default_python {self.default_python!r} is not among {', '.join(self.python_versions)}")
        return self

    @model_validator(mode="after")
    def _check_login(self) -> Settings:
        if bool(self.repository_username) != bool(self.repository_password):
            raise ValueError("repository_username and repository_password need each other")
        if self.repository_username and (not self.repository or self.repository.startswith("oci:")):
            raise ValueError("repository_username is for a registry, and repository names none")
        return self

    @model_validator(mode="after")
    def _check_tls(self) -> Settings:
        for side, ca in (("tls", self.tls_client_ca), ("http_tls", self.http_tls_client_ca), ("upstream", None)):
            certificate, key = (getattr(self, f"{side}_{part}") for part in ("certificate", "key"))
            if (certificate is None) != (key is None):
                raise ValueError(f"{side}_certificate and {side}_key need each other")
            if ca and not certificate:
                raise ValueError(f"{side}_client_ca needs {side}_certificate and {side}_key")
        if self.upstream_certificate and not self.upstream_ca:
            raise ValueError("upstream_certificate needs upstream_ca")
        if self.certificate_roles and not (self.tls_client_ca and self.auth == "keys"):
            raise ValueError("certificate_roles needs tls_client_ca, and auth=keys")
        return self

    @property
    def python_versions(self) -> tuple[str, ...]:
        """The supported set, oldest first."""
        return tuple(sorted(self.base_images, key=lambda v: int(v.split(".")[1])))

    @property
    def chosen_python(self) -> str:
        """The Python version of a request that names none."""
        return self.default_python or self.python_versions[-1]

    @property
    def repository_root(self) -> str:
        """Registry and prefix: `repo_uri` of an image is this, a slash and its name."""
        registry = self.repository or f"oci:{self.data_dir.absolute()}/images"
        return f"{registry}/{self.repository_prefix}"

    @property
    def repository_path(self) -> str:
        """The part of `repository_root` that counts to a repository's name in a registry."""
        path = "" if self.repository.startswith("oci:") else self.repository.partition("/")[2]
        return f"{path}/{self.repository_prefix}".lstrip("/")

    @property
    def docker_config_file(self) -> Path:
        """Docker's config file, which may not exist."""
        folder = self.docker_config or Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
        return folder / "config.json"


def split_requirement(requirement: str) -> tuple[str, str]:
    """Part 'numpy[extra]>=1,<2' into name with extras and specifier."""
    match = re.fullmatch(r"\s*([^<>=!~\s]+(?:\s*\[[^\]]*\])?)\s*(.*?)\s*", requirement)
    return (match[1], match[2]) if match else (requirement, "")


def load(**overrides: Any) -> Settings:
    """Settings from the environment, then from the files of `IMAGE_REGISTRY_SECRETS_DIR`; `overrides` (not None) win.

    Raises SettingsError with one line per faulty variable; a secret's value is never shown.
    """
    values = {key: value for key, value in overrides.items() if value is not None}
    folder = os.environ.get(SECRETS_DIR) or None
    if folder is not None and not Path(folder).is_dir():
        raise SettingsError(f"{SECRETS_DIR}: {folder!r} is not a folder")
    try:
        return Settings(**values | {"_secrets_dir": folder})
    except ValidationError as error:
        lines = [_sentence(problem) for problem in error.errors(include_url=False)]
        raise SettingsError("\n".join(lines)) from None


def _sentence(problem: Any) -> str:
    where = PREFIX + str(problem["loc"][0]).upper() if problem["loc"] else "configuration"
    text = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {text[0].lower()}{text[1:]}"


def configuration_page() -> str:
    """All settings as the Markdown page `docs/reference/configuration.md`."""
    rows = "\n".join(
        f"| `{PREFIX}{name.upper()}` | {field.description} | {_shown_default(field.default)} |"
        for name, field in Settings.model_fields.items()
    )
    return f"""# Configuration

<!-- Written by `make generate` from server/image_registry/settings.py; edit that. -->

Every setting is an environment variable. Durations are in seconds, sizes in bytes. Several commands have options for
the commonest ones; an option wins over its variable. All faults of a configuration are reported at once.

What is secret can stay out of the environment: `{SECRETS_DIR}` names a folder with a file for each such
setting, named like its variable in lower-case letters (`image_registry_database_url`), as Kubernetes and Compose mount
secrets. A variable wins over its file.

| variable | meaning | default |
| --- | --- | --- |
{rows}
"""


def _shown_default(value: Any) -> str:
    match value:
        case dict():
            return f"the official slim images of {', '.join(value)}" if value else "empty"
        case None | "" | ():
            return "empty"
        case Path():
            return "the user's data folder (`~/.local/share/image-registry`)"
        case PackageType():
            return f"`{value.name}`"
        case float():
            return f"`{value:.10g}`"
        case _:
            return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(configuration_page(), end="")  # noqa: T201
