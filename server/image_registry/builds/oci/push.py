"""Repositories of the service in a container registry.

A registry has no locks and no owners, so the owner stands in a small manifest of its own under the tag OWNER_TAG.
That keeps a late push or deletion of an older life away from a newer one, as long as the two don't run in the same
second; jobs and their leases see to that.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import urlencode

import httpx

from image_registry.builds.faults import ForeignRepositoryError, UnavailableError
from image_registry.builds.files import write_whole
from image_registry.builds.oci.manifest import (
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    canonical_json,
    digest_of,
    parse_object,
)
from image_registry.builds.oci.registry import Ask, RegistryClient

OWNER_TAG = "_owner"
_OWNER = "ri.imageregistry.owner"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"  # image-spec, "Guidance for an Empty Descriptor"
_EMPTY = b"{}"
_ARTIFACT_TYPE = "application/vnd.ri.imageregistry.owner"
_PIECE = 16 * 1024 * 1024
_CHUNK = 1 << 20
_OCTETS = {"Content-Type": "application/octet-stream"}
_NOTHING = {"Content-Length": "0"}
_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)


class RegistryRepository:
    """One repository in a registry, within `prefix`. Use as a context manager.

    `known` is a folder that keeps where in the registry each blob is, so that it can be mounted instead of uploaded
    (None: nothing is kept); `base_repository` is where in the registry the base image is, if it is there.
    Raises ValueError for a repository outside the prefix.
    """

    def __init__(
        self, client: RegistryClient, repository: str, prefix: str, known: Path | None, base_repository: str = ""
    ) -> None:
        if not repository.startswith(f"{prefix}/"):
            raise ValueError(f"{repository} is not a repository within {prefix}")
        self._client = client
        self._repository = repository
        self._known = known
        self._base_repository = base_repository

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.__exit__()

    @property
    def owner(self) -> str | None:
        """Who pushed what is there; None when there is nothing. Raises UnavailableError."""
        try:
            data, _ = self._client.manifest(self._repository, OWNER_TAG)
        except UnavailableError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            return "" if self._tags() else None
        annotations = parse_object(data, "the owner's manifest").get("annotations")
        return str(annotations.get(_OWNER, "")) if isinstance(annotations, dict) else ""

    def push(
        self,
        owner: str,
        manifest: Manifest,
        files: Iterable[tuple[Descriptor, Path]],
        config: bytes,
        tags: Iterable[str],
    ) -> None:
        """Put an image in place under the tags; what was there before serves until it is.

        Blobs that the registry has are not sent again. Raises ForeignRepositoryError, UnavailableError.
        """
        current = self.owner
        if current not in {None, owner}:
            raise ForeignRepositoryError(f"the repository {self._repository} still belongs to an image deleted before")
        if current is None:
            self._write_owner(owner)
        for descriptor, path in files:
            self._put_blob(descriptor, path)
        self._put_bytes(config)
        for tag in tags:
            self._put_manifest(tag, manifest.data, manifest.media_type)

    def delete(self, owner: str) -> bool:
        """Remove the repository's images if they are the owner's; return whether something was removed.

        False, and nothing is touched, when there is nothing or it is another life's. Raises UnavailableError, also
        when the registry doesn't allow deletions (HTTP 405).
        """
        if self.owner != owner:
            return False
        tags = sorted(self._tags(), key=lambda tag: tag == OWNER_TAG)  # the owner last: this can be tried again
        for tag in tags:
            what = f"manifest {self._repository}:{tag}"
            try:
                data, _ = self._client.manifest(self._repository, tag)
                path = f"/v2/{self._repository}/manifests/{digest_of(data)}"
                self._client.exchange(Ask("DELETE", path, self._repository), what)
            except UnavailableError as error:
                if error.status != httpx.codes.NOT_FOUND:  # another tag of the same manifest took it along
                    raise
        return True

    def _tags(self) -> list[str]:
        ask = Ask("GET", f"/v2/{self._repository}/tags/list?n=1000", self._repository)
        try:
            data = self._client.exchange(ask, f"tags of {self._repository}").body
        except UnavailableError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            return []
        return [str(tag) for tag in parse_object(data, "the list of tags").get("tags") or []]

    def _write_owner(self, owner: str) -> None:
        self._put_bytes(_EMPTY)
        empty = Descriptor(_EMPTY_TYPE, digest_of(_EMPTY), len(_EMPTY)).to_json()
        marker = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": _ARTIFACT_TYPE,
            "config": empty,
            "layers": [empty],
            "annotations": {_OWNER: owner},
        }
        self._put_manifest(OWNER_TAG, canonical_json(marker), OCI_MANIFEST)

    def _put_manifest(self, reference: str, data: bytes, media_type: str) -> None:
        path = f"/v2/{self._repository}/manifests/{reference}"
        ask = Ask("PUT", path, self._repository, {"Content-Type": media_type}, lambda: data)
        self._client.exchange(ask, f"manifest {self._repository}:{reference}")

    def _put_bytes(self, data: bytes) -> None:
        digest = digest_of(data)
        if not self._has(digest):
            self._finish(self._begin(digest), digest, data)

    def _put_blob(self, blob: Descriptor, path: Path) -> None:
        if not self._has(blob.digest) and not self._mount(blob.digest):
            self._upload(blob, path)
        if note := self._note(blob.digest):
            note.parent.mkdir(parents=True, exist_ok=True)
            write_whole(note, self._repository.encode())

    def _note(self, digest: str) -> Path | None:
        registry = digest_of(self._client.host.encode()).removeprefix("sha256:")
        return self._known and self._known / registry[:16] / digest.removeprefix("sha256:")

    def _has(self, digest: str) -> bool:
        ask = Ask("HEAD", f"/v2/{self._repository}/blobs/{digest}", self._repository)
        try:
            self._client.exchange(ask, f"blob {self._repository}@{digest}")
        except UnavailableError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            return False
        return True

    def _mount(self, digest: str) -> bool:
        """Take the blob over from the repository where it was last seen; return whether that was possible."""
        note = self._note(digest)
        other = note.read_text() if note and note.exists() else self._base_repository
        if not other:
            return False
        query = urlencode({"mount": digest, "from": other})
        ask = Ask("POST", f"/v2/{self._repository}/blobs/uploads/?{query}", self._repository, _NOTHING)
        answer = self._client.exchange(ask, f"mount of {digest} from {other}")
        if answer.status == httpx.codes.CREATED:
            return True
        if location := answer.headers.get("location"):  # an upload was begun instead
            self._cancel(location)
        return False

    def _cancel(self, location: str) -> None:
        with contextlib.suppress(UnavailableError):
            self._client.exchange(Ask("DELETE", location, self._repository), f"upload to {self._repository}")

    def _begin(self, digest: str) -> str:
        """Begin an upload and return its location."""
        what = f"upload of {digest} to {self._repository}"
        ask = Ask("POST", f"/v2/{self._repository}/blobs/uploads/", self._repository, _NOTHING)
        location: str | None = self._client.exchange(ask, what).headers.get("location")
        if location is None:
            raise UnavailableError(f"{what}: the registry names no location", httpx.codes.BAD_GATEWAY)
        return location

    def _upload(self, blob: Descriptor, path: Path) -> None:
        """Send a file in pieces; after a fault go on where the registry says that it is."""
        what = f"upload of {blob.digest} to {self._repository}"
        location, sent, waits = self._begin(blob.digest), 0, iter(_WAITS)
        while sent < blob.size:
            end = min(sent + _PIECE, blob.size)
            headers = {**_OCTETS, "Content-Range": f"{sent}-{end - 1}", "Content-Length": str(end - sent)}
            ask = Ask("PATCH", location, self._repository, headers, partial(_piece, path, sent, end))
            try:
                answer = self._client.exchange_once(ask, what)
                location, sent = answer.headers.get("location", location), end
            except (UnavailableError, httpx.HTTPError) as error:
                wait = next(waits, None)
                if wait is None or (isinstance(error, UnavailableError) and not error.is_transient):
                    raise UnavailableError(f"{what}: {error}", getattr(error, "status", 0)) from error
                time.sleep(wait)
                location, sent = self._progress(location, blob.digest)
        self._finish(location, blob.digest, b"")

    def _progress(self, location: str, digest: str) -> tuple[str, int]:
        """Return where to go on with an upload: its location, and how many bytes the registry has."""
        try:
            answer = self._client.exchange(Ask("GET", location, self._repository), f"upload to {self._repository}")
        except UnavailableError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            return self._begin(digest), 0
        last = answer.headers.get("range", "").rpartition("-")[2]
        size = int(last) + 1 if last.isdigit() and last != "0" else 0
        return answer.headers.get("location", location), size

    def _finish(self, location: str, digest: str, data: bytes) -> None:
        address = f"{location}{'&' if '?' in location else '?'}{urlencode({'digest': digest})}"
        ask = Ask("PUT", address, self._repository, _OCTETS, lambda: data)
        try:
            self._client.exchange(ask, f"upload of {digest} to {self._repository}")
        except UnavailableError as error:  # an earlier attempt, whose answer was lost, may have finished it
            if error.status != httpx.codes.NOT_FOUND or not self._has(digest):
                raise


def _piece(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while start < end:
            chunk = file.read(min(end - start, _CHUNK))
            start += len(chunk)
            yield chunk
