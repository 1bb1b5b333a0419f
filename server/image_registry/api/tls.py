"""TLS of the gRPC server: certificates are read from files, and read again when the files are renewed."""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc

from image_registry.host.certificates import authority_end, chain_end

log = logging.getLogger(__name__)


class TlsError(Exception):
    """The certificate files can't be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a server: its certificate chain and key, and (mTLS) the CA whose certificates callers must show."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class ServerCertificates:
    """The certificates of a server: renewed files are used from the next connection on, without a restart.

    Files that can't be used leave the last good ones in force, with an error in the log. Raises TlsError if there are
    no good ones yet.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()  # gRPC's threads and that of the metrics
        self._seen = self._stamp()
        self._used = self._told = _read(files)

    def credentials(self) -> grpc.ServerCredentials:
        """What gRPC takes; it asks before each handshake whether something is new."""
        return grpc.dynamic_ssl_server_credentials(
            self._used.configuration, self._renewed, require_client_authentication=self._files.client_ca is not None
        )

    def ends(self) -> dict[str, datetime]:
        """When those in force end, by the setting that names the file."""
        with self._lock:
            self._look()
            return self._used.ends

    def _renewed(self) -> Any:
        with self._lock:
            self._look()
            if self._told is self._used:
                return None
            self._told = self._used
            return self._used.configuration

    def _look(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._used = _read(self._files)
        except TlsError as error:
            log.error("renewed certificates are not used: %s", error)  # noqa: TRY400
        else:
            log.info("renewed certificates are in use")

    def _stamp(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in (self._files.certificate, self._files.key, self._files.client_ca) if path]


@dataclass(frozen=True, slots=True)
class _Contents:
    configuration: Any
    ends: dict[str, datetime]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read(files: TlsFiles) -> _Contents:
    """What is in the files, if certificate and key belong together."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
        certificate = files.certificate.read_bytes()
        authorities = files.client_ca.read_bytes() if files.client_ca else None
        ends = {"tls_certificate": chain_end(certificate)}
        if authorities:
            ends["tls_client_ca"] = authority_end(authorities)
        pair = files.key.read_bytes(), certificate
        return _Contents(grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities), ends)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        names = ", ".join(str(path) for path in (files.certificate, files.key, files.client_ca) if path)
        raise TlsError(f"{names}: {error.strerror if isinstance(error, OSError) else error}") from error


def _no_password() -> str:
    raise ValueError("the private key is encrypted; give one without a pass phrase that only the server can read")
