"""A client of the OCI distribution API (https://github.com/opencontainers/distribution-spec), as much as builds need.

Authentication is Docker's: `Basic`, or a `Bearer` token from the server that the registry names
(https://distribution.github.io/distribution/spec/auth/token/).
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx

from image_registry.builds.cache import Cache
from image_registry.builds.faults import DamagedBlobError, InvalidImageError, UnavailableError
from image_registry.builds.http import Result, check_answer, download, new_client, with_retries
from image_registry.builds.lease import StopSign
from image_registry.builds.oci.manifest import (
    INDEXES,
    LARGEST_MANIFEST,
    MANIFESTS,
    Descriptor,
    Manifest,
    digest_of,
    parse_object,
    select_platform,
)
from image_registry.builds.oci.reference import RegistryReference
from image_registry.builds.oci.source import LARGEST_CONFIG
from image_registry.builds.plan import RegistryAccess

_HUB_HOST = {"docker.io": "registry-1.docker.io"}
_ACCEPT = ", ".join((*MANIFESTS, *INDEXES))
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_LARGEST_TOKEN = 64 * 1024


@dataclass(frozen=True)
class Ask:
    """A request to a registry. `path` may be an address that the registry gave; `body` is called for each attempt."""

    method: str
    path: str
    repository: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[], bytes | Iterable[bytes] | None] = lambda: None

    @property
    def scope(self) -> str:
        """The permission that the request needs; without a repository it is about the list of all of them."""
        if not self.repository:
            return "registry:catalog:*"
        actions = "pull" if self.method in {"GET", "HEAD"} else "delete" if self.method == "DELETE" else "pull,push"
        return f"repository:{self.repository}:{actions}"


@dataclass(frozen=True)
class Exchange:
    """A successful answer."""

    status: int
    headers: httpx.Headers
    body: bytes


class RegistryClient:
    """Speaks to one registry; threads may share it. Use as a context manager.

    Where `stop` says so, it begins no request and ends its waits: all methods raise StoppedError then.
    """

    def __init__(self, access: RegistryAccess, stop: StopSign | None = None) -> None:
        self._access = access
        self._stop = stop
        self._client = new_client(also=access.ca_bundle)
        self._url = access.endpoint or f"https://{_HUB_HOST.get(access.host, access.host)}"
        self._authorizations: dict[str, str] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> RegistryClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def host(self) -> str:
        """The registry's host and port."""
        return self._access.host

    def manifest(self, repository: str, reference: str) -> tuple[bytes, str]:
        """Return a manifest's or an index's bytes and media type; those of a digest are verified.

        Raises InvalidImageError, or UnavailableError after several attempts.
        """
        what = f"manifest {repository}:{reference}"
        return self.insist(lambda: self.manifest_once(repository, reference), what)

    def manifest_once(self, repository: str, reference: str) -> tuple[bytes, str]:
        """The same in one attempt. Raises InvalidImageError, UnavailableError, httpx.HTTPError."""
        what = f"manifest {repository}:{reference}"
        ask = Ask("GET", f"/v2/{repository}/manifests/{reference}", repository, {"Accept": _ACCEPT})

        with self.answer(ask, what) as answer:
            media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
            data = _bounded(answer, LARGEST_MANIFEST, what)
        if reference.startswith("sha256:") and digest_of(data) != reference:
            raise InvalidImageError(f"the registry gave another manifest than {reference}")
        return data, media_type

    def download_blob(self, repository: str, blob: Descriptor, path: Path) -> None:
        """Write a blob to a file; its digest is the caller's to check.

        Raises UnavailableError after several attempts.
        """
        what = f"blob {repository}@{blob.digest}"
        ask = Ask("GET", f"/v2/{repository}/blobs/{blob.digest}", repository, {"Accept-Encoding": "identity"})

        def get() -> None:
            with self.answer(ask, what) as answer:
                download(answer, path, blob.size, what)

        self.insist(get, what)

    def exchange(self, ask: Ask, what: str) -> Exchange:
        """Send a request with a small answer, several times if need be. Raises UnavailableError, InvalidImageError."""
        return self.insist(lambda: self.exchange_once(ask, what), what)

    def insist(self, action: Callable[[], Result], what: str) -> Result:
        """Do something with this client several times if need be. Raises UnavailableError, and what else it does."""
        return with_retries(action, what, self._stop.sleep if self._stop else None)

    def exchange_once(self, ask: Ask, what: str) -> Exchange:
        """Send a request with a small answer. Raises UnavailableError, InvalidImageError, httpx.HTTPError."""
        with self.answer(ask, what) as answer:
            return Exchange(answer.status_code, answer.headers, _bounded(answer, LARGEST_MANIFEST, what))

    @contextmanager
    def answer(self, ask: Ask, what: str) -> Iterator[httpx.Response]:
        """Send a request, with a new authorization if the registry asks for one, and give its successful answer.

        Raises UnavailableError, and httpx.HTTPError without an answer.
        """
        with self._send(ask) as answer:
            if answer.status_code != httpx.codes.UNAUTHORIZED:
                check_answer(answer, what)
                yield answer
                return
            challenge = answer.headers.get("www-authenticate", "")
        authorization = self._authorize(challenge, ask.scope)
        with self._lock:
            self._authorizations[ask.scope] = authorization
        with self._send(ask) as answer:
            check_answer(answer, what)
            yield answer

    @contextmanager
    def _send(self, ask: Ask) -> Iterator[httpx.Response]:
        url = urljoin(self._url, ask.path)
        headers = dict(ask.headers)
        with self._lock:
            authorization = self._authorizations.get(ask.scope)
        if authorization and url.startswith(f"{self._url}/"):
            headers["Authorization"] = authorization
        if self._stop is not None:
            self._stop.check()
        with self._client.stream(ask.method, url, headers=headers, content=ask.body()) as answer:
            yield answer

    def _authorize(self, challenge: str, scope: str) -> str:
        if 0 < self._access.expires < time.time():
            raise UnavailableError(f"registry {self._access.host}: the credentials have expired meanwhile")
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic" and self._access.username:
            return _basic(self._access)
        if kind.lower() != "bearer":
            lacking = "no credentials that it accepts" if self._access.username else "it wants credentials"
            raise UnavailableError(f"registry {self._access.host}: {lacking}", 401)
        values = dict(_CHALLENGE.findall(rest))
        realm = urlsplit(values.get("realm", ""))
        if realm.scheme != "https" and not (realm.scheme == "http" and self._access.endpoint.startswith("http:")):
            raise UnavailableError(f"registry {self._access.host}: its token server is not an https: address", 401)
        return f"Bearer {self._token(realm.geturl(), values.get('service', ''), values.get('scope', scope))}"

    def _token(self, realm: str, service: str, scope: str) -> str:
        what = f"token server of {self._access.host}"
        parameters = [("service", service)] if service else []
        parameters += [("scope", one) for one in scope.split()]
        headers = {"Authorization": _basic(self._access)} if self._access.username else {}
        with self._client.stream("GET", realm, params=httpx.QueryParams(tuple(parameters)), headers=headers) as answer:
            check_answer(answer, what)
            body = _bounded(answer, _LARGEST_TOKEN, what)
        values = parse_object(body, "the token server's answer")
        token = values.get("token") or values.get("access_token")
        if not isinstance(token, str) or not token.isprintable():
            raise UnavailableError(f"{what}: its answer holds no token", 401)
        return token


def _basic(access: RegistryAccess) -> str:
    return f"Basic {base64.b64encode(f'{access.username}:{access.password}'.encode()).decode()}"


def _bounded(answer: httpx.Response, limit: int, what: str) -> bytes:
    data = bytearray()
    for chunk in answer.iter_bytes():
        data += chunk
        if len(data) > limit:
            raise InvalidImageError(f"{what} is larger than {limit} bytes")
    return bytes(data)


def read_manifest(client: RegistryClient, reference: RegistryReference, architecture: str) -> Manifest:
    """Return the manifest of an image for linux and the architecture. Raises InvalidImageError, UnavailableError."""
    data, media_type = client.manifest(reference.repository, reference.reference)
    if media_type in INDEXES:
        chosen = select_platform(data, architecture)
        data, media_type = client.manifest(reference.repository, chosen.digest)
    return Manifest.read(data, media_type)


class RegistrySource:
    """An image in a registry; its layers go through the machine's cache. See oci.source.ImageSource."""

    def __init__(self, client: RegistryClient, reference: RegistryReference, architecture: str, cache: Cache) -> None:
        self._client = client
        self._reference = reference
        self._architecture = architecture
        self._cache = cache

    def manifest(self) -> Manifest:
        """See ImageSource."""
        return read_manifest(self._client, self._reference, self._architecture)

    def config(self, manifest: Manifest) -> bytes:
        """See ImageSource."""
        if manifest.config.size > LARGEST_CONFIG:
            raise InvalidImageError("the image's config is too large")
        return self.layer_file(manifest.config).read_bytes()

    def layer_file(self, layer: Descriptor) -> Path:
        """See ImageSource."""
        repository = self._reference.repository
        try:
            return self._cache.blob(layer.digest, lambda path: self._client.download_blob(repository, layer, path))
        except DamagedBlobError as error:
            raise UnavailableError(f"blob {repository}@{layer.digest}: the registry gave something else") from error
