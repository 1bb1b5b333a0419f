"""Repositories of the service in a container registry.

A registry has no locks and no owners. The owner (an image's life) of a repository stands in a small manifest of its
own under the tag OWNER_TAG; that an owner was deleted stands in the repository NOTES beside all images, whose name no
image can have. So the rules are those of layouts (`layout.py`): a push needs a repository that is absent or its own, a
deletion touches nothing but its own, and lets no late push of that owner in again. A push looks twice, before and after
it puts the image in place, and takes back what came too late; only a push and a deletion of *different* lives in the
same moment could miss each other, and the job queue never runs those at once.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx

from image_registry.builds.faults import ForeignRepositoryError, OwnerDeletedError, UnavailableError
from image_registry.builds.http import Result
from image_registry.builds.oci.layout import NOTE_SECONDS
from image_registry.builds.oci.manifest import Descriptor, Manifest, digest_of, parse_object
from image_registry.builds.oci.registry import Ask, RegistryClient
from image_registry.builds.oci.upload import Uploads

OWNER_TAG = "_owner"
NOTES = "image-registry.deleted"
"""Name, below the prefix, of the repository that holds a tag for each owner that was deleted."""
_OWNER = "ri.imageregistry.owner"
_DELETED_AT = "ri.imageregistry.deleted-at"
_OWNER_TYPE = "application/vnd.ri.imageregistry.owner"
_NOTE_TYPE = "application/vnd.ri.imageregistry.deleted"


class RegistryRepository:
    """One repository in a registry, within `prefix`.

    `known` and `base_repository` are those of Uploads. Raises ValueError for a repository outside the prefix, and for
    the one that holds notes.
    """

    def __init__(
        self, client: RegistryClient, repository: str, prefix: str, known: Path | None = None, base_repository: str = ""
    ) -> None:
        if not repository.startswith(f"{prefix}/") or repository == f"{prefix}/{NOTES}":
            raise ValueError(f"{repository} is not a repository within {prefix}")
        self._client = client
        self._repository = repository
        self._uploads = Uploads(client, repository, known, base_repository)
        self._notes = DeletionNotes(client, prefix)

    @property
    def owner(self) -> str | None:
        """Who pushed what is there; '' for what nobody of ours did, None for nothing. Raises UnavailableError."""
        annotations = _annotations(self._client.manifest, self._repository, OWNER_TAG)
        if annotations is None:
            return "" if tags(self._client, self._repository) else None
        return annotations.get(_OWNER, "")

    def push(
        self,
        owner: str,
        manifest: Manifest,
        files: Iterable[tuple[Descriptor, Path]],
        config: bytes,
        tags: Iterable[str],
    ) -> None:
        """Put an image in place under the tags; what was there before serves until it is.

        Blobs that the registry has are not sent again. Raises ForeignRepositoryError, OwnerDeletedError,
        UnavailableError.
        """
        if self._claimed(owner) is None:
            self._uploads.put_note(OWNER_TAG, _OWNER_TYPE, {_OWNER: owner})
        for descriptor, path in files:
            self._uploads.put_blob(descriptor, path)
        self._uploads.put_bytes(config)
        self._claimed(owner)
        for tag in tags:
            self._uploads.put_manifest(tag, manifest.data, manifest.media_type)
        if self._notes.has(owner):
            with contextlib.suppress(ForeignRepositoryError):
                self.remove({owner, ""})  # '': the deletion took our mark away before these tags came
            raise self._deleted()

    def remove(self, owners: set[str]) -> None:
        """Remove every tag with its manifest, for as long as the repository is one of the owners'.

        Raises ForeignRepositoryError when it isn't any more, and UnavailableError, also where a registry forbids it
        (HTTP 405).
        """
        # The owner's last: this can be tried again.
        for tag in sorted(tags(self._client, self._repository), key=lambda tag: tag == OWNER_TAG):
            remove_tag(self._client, self._repository, tag, lambda: self._still(owners))

    def while_owned(self, owner: str, action: Callable[[], Result], what: str) -> Result:
        """Do something several times if need be; before each, look whether the repository is still the owner's.

        Raises ForeignRepositoryError when it isn't any more, UnavailableError, and what the action does.
        """

        def once() -> Result:
            self._still({owner})
            return action()

        return self._client.insist(once, what)

    def _still(self, owners: set[str]) -> None:
        """One look, without patience of its own: the caller waits and looks again."""
        annotations = _annotations(self._client.manifest_once, self._repository, OWNER_TAG)
        if (annotations or {}).get(_OWNER, "") not in owners:
            raise ForeignRepositoryError(f"the repository {self._repository} belongs to another image by now")

    def _claimed(self, owner: str) -> str | None:
        if self._notes.has(owner):
            raise self._deleted()
        current = self.owner
        if current not in {None, owner}:
            raise ForeignRepositoryError(f"the repository {self._repository} still belongs to an image deleted before")
        return current

    def _deleted(self) -> OwnerDeletedError:
        return OwnerDeletedError(f"the image {self._repository} that this build is for was deleted meanwhile")


class DeletionNotes:
    """Which owners were deleted, as tags of one repository below the prefix; kept for as long as layouts keep them."""

    def __init__(self, client: RegistryClient, prefix: str) -> None:
        self._client = client
        self.repository = f"{prefix}/{NOTES}"

    def has(self, owner: str) -> bool:
        """Whether the owner was deleted. Raises UnavailableError."""
        return _annotations(self._client.manifest, self.repository, _tag(owner)) is not None

    def write(self, owner: str) -> None:
        """Remember that the owner was deleted. Raises UnavailableError."""
        annotations = {_OWNER: owner, _DELETED_AT: datetime.now(UTC).isoformat(timespec="seconds")}
        Uploads(self._client, self.repository).put_note(_tag(owner), _NOTE_TYPE, annotations)

    def old(self, now: datetime) -> list[str]:
        """Tags of notes that are older than a push could be late. Raises UnavailableError."""
        return [tag for tag in tags(self._client, self.repository) if self._is_old(tag, now)]

    def forget(self, tag: str) -> None:
        """Remove one. Raises UnavailableError."""
        remove_tag(self._client, self.repository, tag)

    def _is_old(self, tag: str, now: datetime) -> bool:
        annotations = _annotations(self._client.manifest, self.repository, tag) or {}
        try:
            deleted_at = datetime.fromisoformat(annotations[_DELETED_AT])
        except (KeyError, ValueError):
            return False
        return deleted_at.tzinfo is not None and deleted_at < now - timedelta(seconds=NOTE_SECONDS)


def _tag(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()


def tags(client: RegistryClient, repository: str) -> list[str]:
    """Return all tags of a repository; none if there is no such repository. Raises UnavailableError."""
    return listed(client, f"/v2/{repository}/tags/list?n=1000", repository, "tags")


def repositories(client: RegistryClient) -> list[str]:
    """Return all repositories of a registry, as far as it lists them to us. Raises UnavailableError."""
    return listed(client, "/v2/_catalog?n=1000", "", "repositories")


def listed(client: RegistryClient, path: str, repository: str, key: str) -> list[str]:
    """Return all pages of a list; a list that isn't there is empty. Raises UnavailableError, InvalidImageError."""
    found: list[str] = []
    what = f"{key} of {repository or client.host}"
    while path:
        try:
            answer = client.exchange(Ask("GET", path, repository), what)
        except UnavailableError as error:
            if error.status != httpx.codes.NOT_FOUND or not repository:
                raise
            return found
        page = parse_object(answer.body, f"the list of {key}").get(key) or []
        found += map(str, page)
        path = _next(answer.headers.get("link", "")) if page else ""
    return found


def _next(link: str) -> str:
    """The path of the next page in a `Link` header (RFC 8288); '' on the last one."""
    target, _, parameters = link.partition(">")
    parts = urlsplit(target.removeprefix("<"))
    return f"{parts.path}?{parts.query}" if 'rel="next"' in parameters and parse_qs(parts.query) else ""


def remove_tag(client: RegistryClient, repository: str, tag: str, check: Callable[[], object] = lambda: None) -> None:
    """Remove the manifest of a tag, and so the tag; no such tag is fine. Raises UnavailableError.

    `check`, which may raise what it likes, comes right before each request that removes something: after a wait the tag
    may be another's.
    """
    what = f"manifest {repository}:{tag}"

    def once() -> None:
        data, _ = client.manifest_once(repository, tag)
        check()
        client.exchange_once(Ask("DELETE", f"/v2/{repository}/manifests/{digest_of(data)}", repository), what)

    try:
        client.insist(once, what)
    except UnavailableError as error:
        if error.status != httpx.codes.NOT_FOUND:  # another tag of the same manifest took it along
            raise


def _annotations(read: Callable[[str, str], tuple[bytes, str]], repository: str, tag: str) -> dict[str, str] | None:
    """The annotations of a note, read by a client's `manifest` or `manifest_once`; None: there is no such tag."""
    with contextlib.suppress(KeyError):
        try:
            data, _ = read(repository, tag)
        except UnavailableError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            return None
        annotations = parse_object(data, f"the manifest {repository}:{tag}")["annotations"]
        if isinstance(annotations, dict):
            return {str(name): str(value) for name, value in annotations.items()}
    return {}
