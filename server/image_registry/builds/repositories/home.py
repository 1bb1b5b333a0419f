"""The interface of the places where repositories live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from image_registry.builds.lease import StopSign


class HomeFaultError(Exception):
    """A home can't be used; `remedy` is what to do about it, `is_passing` says that it may be well again by itself."""

    def __init__(self, text: str, remedy: str, *, is_passing: bool) -> None:
        super().__init__(text)
        self.remedy = remedy
        self.is_passing = is_passing


@dataclass(frozen=True)
class FoundRepository:
    """A repository below the root: its `repo_uri`, and its owner ('': not one of ours, None: it holds no image yet).

    `touched` is the time (of `time.time`) when something was last put in, as far as its home tells; else 0.
    """

    repository: str
    owner: str | None
    touched: float = 0.0


@dataclass(frozen=True)
class Leftover:
    """What is below the root, is no repository, and serves nothing any more: what it is, and a name for its home."""

    what: str
    name: str


class Home(Protocol):
    """A place for repositories, all of them below one root, which is never left.

    Repositories are named as in `repo_uri`. All methods block, raise ValueError for a repository outside the root,
    and UnavailableError or OSError for what may pass.
    """

    root: str

    def prepare(self, repository: str) -> None:
        """See to it that a build can push to the repository."""

    def delete(self, repository: str, owner: str, stop: StopSign | None = None) -> bool:
        """Remove a repository if it is the owner's or was never finished; return whether something was removed.

        False, and nothing is touched, when it is absent or another life's. No later push of this owner succeeds.
        Raises StoppedError when `stop` says so; what is not removed by then stays.
        """

    def repositories(self) -> Iterator[FoundRepository]:
        """All repositories below the root."""

    def leftovers(self) -> Iterator[Leftover]:
        """Notes of deletions that no push could be late for any more, and what crashes left."""

    def discard(self, leftover: Leftover) -> None:
        """Remove one of them; it may be gone already."""

    def check(self) -> str:
        """Say in a few words that a build could push here. Raises HomeFaultError."""
