"""TLS of the gRPC server: certificates are read from files, and read again when the files are renewed."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

log = logging.getLogger(__name__)


class TlsError(Exception):
    """The certificate files can't be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a server: its certificate chain and key, and (mTLS) the CA whose certificates callers must show."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that use renewed files from the next connection on, without a restart.

    Files that can't be used leave the last good ones in force, with an error in the log. Raises TlsError if there are
    no good ones yet.
    """
    source = _Source(files)
    return grpc.dynamic_ssl_server_credentials(
        source.current, source.renewed, require_client_authentication=files.client_ca is not None
    )


class _Source:
    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = self._stamp()
        self.current = _read(files)

    def renewed(self) -> Any:
        """The configuration if it has changed since the last call, else None. gRPC asks before each handshake."""
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        try:
            self.current = _read(self._files)
        except TlsError as error:
            log.error("renewed certificates are not used: %s", error)  # noqa: TRY400
            return None
        log.info("renewed certificates are in use")
        return self.current

    def _stamp(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in (self._files.certificate, self._files.key, self._files.client_ca) if path]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read(files: TlsFiles) -> Any:
    """The files' contents, if certificate and key belong together."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
        return grpc.ssl_server_certificate_configuration(
            [(files.key.read_bytes(), files.certificate.read_bytes())],
            root_certificates=files.client_ca.read_bytes() if files.client_ca else None,
        )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        names = ", ".join(str(path) for path in (files.certificate, files.key, files.client_ca) if path)
        raise TlsError(f"{names}: {error.strerror if isinstance(error, OSError) else error}") from error


def _no_password() -> str:
    raise ValueError("the private key is encrypted; give one without a pass phrase that only the server can read")
