"""The folder that holds everything a local installation keeps."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from image_registry.host import StartError, with_variable

_OPTION = with_variable("--data-dir")


@dataclass(frozen=True)
class DataDir:
    """Names of the parts of a data folder; `create` makes them."""

    path: Path

    @property
    def postgres(self) -> Path:
        """The embedded Postgres: its cluster and its password."""
        return self.path / "postgres"

    @property
    def images(self) -> Path:
        """Built images, when no registry is configured."""
        return self.path / "images"

    @property
    def cache(self) -> Path:
        """What can be deleted at any time and is made again: wheels, layers."""
        return self.path / "cache"

    @property
    def logs(self) -> Path:
        """One log file for each process."""
        return self.path / "logs"

    @property
    def run(self) -> Path:
        """Files that mean something only while the product runs: the lock."""
        return self.path / "run"

    @property
    def bases(self) -> Path:
        """Base images made on this machine."""
        return self.path / "bases"

    def create(self) -> "DataDir":
        """Make the folder (readable by its owner alone) and its parts where they are missing.

        Raises StartError with one sentence when that can't be done.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in (self.postgres, self.images, self.cache, self.logs, self.run, self.bases):
                part.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartError(_cannot_create(self.path, error)) from error
        if not os.access(self.run, os.W_OK | os.X_OK):
            raise StartError(
                f"the data folder {self.path} can't be written by this user; choose another with {_OPTION}"
            )
        return self

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Hold the folder for this process alone; yields whether the last holder was killed rather than stopped.

        The kernel drops the lock with the process, however it ends. Raises StartError that names the
        process which holds the folder already.
        """
        lock_path = self.run / "up.lock"
        try:
            descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(f"{lock_path} can't be opened: {error.strerror}") from error
        try:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StartError(
                    f"{self.path} is in use by another `image-registry up` (process {holder or 'unknown'}): "
                    f"stop it, or choose another folder with {_OPTION}"
                ) from None
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            try:
                yield bool(holder)
            finally:
                os.truncate(descriptor, 0)
        finally:
            os.close(descriptor)


def _cannot_create(path: Path, error: OSError) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        tried = Path(error.filename)
        blocking = next(part for part in (tried, *tried.parents) if part.exists())
        return f"the data folder {path} can't be used: {blocking} is not a folder"
    reason = (error.strerror or str(error)).lower()
    fault = "written" if os.path.isdir(path) else "created"  # noqa: PTH112 (Path's raises where this user can't look)
    return f"the data folder {path} can't be {fault}: {error.filename}: {reason}; choose another with {_OPTION}"
