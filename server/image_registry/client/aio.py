"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import grpc
from google.api.httpbody_pb2 import HttpBody
from grpc import aio

from image_registry.client import base, calls, waiting
from image_registry.client.calls import Call, Page
from image_registry.client.channel import Target
from image_registry.client.errors import from_rpc_error
from image_registry.client.flow import Flow, Pause, Send, Step, perform
from image_registry.client.logs import LogText
from image_registry.client.models import (
    CreateImageResult,
    FoundImage,
    ImageLock,
    JobMetadata,
    JobStatus,
    ManagedImage,
    PackageRequirement,
    PackageType,
    PipLibrary,
    PipLibraryFilter,
    PipRequirement,
    SyncImageTagResult,
    WaitProgress,
)
from image_registry.client.requirements import as_list
from image_registry.client.waiting import Waitable

T = TypeVar("T")


class AsyncImageRegistryClient(base.ClientBase):
    """The image registry, for asyncio. A client belongs to the event loop that uses it first; `async with` closes it.

        async with AsyncImageRegistryClient("127.0.0.1:50051") as registry:
            created = await registry.create_image("vision", ["numpy>=1.26", "uvicorn[standard]"])
            image = await registry.wait(created, timeout=600)
            async for image in registry.list_images(["numpy==1.26.4"]):
                print(image.name, image.repo_uri)

    Every method raises a subclass of `CallError` when the call fails, RequirementError for a requirement
    that can't be read. Reads and repeatable writes are retried, see `RetryPolicy`.
    """

    _channel: aio.Channel | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; the client makes a new one if it is used again."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    @overload
    async def create_image(
        self,
        name: str,
        pip_requirements: Iterable[str | PipRequirement] = (),
        package_requirements: Iterable[str | PackageRequirement] = (),
        *,
        package_type: PackageType = PackageType.APT,
        python_version: str = "",
        request_id: str | None = None,
        reuse: Literal[False] = False,
    ) -> CreateImageResult: ...

    @overload
    async def create_image(
        self,
        name: str,
        pip_requirements: Iterable[str | PipRequirement] = (),
        package_requirements: Iterable[str | PackageRequirement] = (),
        *,
        package_type: PackageType = PackageType.APT,
        python_version: str = "",
        request_id: str | None = None,
        reuse: bool,
    ) -> CreateImageResult | FoundImage: ...

    async def create_image(
        self,
        name: str,
        pip_requirements: Iterable[str | PipRequirement] = (),
        package_requirements: Iterable[str | PackageRequirement] = (),
        *,
        package_type: PackageType = PackageType.APT,
        python_version: str = "",
        request_id: str | None = None,
        reuse: bool = False,
    ) -> CreateImageResult | FoundImage:
        """Record a new image and launch its build; `wait` waits for it.

        Requirements are strings such as 'numpy>=1.26' and 'git', or the typed values. `package_type` is that of the
        packages given as strings. An empty `python_version` is the deployment's default. With `reuse` the best READY
        image that holds all of it already is returned instead, whatever its name is, and of any Python version unless
        one is named; `find_images` says which is the best.

        Within a day the same request under the same `request_id` is answered as the first one was: give one of your
        own to repeat a create safely from another process; without one, each call has a new one.
        Raises AlreadyExistsError, InvalidArgumentError with all faults, FailedPreconditionError for a `request_id`
        that was sent with another request.
        """
        pips, packages = as_list(pip_requirements), as_list(package_requirements)
        create = base.create_call(name, pips, packages, package_type, python_version, request_id)
        if reuse:
            for found in await self._perform(base.find_call(pips, packages, package_type, python_version, 1)):
                return found
        return await self._perform(create)

    async def find_images(
        self,
        pip_requirements: Iterable[str | PipRequirement] = (),
        package_requirements: Iterable[str | PackageRequirement] = (),
        *,
        package_type: PackageType = PackageType.APT,
        python_version: str = "",
        max_results: int = 0,
    ) -> list[FoundImage]:
        """The READY images that hold all of these, the one with the fewest further libraries first, then the newest.

        Requirements are those of `create_image`, version ranges included. An empty `python_version` is any;
        `max_results` of 0 leaves the number to the service, which gives at most 100.
        Raises InvalidArgumentError with all faults.
        """
        call = base.find_call(pip_requirements, package_requirements, package_type, python_version, max_results)
        return await self._perform(call)

    async def get_image(self, name: str) -> ManagedImage:
        """One image with its children. Raises NotFoundError."""
        return await self._perform(calls.get_image(name))

    async def get_image_lock(self, name: str) -> ImageLock:
        """Every wheel that the image's last good build put into it, with its hash.

        Raises NotFoundError, FailedPreconditionError for an image that this service has not built yet.
        """
        return await self._perform(calls.get_image_lock(name))

    def list_images(
        self, pip_libraries: Iterable[str | PipLibraryFilter] = (), *, page_size: int = 0
    ) -> AsyncIterator[ManagedImage]:
        """The images in name order that hold all of these libraries ('numpy', 'numpy==1.26.4'), fetched page by page.

        `page_size` of 0 leaves the size of a page to the service.
        """
        wanted = base.filters(pip_libraries)
        return self._pages(lambda token: calls.list_images(wanted, page_size, token))

    async def delete_image(self, name: str) -> None:
        """Remove an image and its repository. Raises NotFoundError, PermissionDeniedError, FailedPreconditionError."""
        await self._perform(calls.delete_image(name))

    async def sync_image_tag(self, name: str, *, force: bool = False) -> SyncImageTagResult:
        """Rebuild an image at the platform's current tag unless it is READY at that tag already and not `force`d."""
        return await self._perform(calls.sync_image_tag(name, force=force))

    async def ensure_image_existence(self) -> None:
        """See to it that every supported Python has its system image at the current tag. For the platform."""
        await self._perform(calls.ensure_image_existence())

    async def update_build_info(
        self, name: str, *, built_successfully: bool, pip_libraries: Iterable[str | PipLibrary] = ()
    ) -> None:
        """Report the result of a build that was made outside the service. For builders."""
        await self._perform(base.update_call(name, pip_libraries, built_successfully=built_successfully))

    async def get_job(self, job_id: str) -> JobMetadata:
        """One job in the full view. Raises NotFoundError."""
        return await self._perform(calls.get_job(job_id))

    def list_jobs(
        self,
        statuses: Iterable[JobStatus] = (),
        *,
        image_name: str | None = None,
        page_size: int = 0,
        full: bool = False,
    ) -> AsyncIterator[JobMetadata]:
        """The jobs in any of these statuses (none: all), the newest first, fetched page by page.

        `full` fills `job_progress_str`.
        """
        selected = list(statuses)
        return self._pages(lambda token: calls.list_jobs(selected, image_name, page_size, token, full=full))

    async def cancel_job(self, job_id: str) -> None:
        """Have a job stopped; twice is the same as once. Raises NotFoundError, or FailedPreconditionError when over."""
        await self._perform(calls.cancel_job(job_id))

    async def read_job_logs(self, job_id: str, *, follow: bool = False) -> AsyncIterator[str]:
        """The lines of a build's log; with `follow` new ones as well until the job ends. Raises NotFoundError."""
        text = LogText(self._limits.retry)
        while True:
            stream = self._log_stream(job_id, follow=follow)
            try:
                async for piece in stream:
                    for line in text.feed(piece.data):
                        yield line
            except grpc.RpcError as error:
                await asyncio.sleep(text.broken_off(from_rpc_error(error, self.address)))
            else:
                for line in text.end():
                    yield line
                return
            finally:
                stream.cancel()

    async def wait(
        self,
        what: Waitable,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  the error carries what was seen last
        interval: float = 1.0,
        on_progress: Callable[[WaitProgress], object] | None = None,
    ) -> ManagedImage:
        """Wait until an image is built, and return it.

        `what` is an image's name, or the answer of `create_image` or `sync_image_tag`, whose very job is then
        followed. It is looked at every `interval` seconds, more often in the beginning, and `on_progress` is called
        each time. The service may be away for a minute meanwhile.
        Raises BuildFailedError, BuildCancelledError, WaitTimeoutError after `timeout` seconds (None: never).
        """
        plan = waiting.plan(what, timeout=timeout, interval=interval, on_progress=on_progress)
        return await self._run(waiting.wait(plan, self._limits))

    async def is_serving(self) -> bool:
        """Whether the server says of itself that it serves; it doesn't while its database is away."""
        return await self._perform(calls.is_serving())

    async def _perform(self, call: Call[T]) -> T:
        return await self._run(perform(call, self._limits))

    async def _pages(self, page: Callable[[str], Call[Page[T]]]) -> AsyncIterator[T]:
        token = ""
        while True:
            found = await self._perform(page(token))
            for item in found.items:
                yield item
            token = found.next_page_token
            if not token:
                return

    async def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    outcome = await self._do(step)
                except grpc.RpcError as error:
                    step = flow.throw(from_rpc_error(error, self.address))
                else:
                    step = flow.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _do(self, step: Step) -> Any:
        match step:
            case Send(call, timeout, wait_for_ready):
                invoke: Any = self._open().unary_unary(call.method, calls.encode)
                metadata = (*self._key.metadata(), *call.metadata)
                return call.read(
                    await invoke(call.request, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready)
                )
            case Pause(seconds):
                return await asyncio.sleep(seconds)

    def _log_stream(self, job_id: str, *, follow: bool) -> Any:
        request = calls.read_job_logs(job_id, follow=follow)
        invoke: Any = self._open().unary_stream(calls.READ_JOB_LOGS, calls.encode, HttpBody.FromString)
        timeout = None if follow else self._limits.timeout
        return invoke(request, timeout=timeout, metadata=self._key.metadata())

    def _open(self) -> aio.Channel:
        if self._channel is None:
            self._channel = _channel(self._target)
        return self._channel


def _channel(target: Target) -> aio.Channel:
    if target.credentials is None:
        return aio.insecure_channel(target.address, target.options)
    return aio.secure_channel(target.address, target.credentials, target.options)
