"""Who may call what: one table, looked at before anything else of a call is."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import grpc
from grpc import aio

from image_registry.api.guarding import abort, refusal
from image_registry.api.methods import Handler
from image_registry.api.request_ids import request_id
from image_registry.api.ways import via
from image_registry.errors import Reason, RegistryError
from image_registry.models import Role
from image_registry.registry import caller
from image_registry.registry.audit import AuditTrail
from image_registry.registry.caller import Caller
from image_registry.registry.keys import KeyRing
from image_registry.registry.rates import Bucket, Rates

log = logging.getLogger(__name__)

KEY_HEADER = "rime-api-key"
_LINES = 10  # lines per second about refused calls
_MEMBERS = frozenset({Role.MEMBER, Role.ADMIN})
_EVERY_ROLE = frozenset(Role)

_Context: TypeAlias = "aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call a method.

    `keyless`: everybody. `by_link`: also the holder of a signed link, which the handler checks. `audited`: calls go
    into the audit log.
    """

    roles: frozenset[Role] = frozenset()
    keyless: bool = False
    by_link: bool = False
    audited: bool = False


# A method without a row is refused. A load balancer asks for health and has no key.
RULES: Mapping[str, Rule] = {
    "/rime.ImageRegistry/CreateImage": Rule(_MEMBERS, audited=True),
    "/rime.ImageRegistry/GetImage": Rule(_EVERY_ROLE),
    "/rime.ImageRegistry/ListImages": Rule(_EVERY_ROLE),
    "/rime.ImageRegistry/DeleteImage": Rule(frozenset({Role.ADMIN}), audited=True),
    "/rime.ImageRegistry/EnsureImageExistence": Rule(frozenset({Role.SYSTEM}), audited=True),
    "/rime.ImageRegistry/SyncImageTag": Rule(frozenset({Role.SYSTEM}), audited=True),
    "/rime.ImageRegistry/UpdateBuildInfo": Rule(frozenset({Role.SYSTEM}), audited=True),
    "/rime.JobReader/GetJob": Rule(_EVERY_ROLE),
    "/rime.JobReader/ListJobs": Rule(_EVERY_ROLE),
    "/rime.JobReader/CancelJob": Rule(_MEMBERS, audited=True),
    "/rime.ImageWatch/WatchImage": Rule(_EVERY_ROLE),
    "/rime.ImageLocks/GetImageLock": Rule(_EVERY_ROLE),
    "/rime.ImageFinder/FindImages": Rule(_EVERY_ROLE),
    "/rime.JobLogs/ReadJobLogs": Rule(_EVERY_ROLE, by_link=True),
    "/grpc.health.v1.Health/Check": Rule(keyless=True),
    "/grpc.health.v1.Health/Watch": Rule(keyless=True),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(_EVERY_ROLE),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Rule(_EVERY_ROLE),
}
NO_RULE = Rule()
_proven: ContextVar[Caller | None] = ContextVar("proven", default=None)  # by the key of the call under way
_LINK_HOLDER = Caller("holder of a signed link", Role.MEMBER)


class Access(aio.ServerInterceptor):
    """Finds out who calls, and refuses what their role doesn't include.

    `keys` None: callers aren't checked. `certificates` maps names in client certificates to roles: such a caller needs
    no key. With keys this is the server's interceptor too: who is unknown, or too fast, is refused before the body of
    the request is read. `shown` is what a refusal becomes before it leaves, given the method's name.
    """

    def __init__(
        self,
        *,
        keys: KeyRing | None,
        certificates: Mapping[str, Role],
        rates: Rates,
        audit: AuditTrail,
        shown: Callable[[Handler, str], Handler],
    ) -> None:
        self._keys = keys
        self._certificates = certificates
        self._rates = rates
        self._audit = audit
        self._shown = shown
        self._lines = Bucket(_LINES, _LINES)

    def interceptors(self) -> Sequence[aio.ServerInterceptor]:
        """Those that the server needs."""
        return [self] if self._keys is not None else []

    def around(self, handler: Handler, method: str) -> Handler:
        """The method's handler behind its checks, and with its line in the audit log."""
        rule = RULES.get(method, NO_RULE)
        if self._keys is not None and not rule.keyless:
            handler = _checked(handler, partial(self._check, method))
        return self._audited(handler, method) if rule.audited else handler

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The method's handler, or one that refuses."""
        method = handler_call_details.method
        rule = RULES.get(method, NO_RULE)
        if self._keys is not None and not rule.keyless:
            try:
                known = await self._by_key(handler_call_details, self._keys, rule)
            except Exception as error:  # noqa: BLE001 (told apart there; raised from here it would show itself to anyone)
                if isinstance(error, RegistryError):
                    self._note_refusal(method, error)
                return self._shown(refusal(error, method), method)
            _proven.set(known)
        return await continuation(handler_call_details)

    async def _by_key(self, details: grpc.HandlerCallDetails, keys: KeyRing, rule: Rule) -> Caller | None:
        """Whose key the call has; None: it has none, and another proof might do."""
        sent = [value for name, value in details.invocation_metadata or () if name == KEY_HEADER]
        if not sent:
            if self._certificates or rule.by_link:
                return None
            raise _no_key()
        if len(sent) > 1 or not isinstance(sent[0], str):
            raise RegistryError(Reason.KEY_INVALID, f"the call has several values of {KEY_HEADER}")
        known = await keys.verify(sent[0])
        self._rates.take(known)
        return known

    def _check(self, method: str, request: Any, context: _Context) -> None:
        rule = RULES.get(method, NO_RULE)
        found = _proven.get() or self._by_certificate(context)
        if found is None and rule.by_link and request.signature:
            found = _LINK_HOLDER
        if found is None:
            raise _no_key()
        caller.set_current(found)
        if found.role not in rule.roles:
            raise _not_allowed(found, rule)

    def _by_certificate(self, context: _Context) -> Caller | None:
        """Who the client's certificate says it is, if that name has a role. Subject alternative names go first."""
        proofs = context.auth_context()
        for kind in ("x509_subject_alternative_name", "x509_common_name"):
            for name in (value.decode(errors="replace") for value in proofs.get(kind, ())):
                if role := self._certificates.get(name):
                    found = Caller(f"certificate {name}", role)
                    self._rates.take(found)
                    return found
        return None

    def _audited(self, handler: Handler, method: str) -> Handler:
        behaviour: Any = handler.unary_unary

        async def audited(request: Any, context: _Context) -> Any:
            began = time.perf_counter()
            result = "UNKNOWN"  # the call was cancelled, or its deadline passed
            try:
                response = await behaviour(request, context)
                result = "OK"
            except RegistryError as error:
                result = error.reason.name
                raise
            except Exception:
                result = Reason.INTERNAL.name
                raise
            finally:
                self._audit.note(
                    caller.current(),
                    what=method.rpartition("/")[2],
                    target=getattr(request, "name", "") or getattr(request, "job_id", ""),
                    result=result,
                    request_id=request_id(context),
                    duration_ms=round((time.perf_counter() - began) * 1000, 2),
                    via=via(context),
                )
            return response

        return grpc.unary_unary_rpc_method_handler(
            audited,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _note_refusal(self, method: str, error: RegistryError) -> None:
        """A line for the operators; not one for each call of a flood."""
        if not self._lines.take():
            log.warning("refused %s: %s", ascii(method[:100]), error)


def _checked(handler: Handler, check: Callable[[Any, _Context], None]) -> Handler:
    """The handler behind a check that raises RegistryError; of streams of requests, before the first is read."""
    behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_stream

    async def unary(request: Any, context: _Context) -> Any:
        check(request, context)
        return await behaviour(request, context)

    async def stream(request: Any, context: _Context) -> AsyncIterator[Any]:
        check(request, context)
        async for message in behaviour(request, context):
            yield message

    async def both(requests: Any, context: _Context) -> AsyncIterator[Any]:
        try:
            check(None, context)
        except RegistryError as error:
            await abort(context, error)
        async for message in behaviour(requests, context):
            yield message

    coding = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(unary, **coding)
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(stream, **coding)
    if handler.stream_stream is not None:
        return grpc.stream_stream_rpc_method_handler(both, **coding)
    return refusal(RegistryError(Reason.ROLE_NOT_ALLOWED, "methods of this kind are not served"))


def _no_key() -> RegistryError:
    return RegistryError(Reason.KEY_MISSING, f"this needs an API key, as the metadata or header {KEY_HEADER}")


def _not_allowed(found: Caller, rule: Rule) -> RegistryError:
    allowed = " or ".join(sorted(role.value for role in rule.roles)) or "nobody"
    return RegistryError(
        Reason.ROLE_NOT_ALLOWED, f"this is for the role {allowed}, and {found.identity} has {_role(found)}"
    )


def _role(found: Caller) -> str:
    return found.role.value if found.role else "none"
