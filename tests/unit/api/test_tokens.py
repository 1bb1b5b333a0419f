"""Page tokens: read back as made, refused otherwise."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_registry import limits
from image_registry.api.tokens import PageTokens
from image_registry.errors import Reason, RegistryError
from tests.fixtures.budget import examples

TOKENS = PageTokens(b"secret", "images")
positions = st.one_of(st.text(max_size=20), st.integers(0, 2**62))
queries = st.lists(st.tuples(st.text(max_size=5), st.none() | st.text(max_size=5)).map(list), max_size=3)


def refused(token: str, tokens: PageTokens = TOKENS) -> None:
    with pytest.raises(RegistryError) as caught:
        tokens.read(token)
    assert caught.value.reason is Reason.INVALID_PAGE_TOKEN
    assert [fault.field for fault in caught.value.faults] == ["pageToken"]


@given(positions, queries)
@examples(50)
def test_a_token_says_what_it_was_made_of(position: str | int, query: list[list[str | None]]) -> None:
    token = TOKENS.make(position, query)
    assert TOKENS.read(token) == (position, query)
    assert set(token) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@given(positions, queries, st.data())
@examples(150)
def test_any_change_is_noticed(position: str | int, query: list[list[str | None]], data: st.DataObject) -> None:
    token = TOKENS.make(position, query)
    at = data.draw(st.integers(0, len(token) - 1))
    put = data.draw(st.characters())
    changed = data.draw(
        st.sampled_from([token[:at] + put + token[at + 1 :], token[:at] + put + token[at:], token[:at]])
    )
    if changed != token:
        refused(changed)


@given(st.text(max_size=80))
@examples(100)
def test_nothing_else_is_a_token(text: str) -> None:
    refused(text)


def test_tokens_of_other_listings_and_registries_are_refused() -> None:
    refused(TOKENS.make("a", []), PageTokens(b"secret", "jobs"))
    refused(TOKENS.make("a", []), PageTokens(b"other", "images"))


def test_other_spellings_of_the_same_bytes_are_refused() -> None:
    token = next(token for n in range(99) if "-" in (token := TOKENS.make("a", n)) or "_" in token)
    refused(token.replace("-", "+").replace("_", "/"))
    refused(token + "=" * (-len(token) % 4) if len(token) % 4 else token + "====")


def test_a_forged_payload_is_refused() -> None:
    raw = base64.urlsafe_b64encode(b"\0" * 16 + b'["a",[]]').rstrip(b"=").decode()
    refused(raw)


def test_a_token_longer_than_any_is_refused_unread() -> None:
    refused("A" * (limits.PAGE_TOKEN + 1))


def test_the_largest_token_is_within_its_limit() -> None:
    filters = [["x" * limits.FIELD, "1" * limits.FIELD]] * limits.FILTERS
    token = TOKENS.make("x" * limits.REPOSITORY_NAME, filters)
    assert len(token) <= limits.PAGE_TOKEN
    assert TOKENS.read(token)[1] == filters
