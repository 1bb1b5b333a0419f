"""Any registry that speaks the OCI distribution API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import httpx

from image_registry.builds.credentials import Keyring
from image_registry.builds.faults import ForeignRepositoryError, UnavailableError
from image_registry.builds.http import UNTRUSTED
from image_registry.builds.lease import StopSign
from image_registry.builds.oci.push import NOTES, DeletionNotes, RegistryRepository, repositories
from image_registry.builds.oci.reference import RegistryReference, repository_within
from image_registry.builds.oci.registry import RegistryClient
from image_registry.builds.oci.upload import Uploads
from image_registry.builds.repositories.home import FoundRepository, HomeFaultError, Leftover


class RegistryHome:
    """Repositories in a registry, below the path of `root`. See Home.

    Homes whose registry has an API of its own override `_make`, `_remove` and `_names`.
    """

    _keeps_empty = False
    """Whether a repository without images is something that can be removed."""

    _remedy = (
        "set IMAGE_REGISTRY_REPOSITORY_USERNAME and IMAGE_REGISTRY_REPOSITORY_PASSWORD, or log in with docker; the "
        "account must be allowed to push, pull and delete below the prefix"
    )
    """What to do about credentials that are missing or not enough."""

    def __init__(self, root: RegistryReference, keyring: Keyring) -> None:
        self.root = f"{root.host}/{root.repository}"
        self._root = root
        self._keyring = keyring
        self._notes = f"{root.repository}/{NOTES}"

    def prepare(self, repository: str) -> None:
        """See Home."""
        name = repository_within(repository, self._root)
        self._make(self._notes)
        self._make(name)

    def delete(self, repository: str, owner: str, stop: StopSign | None = None) -> bool:
        """See Home."""
        name = repository_within(repository, self._root)
        stop = stop or StopSign()
        with self._client(stop) as client:
            found = RegistryRepository(client, name, self._root.repository)
            self._make(self._notes)
            DeletionNotes(client, self._root.repository).write(owner)
            current = found.owner
            if current is None:
                return self._remove_empty(name, stop)
            try:
                return current == owner and self._remove(found, name, owner, stop)
            except ForeignRepositoryError:  # removed by another attempt, and made anew
                return False

    def repositories(self) -> Iterator[FoundRepository]:
        """See Home."""
        with self._client() as client:
            for name in self._names(client):
                if name.startswith(f"{self._root.repository}/") and name != self._notes:
                    owner = RegistryRepository(client, name, self._root.repository).owner
                    if owner is not None or self._keeps_empty:
                        yield FoundRepository(f"{self._root.host}/{name}", owner)

    def leftovers(self) -> Iterator[Leftover]:
        """See Home."""
        with self._client() as client:
            for tag in DeletionNotes(client, self._root.repository).old(datetime.now(UTC)):
                yield Leftover("an old note", tag)

    def discard(self, leftover: Leftover) -> None:
        """See Home."""
        with self._client() as client:
            DeletionNotes(client, self._root.repository).forget(leftover.name)

    def check(self) -> str:
        """See Home. It begins an upload and gives it up again."""
        return self._judged(self._try_out)

    def _try_out(self) -> str:
        self._make(self._notes)
        with self._client() as client:
            Uploads(client, self._notes).try_out()
        return f"{self.root} takes uploads ({self._keyring.explain(self._root.host)})"

    def _make(self, name: str) -> None:
        """Make a repository below the root if it isn't there; here a push does."""

    def _remove(self, found: RegistryRepository, name: str, owner: str, stop: StopSign) -> bool:  # noqa: ARG002
        """Remove a repository of the owner's; return whether there was something. Raises ForeignRepositoryError."""
        found.remove({owner})
        return True

    def _remove_empty(self, name: str, stop: StopSign) -> bool:  # noqa: ARG002
        """Remove a repository that held nothing a moment ago; return whether there was one."""
        return False

    def _names(self, client: RegistryClient) -> list[str]:
        """All repositories that might be below the root."""
        return repositories(client)

    @contextmanager
    def _client(self, stop: StopSign | None = None) -> Iterator[RegistryClient]:
        with RegistryClient(self._keyring.access(self._root.host), stop) as client:
            yield client

    def _judged(self, action: Callable[[], str]) -> str:
        """Run an action and turn what goes wrong into words for the person who configured this."""
        try:
            return action()
        except UnavailableError as error:
            raise self._fault(error) from error
        except OSError as error:
            text = (
                f"the certificates in {self._keyring.ca_bundle} can't be read: {error.strerror or type(error).__name__}"
            )
            raise HomeFaultError(text, "correct IMAGE_REGISTRY_REGISTRY_CA_BUNDLE", is_passing=False) from None

    def _fault(self, error: UnavailableError) -> HomeFaultError:
        host = self._root.host
        if error.status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            text = f"{self.root} refuses uploads ({error}); {self._keyring.explain(host)}"
            return HomeFaultError(text, self._remedy, is_passing=False)
        if error.status == UNTRUSTED:
            remedy = "name its certificate authority with IMAGE_REGISTRY_REGISTRY_CA_BUNDLE"
            return HomeFaultError(
                f"{host}: the certificate is of no authority that is trusted", remedy, is_passing=False
            )
        if error.status == 0:
            remedy = (
                "start it, or correct IMAGE_REGISTRY_REPOSITORY; if it speaks plain HTTP, say so with "
                f"IMAGE_REGISTRY_REGISTRY_ENDPOINTS={host}=http://{host}"
            )
            return HomeFaultError(f"{host} can't be reached: {error}", remedy, is_passing=True)
        text = f"{self.root} takes no uploads: {error}"
        return HomeFaultError(text, "correct IMAGE_REGISTRY_REPOSITORY", is_passing=error.is_transient)
