"""Images that are kept as pages show them: in groups that stay what they are, in no more memory than is given."""

import hashlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from image_registry.storage import kept_images
from image_registry.storage.kept_images import KeptImages


def key(*numbers: int) -> bytes:
    """The key of images with these numbers."""
    return b"".join(
        struct.pack("!qh32si", number, 3, hashlib.sha256(b"%d" % number).digest(), number) for number in numbers
    )


def test_what_a_key_tells() -> None:
    both = key(7, 8)
    assert kept_images.count_images(both) == 2
    assert kept_images.first_images(both, 1) == kept_images.first_images(key(7), 5) == key(7)
    assert kept_images.definition_bytes(both) == 15
    assert [(one, status) for one, status, _ in kept_images.parts_of(both)] == [(7, 3), (8, 3)]
    assert [end for _, _, end in kept_images.parts_of(both)] == [key(7)[10:], key(8)[10:]]


@given(st.lists(st.integers(0, 300), max_size=80, unique=True))
def test_groups_are_the_key_in_pieces(numbers: list[int]) -> None:
    groups = kept_images.groups_of(key(*numbers))
    assert b"".join(groups) == key(*numbers)
    assert all(groups)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=80, unique=True), st.integers(0, 80), st.integers(301, 999))
def test_an_image_that_comes_changes_its_own_group_alone(numbers: list[int], place: int, new: int) -> None:
    before = kept_images.groups_of(key(*numbers))
    after = kept_images.groups_of(key(*numbers[:place], new, *numbers[place:]))
    assert len(set(before) - set(after)) <= 1
    assert len(set(after) - set(before)) <= 2


def test_a_page_is_made_of_some_dozens_of_groups() -> None:
    assert 40 < len(kept_images.groups_of(key(*range(1000)))) < 90


def test_what_came_last_is_kept_and_no_more_than_the_memory_holds() -> None:
    kept = KeptImages(100_000)
    for number in range(1000):
        kept.keep(key(number), bytes(1000))
        kept.keep(key(number), bytes(1000))  # known already
    found = kept.find([key(number) for number in range(1000)])
    held = [number for number, images in enumerate(found) if images is not None]
    assert held == list(range(1000 - len(held), 1000))
    assert 60 < len(held) < 100


def test_what_is_larger_than_all_of_the_memory_is_not_kept() -> None:
    kept = KeptImages(1000)
    kept.keep(key(1), bytes(1000))
    kept.keep(key(2), bytes(100))
    assert kept.find([key(1), key(2)]) == [None, bytes(100)]
