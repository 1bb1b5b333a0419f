"""The readable page: whole, self-contained, and with links that lead somewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from markupsafe import Markup

from image_registry.openapi.document import build
from image_registry.openapi.page import commands, highlight, pretty, render, rich_text


class Outline(HTMLParser):
    """What the tests look at: ids, links, what would be loaded, and the text of style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.policy = ""
        self.inline: dict[str, str] = {}
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if tag == "a" else []
        self.loaded += [values[name] for name in ("src", "href") if name in values and tag != "a"]
        if values.get("http-equiv") == "content-security-policy":
            self.policy = values["content"]
        self._inside = tag if tag in {"style", "script"} else ""
        assert "style" not in values
        assert not any(name.startswith("on") for name in values)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.inline[self._inside] = self.inline.get(self._inside, "") + data


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return build()


@pytest.fixture(scope="module")
def outline(document: dict[str, Any]) -> Outline:
    return Outline(render(document))


def test_nothing_is_loaded_from_anywhere(outline: Outline) -> None:
    assert outline.loaded == ["data:,"]
    assert "url(" not in outline.inline["style"]
    assert "@import" not in outline.inline["style"]
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\b", outline.inline["script"])


def test_the_policy_allows_the_own_style_and_script_alone(outline: Outline) -> None:
    assert outline.policy.startswith("default-src 'none'; ")
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(outline.inline[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in outline.policy


def test_every_link_inside_the_page_leads_somewhere(outline: Outline) -> None:
    assert len(outline.ids) == len(set(outline.ids))
    inside = {link[1:] for link in outline.links if link.startswith("#")}
    assert inside - set(outline.ids) == set()
    outside = {link for link in outline.links if not link.startswith("#")}
    assert outside == {"/openapi.json"}


def test_every_operation_and_schema_has_its_anchor(outline: Outline, document: dict[str, Any]) -> None:
    for verbs in document["paths"].values():
        for operation in verbs.values():
            assert f"tag/{operation['tags'][0]}/operation/{operation['operationId']}" in outline.ids
    assert {f"schema/{name}" for name in document["components"]["schemas"]} <= set(outline.ids)
    # The link on the published page.
    assert "tag/JobReader/operation/JobReader_ListJobs" in outline.ids


def test_commands(document: dict[str, Any]) -> None:
    made = commands(document)
    assert made["ImageRegistry_GetImage"] == (
        "curl 'http://127.0.0.1:8080/v1/images/vision' \\\n  -H \"rime-api-key: $RIME_API_KEY\""
    )
    assert "curl -X DELETE " in made["ImageRegistry_DeleteImage"]
    assert "-d '{" in made["ImageRegistry_CreateImage"]


def test_text_is_escaped_and_marked_up() -> None:
    assert rich_text("a <b>\n\n- `x<y`\n- see https://example.com/a.") == Markup(
        "<p>a &lt;b&gt;</p>\n<ul><li><code>x&lt;y</code></li>"
        '<li>see <a href="https://example.com/a">https://example.com/a</a>.</li></ul>'
    )
    assert highlight({"a": "<"}) == Markup(
        '{<span class="key">&#34;a&#34;</span>: <span class="string">&#34;&lt;&#34;</span>}'
    )


def test_short_json_stays_on_a_line() -> None:
    assert pretty({"a": [], "b": {"c": 1}}) == '{"a": [], "b": {"c": 1}}'
    assert pretty({"a": "x" * 40, "b": [{"c": "y" * 20}] * 2}) == (
        '{\n  "a": "' + "x" * 40 + '",\n  "b": [\n    {"c": "' + "y" * 20 + '"},\n    {"c": "' + "y" * 20 + '"}\n  ]\n}'
    )
