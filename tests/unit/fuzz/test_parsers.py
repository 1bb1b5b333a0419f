"""Every parser of foreign text and bytes, fed with what was made up: it answers, or it refuses in its own words."""

import contextlib
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import jobs_pb2

from image_registry import requirements as rules
from image_registry.api import validation
from image_registry.api.tokens import PageTokens
from image_registry.builds.faults import InvalidImageError
from image_registry.builds.oci.manifest import MANIFESTS, Descriptor, Manifest, checked_digest, select_platform
from image_registry.builds.oci.reference import parse_reference
from image_registry.builds.plan import BuildFailed, Limits
from image_registry.builds.requirement import plain_requirement
from image_registry.builds.wheel import WheelFile, read_headers, unsafe_path
from image_registry.cli.keys import _moment
from image_registry.errors import RegistryError
from image_registry.models import PackageType
from image_registry.registry.keys import _KEY
from tests.unit.fuzz.corpus import BYTES, TEXTS

ACCEPTS = validation.Accepts(("3.11", "3.12"), "3.12", PackageType.APT, "managed")
TOKENS = PageTokens(b"s" * 32, "images")
QUICK = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "50")), deadline=2000, suppress_health_check=[HealthCheck.too_slow]
)
_PIECES = st.sampled_from(
    ["numpy", ">=", "==", "~=", "1.0", "*", ",", "[", "]", ";", "@", " ", "-", ".", "!", "+", "\n", "é"]
)
texts = st.one_of(st.text(max_size=200), st.lists(_PIECES, max_size=12).map("".join))
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["layers", "config", "manifests", "digest", "size", "mediaType", "platform", "os", "x"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)

TEXT_PARSERS: dict[str, Callable[[str], object]] = {
    "image name": rules.image_name_fault,
    "pip name": rules.pip_name_fault,
    "pip specifier": rules.pip_specifier_fault,
    "apt name": lambda text: rules.package_name_fault(text, PackageType.APT),
    "rpm name": lambda text: rules.package_name_fault(text, PackageType.ROCKYLINUX),
    "apt version": lambda text: rules.package_version_fault(text, PackageType.APT),
    "rpm version": lambda text: rules.package_version_fault(text, PackageType.ROCKYLINUX),
    "filter name": rules.filter_name_fault,
    "filter version": rules.filter_version_fault,
    "version": lambda text: rules.version_key(text[:300]),
    "library": lambda text: rules.library_key(text[:300]),
    "page token": TOKENS.read,
    "job id": validation.job_id,
    "key": _KEY.fullmatch,
    "expiry": lambda text: _moment(text, datetime.now(UTC)),
    "plain requirement": plain_requirement,
    "image reference": lambda text: _refusing_with(ValueError, parse_reference, text),
    "digest": checked_digest,
    "path in an archive": unsafe_path,
    "metadata of a wheel": read_headers,
}
BYTE_PARSERS: dict[str, Callable[[bytes], object]] = {
    **{f"manifest {kind}": partial(Manifest.read, media_type=kind) for kind in sorted(MANIFESTS)},
    "index": lambda data: select_platform(data, "amd64"),
    "create": lambda data: validation.new_image(pb.CreateImageRequest.FromString(data), ACCEPTS),
    "report": lambda data: validation.reported_libraries(pb.UpdateBuildInfoRequest.FromString(data)),
    "get job": lambda data: validation.job_query(jobs_pb2.GetJobRequest.FromString(data)),
}
REFUSALS = (RegistryError, BuildFailed, InvalidImageError, DecodeError)
LONGEST = 2.0  # seconds for one input, on a busy machine


@pytest.mark.parametrize("parser", TEXT_PARSERS)
def test_the_corpus_of_texts(parser: str) -> None:
    for number, value in enumerate(TEXTS):
        began = time.monotonic()
        _answers_or_refuses(TEXT_PARSERS[parser], value)
        assert time.monotonic() - began < LONGEST, number


@pytest.mark.parametrize("parser", TEXT_PARSERS)
def test_made_up_texts(parser: str) -> None:
    @QUICK
    @given(texts)
    def check(text: str) -> None:
        _answers_or_refuses(TEXT_PARSERS[parser], text)

    check()


@pytest.mark.parametrize("parser", BYTE_PARSERS)
def test_the_corpus_of_bytes(parser: str) -> None:
    for number, value in enumerate(BYTES):
        began = time.monotonic()
        _answers_or_refuses(BYTE_PARSERS[parser], value)
        assert time.monotonic() - began < LONGEST, number


@pytest.mark.parametrize("parser", BYTE_PARSERS)
def test_made_up_bytes(parser: str) -> None:
    @QUICK
    @given(st.one_of(st.binary(max_size=300), json_values.map(lambda value: json.dumps(value).encode())))
    def check(data: bytes) -> None:
        _answers_or_refuses(BYTE_PARSERS[parser], data)

    check()


@QUICK
@given(texts, texts)
def test_what_passes_the_api_is_what_the_resolver_takes_and_nothing_else(name: str, specifier: str) -> None:
    """No text that the API lets through is an option, a path or an address for the resolver."""
    if rules.pip_name_fault(name) or rules.pip_specifier_fault(specifier):
        return
    parsed = Requirement(plain_requirement(rules.pip_requirement(name, specifier)))
    assert parsed.url is None
    assert parsed.marker is None
    assert rules.library_key(parsed.name) == rules.library_key(name.partition("[")[0].strip())


@QUICK
@given(texts)
def test_a_name_that_passes_can_not_leave_its_place(name: str) -> None:
    if rules.image_name_fault(name, "managed/") is None:
        assert name == name.strip().lower()
        assert not set(name) & set("/\\.:@%\0\n ")
        assert not name.startswith("-")


@QUICK
@given(st.text(max_size=30) | st.integers(), json_values, st.data())
def test_tokens_come_back_and_any_change_is_refused(position: Any, query: Any, data: st.DataObject) -> None:
    token = TOKENS.make(position, [repr(query)])
    assert TOKENS.read(token) == (position, [repr(query)])
    at = data.draw(st.integers(0, len(token) - 2))  # the last character holds bits that mean nothing
    other = data.draw(st.sampled_from("ABCDabcd0123-_=+/. \né").filter(lambda letter: letter != token[at]))
    with pytest.raises(RegistryError):
        TOKENS.read(token[:at] + other + token[at + 1 :])
    with pytest.raises(RegistryError):
        PageTokens(b"s" * 32, "jobs").read(token)


@QUICK
@given(st.text(max_size=60))
def test_job_ids_are_uuids_in_one_form(text: str) -> None:
    fault = validation.job_id_fault(text)
    if fault is None:
        assert str(validation.job_id(text)) == str(UUID(text))
    else:
        with pytest.raises(RegistryError):
            validation.job_id(text)


@settings(QUICK, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    record=st.lists(st.tuples(texts, texts, texts), max_size=5),
    names=st.lists(texts.filter(bool), max_size=4),
    cut=st.integers(0, 400),
    flip=st.integers(0, 2000),
)
def test_wheels_with_made_up_records_and_damage(
    tmp_path: Path, record: list[tuple[str, str, str]], names: list[str], cut: int, flip: int
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: x\nVersion: 1\n")
        archive.writestr("x-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr(
            "x-1.dist-info/RECORD", "".join(",".join(row) + "\n" for row in record).encode("utf-8", "replace")
        )
        for name in dict.fromkeys(names):
            archive.writestr(name.encode("utf-8", "replace").decode(), b"content")
    data = bytearray(buffer.getvalue())
    data[flip % len(data)] ^= 0x41
    path = tmp_path / "wheel.whl"
    path.write_bytes(bytes(data[: len(data) - cut // 4]))
    try:
        with WheelFile(path, "x-1-py3-none-any.whl", Limits()) as wheel:
            for entry in wheel.entries.values():
                b"".join(wheel.unpacked(entry))
            list(wheel.console_scripts())
    except (BuildFailed, zipfile.BadZipFile):
        pass


@QUICK
@given(json_values)
def test_descriptors(values: Any) -> None:
    try:
        found = Descriptor.from_json(values)
    except InvalidImageError:
        return
    assert found.digest == checked_digest(found.digest)
    assert found.size >= 0


def _answers_or_refuses(parser: Callable[[Any], object], value: object) -> None:
    with contextlib.suppress(*REFUSALS):
        parser(value)


def _refusing_with(refusal: type[Exception], parser: Callable[[str], object], text: str) -> None:
    with contextlib.suppress(refusal):
        parser(text)
