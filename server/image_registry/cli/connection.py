"""How commands reach the service: options, environment, configuration file, in that order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from image_registry.cli.config_file import read_profile
from image_registry.cli.exits import refusals_told

if TYPE_CHECKING:
    from image_registry.client import AsyncImageRegistryClient, ImageRegistryClient

F = TypeVar("F", bound=Callable[..., Any])
_ClientT = TypeVar("_ClientT")
DEFAULT_SERVER = "127.0.0.1:50051"


@dataclass(frozen=True, slots=True)
class Connection:
    """A server and how to talk to it. `tls` of None is TLS unless the server is on loopback."""

    server: str
    api_key_file: Path | None
    tls: bool | None
    ca_file: Path | None
    client_certificate_file: Path | None
    client_key_file: Path | None
    timeout: float

    def client(self) -> ImageRegistryClient:
        """A client to be closed by the caller. Raises click.UsageError for settings that can't be used."""
        from image_registry.client import ImageRegistryClient  # noqa: PLC0415

        return self._made(ImageRegistryClient)

    def async_client(self) -> AsyncImageRegistryClient:
        """The same for asyncio."""
        from image_registry.client import AsyncImageRegistryClient  # noqa: PLC0415

        return self._made(AsyncImageRegistryClient)

    @contextmanager
    def told(self, said: dict[str, str] | None = None) -> Iterator[None]:
        """Refusals inside the block end the command with text and exit code."""
        with refusals_told(self.server, tls_by_default=self.tls is None, said=said):
            yield

    def _made(self, kind: Callable[..., _ClientT]) -> _ClientT:
        from image_registry.client import Tls  # noqa: PLC0415

        try:
            files = (self.ca_file, self.client_certificate_file, self.client_key_file)
            tls = Tls(*files) if any(files) and self.tls is not False else self.tls
            return kind(self.server, api_key_file=self.api_key_file, tls=tls, timeout=self.timeout)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        except OSError as error:
            raise click.UsageError(f"{error.filename} can't be read: {error.strerror}") from None


def _option(name: str, **settings: Any) -> Callable[[F], F]:
    return click.option(name, **settings)


def _file(name: str, sentence: str, variable: str | None = None) -> Callable[[F], F]:
    return click.option(
        name, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", envvar=variable, help=sentence
    )


_OPTIONS = {
    "server": _option("--server", metavar="HOST:PORT", envvar="IMAGE_REGISTRY_SERVER", help="The gRPC server to ask."),
    "api_key_file": _file("--api-key-file", "File that holds your API key.", "IMAGE_REGISTRY_API_KEY_FILE"),
    "tls": _option("--tls/--no-tls", default=None, help="With TLS or without. Default: with, unless it is loopback."),
    "ca_file": _file("--ca-file", "Certificates to trust for TLS (PEM)."),
    "client_certificate_file": _file("--client-certificate-file", "Your own certificate, if the server asks for one."),
    "client_key_file": _file("--client-key-file", "The private key of that certificate."),
    "profile": _option(
        "--profile", metavar="NAME", envvar="IMAGE_REGISTRY_PROFILE", help="Table of the configuration file to use."
    ),
    "config": _file("--config", "Configuration file. [~/.config/image-registry/config.toml]", "IMAGE_REGISTRY_CONFIG"),
    "timeout": _option(
        "--timeout", type=click.FloatRange(min=0.1), default=30.0, metavar="SECONDS", help="Time for one call. [30]"
    ),
}
OPTION_NAMES = tuple(_OPTIONS)


def connection_options(command: F) -> F:
    """Gives a command the options of a connection, and the `connection` that they come to."""

    @functools.wraps(command)
    def with_connection(**values: Any) -> Any:
        given = {name: values.pop(name) for name in OPTION_NAMES}
        return command(connection=connect(**given), **values)

    for option in reversed(_OPTIONS.values()):
        option(with_connection)
    return with_connection  # type: ignore[return-value]


def connect(
    *,
    server: str | None = None,
    api_key_file: Path | None = None,
    tls: bool | None = None,
    ca_file: Path | None = None,
    client_certificate_file: Path | None = None,
    client_key_file: Path | None = None,
    profile: str | None = None,
    config: Path | None = None,
    timeout: float = 30.0,
) -> Connection:
    """Fill what is not given from the configuration file. Raises click.UsageError for a faulty file.

    The credentials of a profile go to the profile's own server only: with another `server` they are left out.
    """
    kept = read_profile(config, profile)
    own_server = kept.server or DEFAULT_SERVER
    same = server is None or server == own_server
    return Connection(
        server=server or own_server,
        api_key_file=api_key_file or (kept.api_key_file if same else None),
        tls=tls if tls is not None else (kept.tls if same else None),
        ca_file=ca_file or (kept.ca_file if same else None),
        client_certificate_file=client_certificate_file or (kept.client_certificate_file if same else None),
        client_key_file=client_key_file or (kept.client_key_file if same else None),
        timeout=timeout,
    )
