"""Putting blobs and manifests into one repository of a registry, sending nothing that the registry has already."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import httpx

from image_registry.builds.faults import UnavailableError
from image_registry.builds.files import write_whole
from image_registry.builds.http import run_once, wait_for
from image_registry.builds.oci.manifest import OCI_MANIFEST, Descriptor, canonical_json, digest_of
from image_registry.builds.oci.registry import Ask, RegistryClient

_PIECE = 16 * 1024 * 1024
_CHUNK = 1 << 20
_OCTETS = {"Content-Type": "application/octet-stream"}
_NOTHING = {"Content-Length": "0"}
_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"  # image-spec, "Guidance for an Empty Descriptor"
_EMPTY = b"{}"


class Uploads:
    """Uploads to one repository.

    `known` is a folder that keeps where in the registry each blob is, so that it can be mounted instead of uploaded
    (None: nothing is kept); `base_repository` is where in the registry the base image is, if it is there.
    All methods raise UnavailableError.
    """

    def __init__(
        self, client: RegistryClient, repository: str, known: Path | None = None, base_repository: str = ""
    ) -> None:
        self._client = client
        self._repository = repository
        self._known = known
        self._base_repository = base_repository

    def put_manifest(self, reference: str, data: bytes, media_type: str) -> None:
        """Put a manifest in place under a tag or its digest."""
        path = f"/v2/{self._repository}/manifests/{reference}"
        ask = Ask("PUT", path, self._repository, {"Content-Type": media_type}, lambda: data)
        self._client.exchange(ask, f"manifest {self._repository}:{reference}")

    def put_note(self, tag: str, artifact_type: str, annotations: dict[str, str]) -> None:
        """Put a manifest that holds nothing but annotations under a tag (image-spec, "Artifacts Guidance")."""
        self.put_bytes(_EMPTY)
        empty = Descriptor(_EMPTY_TYPE, digest_of(_EMPTY), len(_EMPTY)).to_json()
        note = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": empty,
            "layers": [empty],
            "annotations": annotations,
        }
        self.put_manifest(tag, canonical_json(note), OCI_MANIFEST)

    def put_bytes(self, data: bytes) -> None:
        """Put a small blob in place."""
        digest = digest_of(data)
        if not self._has(digest):
            self._finish(self._begin(digest), digest, data)

    def put_blob(self, blob: Descriptor, path: Path) -> None:
        """Put a file in place: by a mount where the registry allows it, else in pieces."""
        if not self._has(blob.digest) and not self._mount(blob.digest):
            self._upload(blob, path)
        if note := self._note(blob.digest):
            note.parent.mkdir(parents=True, exist_ok=True)
            write_whole(note, self._repository.encode())

    def try_out(self) -> None:
        """Begin an upload and give it up: whether the registry is there and would take one."""
        self._cancel(self._begin(digest_of(_EMPTY)))

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
                answer = run_once(partial(self._client.exchange_once, ask, what), what)
            except UnavailableError as fault:
                wait = next(waits, None)
                if wait is None or not fault.is_transient:
                    raise
                wait_for(fault, wait)
                location, sent = self._progress(location, blob.digest)
            else:
                location, sent = answer.headers.get("location", location), end
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
