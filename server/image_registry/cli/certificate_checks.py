"""What `doctor` says about the certificates that are configured on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from image_registry.cli.findings import Finding, broken, notice, ok
from image_registry.host.certificates import authority_end, chain_end
from image_registry.settings import PREFIX, Settings

NOTICE_DAYS = 14  # as the alert rule has it
_PART = "certificates"
_RENEW = "renew it in place, by a rename: it is used from the next connection on, without a restart"


def certificates(settings: Settings, now: datetime) -> list[Finding]:
    """Those that can't be read, have ended or soon will; one finding if all is well, none if there are none."""
    found = [_look(name, path, end, now) for name, path, end in _configured(settings)]
    faults = [finding for finding in found if isinstance(finding, Finding)]
    if faults or not found:
        return faults
    first = min(end for end in found if isinstance(end, datetime))
    return [ok(_PART, f"{len(found)} configured, the first of them is good until {first:%Y-%m-%d}")]


def _configured(settings: Settings) -> Iterator[tuple[str, Path, Callable[[bytes], datetime]]]:
    for name in ("tls_certificate", "http_tls_certificate", "upstream_certificate"):
        if path := getattr(settings, name):
            yield name, path, chain_end
    for name in ("tls_client_ca", "http_tls_client_ca", "upstream_ca", "otlp_ca"):
        if path := getattr(settings, name):
            yield name, path, authority_end


def _look(name: str, path: Path, end_of: Callable[[bytes], datetime], now: datetime) -> Finding | datetime:
    named = f"{path} ({PREFIX}{name.upper()})"
    try:
        end = end_of(path.read_bytes())
    except OSError as error:
        return broken(
            _PART, f"{named} can't be read: {error.strerror}", "put it there, readable for the service's user"
        )
    except ValueError as error:
        return broken(_PART, f"{named} can't be used: {error}", "it has to be a PEM file of certificates")
    left = end - now
    if left.total_seconds() <= 0:
        return broken(_PART, f"{named} ended on {end:%Y-%m-%d %H:%M} UTC", _RENEW)
    if left.days < NOTICE_DAYS:
        return notice(_PART, f"{named} ends on {end:%Y-%m-%d %H:%M} UTC, in {left.days} days", _RENEW)
    return end
