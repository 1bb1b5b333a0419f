"""Google Artifact Registry: its packages are listed and removed by its own API; needs the extra `image-registry[gar]`.

The registry takes access tokens of the machine's Google identity as passwords
(https://cloud.google.com/artifact-registry/docs/docker/authentication). The project's repository has to be there; what
this service calls a repository is a *package* in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from image_registry.builds.credentials import Keyring, Login, NoLoginError
from image_registry.builds.faults import UnavailableError
from image_registry.builds.lease import StopSign
from image_registry.builds.oci.push import RegistryRepository
from image_registry.builds.oci.reference import RegistryReference
from image_registry.builds.oci.registry import RegistryClient
from image_registry.builds.repositories.registries import RegistryHome

_SUFFIX = "-docker.pkg.dev"
_API = "artifactregistry.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_SECONDS = 30.0
_DELETION_SECONDS = 300.0
_PAUSE = 0.5
_MISSING = "google-cloud-artifact-registry is not installed: pip install 'image-registry[gar]'"


def is_gar(host: str) -> bool:
    """Whether a host is a Docker registry of Google Artifact Registry."""
    return host.endswith(_SUFFIX)


def gar_login(host: str) -> Login | None:
    """Return a login of the machine's Google identity, which lives for up to an hour; None: the host is not Google's.

    Raises NoLoginError, UnavailableError.
    """
    if not is_gar(host):
        return None
    with _told(host):
        from google.auth.transport.requests import Request  # noqa: PLC0415 (an extra)

        credentials = _identity()
        credentials.refresh(Request())
        expires = credentials.expiry.replace(tzinfo=UTC).timestamp() if credentials.expiry else 0.0
        return Login("oauth2accesstoken", credentials.token, expires)


class GarHome(RegistryHome):
    """Packages in one repository of a project, below the path of `root`. See Home.

    `keyring.endpoints` may say where `artifactregistry.googleapis.com` really is.
    """

    _remedy = (
        "give the worker a Google identity (a service account, or GOOGLE_APPLICATION_CREDENTIALS) that may upload, "
        "download and delete in the repository, and make the repository if it isn't there"
    )

    def __init__(self, root: RegistryReference, keyring: Keyring) -> None:
        super().__init__(root, keyring)
        project, repository, *_ = root.repository.split("/")
        self._inside = f"{project}/{repository}/"
        location = root.host.removesuffix(_SUFFIX)
        self._parent = f"projects/{project}/locations/{location}/repositories/{repository}"
        self._endpoint = urlsplit(keyring.endpoints.get(_API, f"https://{_API}"))

    def _remove(self, found: RegistryRepository, name: str, owner: str, stop: StopSign) -> bool:  # noqa: ARG002
        return self._remove_empty(name, stop)

    def _remove_empty(self, name: str, stop: StopSign) -> bool:
        package = quote(name.removeprefix(self._inside), safe="")
        try:
            with self._api() as api:
                stop.check()
                begun = api.delete_package(name=f"{self._parent}/packages/{package}", timeout=_SECONDS)
                self._wait(api, begun.operation, stop)
        except UnavailableError as error:
            if error.status != 404:
                raise
            return False
        return True

    def _wait(self, api: Any, operation: Any, stop: StopSign) -> None:
        """Wait for the end of a long operation; its own `result` would ask at another address than the API's."""
        give_up = time.monotonic() + _DELETION_SECONDS
        while not operation.done:
            if time.monotonic() > give_up:
                raise UnavailableError(f"the API of {self._root.host}: a deletion isn't over yet")
            stop.sleep(_PAUSE)
            operation = api.get_operation({"name": operation.name}, timeout=_SECONDS)
        if operation.HasField("error"):
            raise UnavailableError(f"the API of {self._root.host}: a deletion ended with code {operation.error.code}")

    def _names(self, client: RegistryClient) -> list[str]:  # noqa: ARG002
        with self._api() as api:
            packages = list(api.list_packages(parent=self._parent, timeout=_SECONDS))
        return [f"{self._inside}{unquote(package.name.rpartition('/')[2])}" for package in packages]

    @contextmanager
    def _api(self) -> Iterator[Any]:
        try:
            with _told(self._root.host):
                from google.cloud.artifactregistry_v1 import ArtifactRegistryClient  # noqa: PLC0415 (an extra)
                from google.cloud.artifactregistry_v1.services.artifact_registry.transports import (  # noqa: PLC0415
                    ArtifactRegistryRestTransport,
                )

                transport = ArtifactRegistryRestTransport(
                    host=self._endpoint.netloc, url_scheme=self._endpoint.scheme, credentials=_identity()
                )
                with ArtifactRegistryClient(transport=transport) as api:
                    yield api
        except NoLoginError as error:
            raise UnavailableError(str(error), 401) from None


def _identity() -> Any:
    import google.auth  # noqa: PLC0415 (an extra)

    credentials, _ = google.auth.default(scopes=[_SCOPE])
    return credentials


@contextmanager
def _told(host: str) -> Iterator[None]:
    """Turn what Google and its libraries say into NoLoginError or UnavailableError."""
    try:
        import requests  # noqa: PLC0415 (an extra's)
        from google.api_core.exceptions import GoogleAPICallError, RetryError  # noqa: PLC0415
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError  # noqa: PLC0415
    except ModuleNotFoundError:
        raise NoLoginError(_MISSING) from None
    try:
        yield
    except GoogleAPICallError as error:
        raise UnavailableError(f"the API of {host}: {type(error).__name__}", int(error.code or 0)) from error
    except (TransportError, RetryError, requests.RequestException) as error:
        raise UnavailableError(f"the API of {host}: {type(error).__name__}") from error
    except DefaultCredentialsError:
        raise NoLoginError("this machine has no Google identity") from None
    except GoogleAuthError as error:
        raise NoLoginError(f"Google gives this identity no token ({type(error).__name__})") from None
