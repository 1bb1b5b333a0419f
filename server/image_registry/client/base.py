"""What both clients share: how they are set up, and how arguments become calls."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Iterable
from pathlib import Path

from image_registry.client import calls
from image_registry.client.calls import Call
from image_registry.client.channel import DEFAULT_ADDRESS, ApiKey, Target, Tls, target
from image_registry.client.flow import Limits, RetryPolicy
from image_registry.client.models import (
    CreateImageResult,
    FoundImage,
    PackageRequirement,
    PackageType,
    PipLibrary,
    PipLibraryFilter,
    PipRequirement,
)
from image_registry.client.requirements import (
    as_list,
    as_python,
    library,
    library_filter,
    package_requirement,
    pip_requirement,
)

_REQUEST_ID = re.compile(r"[!-~]{1,128}")


class ClientBase:
    """The set-up of a client.

    `address` is the gRPC server as 'host:port'; the gateway's address serves as well. `api_key`, or `api_key_file`,
    which is read for each call, goes along as `rime-api-key`. `tls` is True, False or a `Tls` with particulars;
    left out, it is on unless the address is loopback, so that a key never crosses a network in the clear
    unless `tls=False` says so. `timeout` is the time in seconds of one call with all its retries,
    `connect_timeout` what a write waits for a connection before it is sent at all.

    Raises ValueError for a malformed address or key, OSError for a file that can't be read.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        api_key: str | None = None,
        api_key_file: Path | str | None = None,
        tls: Tls | bool | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._key = ApiKey(api_key, api_key_file)
        self._key.metadata()  # a key that can't be used is told now, not by the first call
        self._target: Target = target(address, tls)
        self._limits = Limits(timeout, connect_timeout, retry or RetryPolicy())
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        secured = "TLS" if self._target.credentials else "no TLS"
        return f"<{type(self).__name__} {self._target.address} ({secured})>"

    @property
    def address(self) -> str:
        """The server's address as it was given."""
        return self._target.address


def create_call(
    name: str,
    pips: Iterable[str | PipRequirement],
    packages: Iterable[str | PackageRequirement],
    package_type: PackageType,
    python_version: str,
    request_id: str | None,
) -> Call[CreateImageResult]:
    """CreateImage out of what a caller wrote. Raises RequirementError, ValueError for a malformed `request_id`."""
    if request_id is not None and not _REQUEST_ID.fullmatch(request_id):
        raise ValueError(f"request_id must be 1 to 128 printable ASCII characters without blanks, not {request_id!r}")
    return calls.create_image(
        name,
        [pip_requirement(one) for one in as_list(pips)],
        [package_requirement(one, package_type) for one in as_list(packages)],
        as_python(python_version),
        request_id or str(uuid.uuid4()),
    )


def find_call(
    pips: Iterable[str | PipRequirement],
    packages: Iterable[str | PackageRequirement],
    package_type: PackageType,
    python_version: str,
    max_results: int,
) -> Call[list[FoundImage]]:
    """FindImages out of what a caller wrote. Raises RequirementError."""
    return calls.find_images(
        [pip_requirement(one) for one in as_list(pips)],
        [package_requirement(one, package_type) for one in as_list(packages)],
        as_python(python_version),
        max_results,
    )


def filters(conditions: Iterable[str | PipLibraryFilter]) -> list[PipLibraryFilter]:
    """The conditions of a listing out of what a caller wrote. Raises RequirementError."""
    return [library_filter(one) for one in as_list(conditions)]


def update_call(name: str, libraries: Iterable[str | PipLibrary], *, built_successfully: bool) -> Call[None]:
    """UpdateBuildInfo out of what a caller wrote. Raises RequirementError."""
    found = [library(one) for one in as_list(libraries)]
    return calls.update_build_info(name, built_successfully=built_successfully, libraries=found)
