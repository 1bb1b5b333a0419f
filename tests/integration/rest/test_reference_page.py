"""The tables of refusals in docs/rest.md hold what a running service answers.

`WRITE_REFERENCE=1 pytest tests/integration/rest/test_reference_page.py` writes them.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from image_registry.openapi.document import build
from tests.fixtures.rest import Rest, running_rest
from tests.fixtures.service import make_settings
from tests.integration.gateway.conftest import proxied
from tests.integration.gateway.test_refusals import REFUSALS, exchange
from tests.integration.rest.refusals import BY_ACCESS, BY_THE_SERVICE, send, service_with_an_image, service_with_keys

PAGE = Path(__file__).parents[3] / "docs/rest.md"
BEGIN, END = "<!-- answers: begin -->\n", "<!-- answers: end -->"
LONGEST_REQUEST = 90  # characters; a longer one is described, not shown
RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=imgreg_)[0-9a-f]{8}")  # ids of jobs and keys


@dataclass(frozen=True)
class Answer:
    """A row: the request, and what came back."""

    wrong: str
    request: str
    status: int
    error: dict[str, Any]
    headers: dict[str, str]

    def cells(self) -> list[str]:
        """What the table shows of it; `Allow` and `Retry-After` stand with the status."""
        extra = [
            f"{name}: {self.headers[name.lower()]}" for name in ("Allow", "Retry-After") if name.lower() in self.headers
        ]
        return [
            self.wrong,
            code(self.request),
            ", ".join([str(self.status), *extra]),
            str(self.error["code"]),
            *([self.reason] if self.reason else []),
            escaped(self.error["message"]),
        ]

    @property
    def reason(self) -> str:
        """The reason in the first detail, '' where there are no details."""
        return f"`{self.error['details'][0]['reason']}`" if self.error["details"] else ""


def code(text: str) -> str:
    """Text as code in a table, '' for nothing."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def escaped(text: str) -> str:
    """The first line of a text, for a table, without what differs from run to run."""
    return RANDOM.sub("…", text).partition("\n")[0].replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").strip()


def shown(request: bytes) -> str:
    """A raw request as people would write it, '' if it is too long for that."""
    head, _, body = request.partition(b"\r\n\r\n")
    line = head.split(b"\r\n")[0].removesuffix(b" HTTP/1.1") + b" " * bool(body) + body
    text = line.decode("latin-1").encode("ascii", "backslashreplace").decode()
    return text if len(text) <= LONGEST_REQUEST and text.isprintable() else ""


def described(response: httpx.Response, wrong: str, request: str) -> Answer:
    """The row of a response."""
    return Answer(wrong, request, response.status_code, response.json(), dict(response.headers))


def table(heading: tuple[str, ...], answers: list[Answer]) -> str:
    """A Markdown table."""
    rows = [heading, tuple("---" for _ in heading), *(answer.cells() for answer in answers)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


async def answers_of_the_gateway(rest: Rest) -> list[Answer]:
    """Those that never reach a server, and the two for servers that don't answer."""
    found = []
    for refusal in REFUSALS:
        if refusal.title == "slow server":
            async with proxied(request_timeout=1) as slow:
                status, headers, body = await exchange(slow, refusal.request)
        else:
            status, headers, body = await exchange(rest, refusal.request)  # type: ignore[arg-type]
        found.append(Answer(refusal.title, shown(refusal.request), status, json.loads(body), headers))
    await rest.service.server.grpc.stop(None)
    away = await rest.http.get("/v1/images")
    return [*found, described(away, "no server", "GET /v1/images")]


async def test_the_tables_hold_what_a_running_service_answers(dsn: str, tmp_path: Path) -> None:
    service = []
    async with service_with_an_image(dsn, tmp_path) as (rest, job):
        for refused in BY_THE_SERVICE:
            response = await send(rest, refused, job=job)
            body = f" {json.dumps(refused.body)}" if refused.body else ""
            header = f" (x-request-id: {refused.request_id})" if refused.request_id else ""
            service.append(described(response, refused.wrong, f"{refused.method} {refused.path}{body}{header}"))
        gateway = await answers_of_the_gateway(rest)
    access = []
    async with service_with_keys(dsn, tmp_path) as (rest, keys):
        for refused in BY_ACCESS:
            response = await send(rest, refused, key=keys.get(refused.as_role, ""))
            access.append(described(response, refused.wrong, f"{refused.method} {refused.path}"))

    full = ("what is wrong", "request", "HTTP", "code", "reason", "message")
    parts = (
        ("By the gateway", (*full[:4], full[5]), gateway),
        ("By the service", full, service),
        ("By the check of keys", full, access),
    )
    written = "".join(f"\n### {title}\n\n{table(heading, answers)}" for title, heading, answers in parts) + "\n"
    page = PAGE.read_text()
    before, _, rest_of_page = page.partition(BEGIN)
    _, mark, after = rest_of_page.partition(END)
    assert mark, f"{PAGE.name} lacks the marks that the tables stand between"
    made = f"{before}{BEGIN}{written}{END}{after}"
    if os.environ.get("WRITE_REFERENCE"):
        PAGE.write_text(made)
    assert PAGE.read_text() == made, "run make rest-reference"


def test_the_page_names_every_path() -> None:
    text = PAGE.read_text()
    for path, verbs in build()["paths"].items():
        for verb in verbs:
            assert f"`{verb.upper()} {path}`" in text


async def test_health_over_rest(dsn: str, tmp_path: Path) -> None:
    async with running_rest(make_settings(), dsn, tmp_path) as rest:
        assert (await rest.http.get("/healthz")).status_code == 200
