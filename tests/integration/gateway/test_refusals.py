"""Every refusal by the proxy itself is a google.rpc.Status in JSON, whatever was wrong."""

import asyncio
import json
import re
from dataclasses import dataclass

import pytest

from tests.integration.gateway.conftest import Proxied

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Refusal:
    """A request as it goes over the wire, and what must come back: HTTP status, code, the start of the message."""

    title: str
    request: bytes
    status: int
    code: int
    message: str
    allow: str | None = None


def get(path: str, *headers: str) -> bytes:
    lines = (f"GET {path} HTTP/1.1", "host: registry", *headers, "connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def send(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: registry\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


def chunked(size: int, count: int) -> bytes:
    chunk = f"{size:x}\r\n".encode() + b" " * size + b"\r\n"
    head = b"POST /v1/images HTTP/1.1\r\nhost: registry\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + chunk * count + b"0\r\n\r\n"


UTF8 = "an escape in the path or the query is not valid UTF-8"
ESCAPE = "the path holds a fragment, or an escape that is not allowed, such as %2F"
DISGUISED = "the name of a query parameter can't hold an escape"
NOT_HTTP = "the request is not proper HTTP, or not allowed here ("
REFUSALS = [
    Refusal("unknown path", get("/v2/images"), 404, 5, "no such path"),
    Refusal("the root", get("/"), 404, 5, "no such path"),
    Refusal("a slash too many", get("/v1/images/"), 404, 5, "no such path"),
    Refusal("two slashes", get("/v1//images"), 404, 5, "no such path"),
    Refusal("a name with a slash", get("/v1/images/a/b"), 404, 5, "no such path"),
    Refusal("out of the tree", get("/v1/images/../../x"), 404, 5, "no such path"),
    Refusal("JSON to a gRPC path", send("POST", "/rime.ImageRegistry/GetImage", b"{}"), 404, 5, "no such path"),
    Refusal("every path", b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 404, 5, "no such path"),
    Refusal("a tunnel", b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", 404, 5, "no such path"),
    Refusal("wrong method", send("PUT", "/v1/images/x"), 405, 12, "this path answers DELETE, GET", "DELETE, GET"),
    Refusal("wrong method, no body", get("/v1/jobs/cancel/x"), 405, 12, "this path answers POST", "POST"),
    Refusal("delete of all", send("DELETE", "/v1/images"), 405, 12, "this path answers GET, POST", "GET, POST"),
    Refusal("patch of jobs", send("PATCH", "/v1/jobs"), 405, 12, "this path answers GET", "GET"),
    Refusal("options without CORS", send("OPTIONS", "/v1/jobs/x"), 405, 12, "this path answers GET", "GET"),
    Refusal("trace", send("TRACE", "/v1/images"), 405, 12, "this path answers GET, POST", "GET, POST"),
    Refusal("post to health", send("POST", "/healthz"), 405, 12, "this path answers GET, HEAD", "GET, HEAD"),
    Refusal("no JSON", send("POST", "/v1/images", b"{"), 400, 3, "Unexpected end of string"),
    Refusal("JSON of another form", send("POST", "/v1/images", b"[]"), 400, 3, ": Root element must be a message"),
    Refusal("a second value", send("POST", "/v1/images", b"{} {}"), 400, 3, "Parsing terminated before end of input"),
    Refusal("wrong type", send("POST", "/v1/images", b'{"name": 1}'), 400, 3, "name: invalid value 1"),
    Refusal(
        "bad enum",
        send("POST", "/v1/images", b'{"packageRequirements": [{"packageType": "DEB"}]}'),
        400,
        3,
        'package_requirements[0].package_type: invalid value "DEB"',
    ),
    Refusal("bad enum in the query", get("/v1/jobs?view=ALL"), 400, 3, 'view: invalid value "ALL"'),
    Refusal("no number", get("/v1/images?pageSize=ten"), 400, 3, 'page_size: invalid value "ten"'),
    Refusal("invalid UTF-8 in JSON", send("POST", "/v1/images", b'{"name": "\xff"}'), 400, 3, "Encountered non UTF-8"),
    Refusal("half a surrogate", send("POST", "/v1/images", rb'{"name": "\ud800"}'), 400, 3, "Missing low surrogate"),
    Refusal("deep JSON", send("POST", "/v1/images", b'{"x":' * 5000), 400, 3, "Message too deep"),
    Refusal("unknown parameter", get("/v1/images/x?colour=red"), 400, 3, 'Could not find field "colour"'),
    Refusal("unknown inner parameter", get("/v1/images/x?image.name=y"), 400, 3, 'Could not find field "image"'),
    Refusal("the path's parameter again", get("/v1/images/x?name=y"), 400, 3, "name is given by the path"),
    Refusal("without a value", get("/v1/images/x?name"), 400, 3, "name is given by the path"),
    Refusal("by its proto name", get("/v1/jobs/x?job_id=y"), 400, 3, "job_id is given by the path"),
    Refusal("by its JSON name", get("/v1/jobs/x?view=JOB_VIEW_FULL&jobId=y"), 400, 3, "jobId is given by the path"),
    Refusal("in disguise", get("/v1/images/x?n%61me=y"), 400, 3, DISGUISED),
    Refusal("in disguise, second", get("/v1/jobs/x?view=JOB_VIEW_FULL&%6AobId=y"), 400, 3, DISGUISED),
    Refusal("in the body", send("POST", "/v1/jobs/cancel/x", b'{"job_id": "y"}'), 400, 3, "The binding value"),
    Refusal(
        "query and body disagree", send("POST", "/v1/images?name=x", b'{"name": "y"}'), 400, 3, "The binding value"
    ),
    Refusal("escaped slash", get("/v1/images/a%2Fb"), 400, 3, ESCAPE),
    Refusal("escaped slash, small", get("/v1/images/a%2fb"), 400, 3, ESCAPE),
    Refusal("escaped backslash", get("/v1/images/a%5Cb"), 400, 3, ESCAPE),
    Refusal("escaped NUL", get("/v1/images/a%00b"), 400, 3, ESCAPE),
    Refusal("a fragment", get("/v1/images/x#y"), 400, 3, ESCAPE),
    Refusal("lone byte", get("/v1/images/%FF"), 400, 3, UTF8),
    Refusal("overlong", get("/v1/images/%C0%AF"), 400, 3, UTF8),
    Refusal("surrogate", get("/v1/images/%ED%A0%80"), 400, 3, UTF8),
    Refusal("beyond Unicode", get("/v1/images/%F4%90%80%80"), 400, 3, UTF8),
    Refusal("cut off", get("/v1/images/%E2%82"), 400, 3, UTF8),
    Refusal("no escape", get("/v1/images/%zz"), 400, 3, UTF8),
    Refusal("half an escape", get("/v1/images/%4"), 400, 3, UTF8),
    Refusal("in the query", get("/v1/images?pageToken=%FF"), 400, 3, UTF8),
    Refusal("NUL in the query", get("/v1/images?pageToken=%00"), 400, 3, UTF8),
    Refusal("raw bytes", get("/v1/images/\xff"), 400, 3, NOT_HTTP),
    Refusal("raw blank", get("/v1/images/a b"), 400, 3, NOT_HTTP),
    Refusal("underscore in a header", get("/v1/images/x", "rime_api_key: k"), 400, 3, NOT_HTTP),
    Refusal("no host", b"GET /v1/images HTTP/1.1\r\n\r\n", 400, 3, NOT_HTTP),
    Refusal("no header", b"GET /v1/images HTTP/1.1\r\nhost: x\r\nnonsense\r\n\r\n", 400, 3, NOT_HTTP),
    Refusal("no request", b"nonsense\r\n\r\n", 400, 3, NOT_HTTP),
    Refusal("unknown method", b"BREW /v1/images HTTP/1.1\r\nhost: x\r\n\r\n", 400, 3, NOT_HTTP),
    Refusal(
        "two lengths",
        b"POST /v1/images HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        400,
        3,
        NOT_HTTP,
    ),
    Refusal("bad length", b"POST /v1/images HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400, 3, NOT_HTTP),
    Refusal("old HTTP", b"GET / HTTP/1.0\r\n\r\n", 426, 9, "HTTP/1.1 or HTTP/2 is needed"),
    Refusal(
        "upgrade", get("/v1/images", "upgrade: websocket", "connection: upgrade"), 403, 7, "this is not allowed here"
    ),
    Refusal("large headers", get("/v1/images", "x: " + "y" * 70_000), 431, 3, "the request headers are too large"),
    Refusal("large body", send("POST", "/v1/images", b" " * 1_048_577), 413, 3, "the request body is too large"),
    Refusal("large body in chunks", chunked(65_536, 17), 413, 3, "the request body is too large"),
    Refusal("trickled large body", chunked(1_024, 1_025), 413, 3, "the request body is too large"),
    Refusal("slow server", get("/v1/images/slow"), 504, 4, "Deadline Exceeded"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.title.replace(" ", "-"))
async def test_refusal(shared: Proxied, refusal: Refusal) -> None:
    before = len(shared.upstream.images.requests) + len(shared.upstream.jobs.requests)
    status, headers, body = await exchange(shared, refusal.request)
    assert (status, headers["content-type"]) == (refusal.status, "application/json")
    answer = json.loads(body)
    assert sorted(answer) == ["code", "details", "message"]
    assert (answer["code"], answer["details"]) == (refusal.code, [])
    assert answer["message"].startswith(refusal.message)
    assert headers.get("allow") == refusal.allow
    if refusal.title != "slow server":
        assert len(shared.upstream.images.requests) + len(shared.upstream.jobs.requests) == before


async def test_the_largest_body_passes(shared: Proxied) -> None:
    body = b'{"name": "x"}'.ljust(1_048_576)
    status, _, _ = await exchange(shared, send("POST", "/v1/images", body))
    assert status == 200


async def test_a_body_never_replaces_what_the_path_says(shared: Proxied) -> None:
    status, _, _ = await exchange(shared, send("POST", "/v1/jobs/cancel/x", b'{"jobId": "y"}'))
    assert (status, shared.upstream.jobs.requests[-1].job_id) == (200, "x")


async def test_unknown_json_fields_are_dropped(shared: Proxied) -> None:
    """No option of Envoy changes that (envoyproxy/envoy#46623)."""
    status, _, _ = await exchange(shared, send("POST", "/v1/images", b'{"name": "x", "colour": "red"}'))
    assert status == 200
    assert shared.upstream.images.requests[-1].name == "x"


@pytest.mark.parametrize("name", ["%C3%A9", "%E2%82%AC", "%F0%9F%98%80", "a%20b", "%7E", "x%25", "%3F", "%0A"])
async def test_valid_escapes_reach_the_server(shared: Proxied, name: str) -> None:
    """What is UTF-8 is for the server to judge."""
    status, _, _ = await exchange(shared, get(f"/v1/images/{name}"))
    assert status == 200
    assert (
        shared.upstream.images.requests[-1].name
        == bytes.fromhex(re.sub("%(..)|(.)", lambda part: part[1] or part[2].encode().hex(), name)).decode()
    )


async def test_head_is_refused_without_a_body(shared: Proxied) -> None:
    answer = await shared.http.head("/v1/images/x")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "DELETE, GET", b"")


async def exchange(running: Proxied, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send raw bytes and return status, headers and body of the first answer."""
    reader, writer = await asyncio.open_connection(running.address.host, running.address.port, limit=1 << 20)
    try:
        async with asyncio.timeout(20):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))
    finally:
        writer.close()
