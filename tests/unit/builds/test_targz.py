import gzip
import hashlib
import io
import tarfile
import zlib

from hypothesis import given
from hypothesis import strategies as st

from image_registry.builds.targz import END, EPOCH, TarGz

_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=60).filter(
    lambda name: name not in {".", ".."}
)
_PATHS = st.lists(_NAMES, min_size=1, max_size=8).map("/".join)


def write(tar: TarGz, files: dict[str, bytes], *, packed: bool) -> None:
    for path, content in files.items():
        tar.begin(path, len(content), executable=False)
        if packed:
            deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            stream = deflate.compress(content) + deflate.flush()
            tar.packed_content([(stream[:7], b""), (stream[7:], content)], len(content), zlib.crc32(content))
        else:
            tar.content(content)
        tar.end(len(content))


def read(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        members = {member.name: archive.extractfile(member) for member in archive}
        return {name: file.read() if file else b"" for name, file in members.items()}


@given(st.dictionaries(_PATHS, st.binary(max_size=3000)), st.dictionaries(_PATHS, st.binary(max_size=3000)))
def test_every_reader_gets_out_what_went_in(packed: dict[str, bytes], plain: dict[str, bytes]) -> None:
    output = io.BytesIO()
    tar = TarGz(output)
    write(tar, packed, packed=True)
    write(tar, plain, packed=False)
    tar.finish()
    data = output.getvalue()
    assert read(data) == {**packed, **plain}
    assert len(data) == tar.size
    assert tar.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert tar.diff_id == f"sha256:{hashlib.sha256(gzip.decompress(data)).hexdigest()}"


def test_archives_can_be_joined() -> None:
    parts = []
    for name in ("one", "two"):
        output = io.BytesIO()
        tar = TarGz(output)
        write(tar, {name: name.encode() * 5000}, packed=name == "two")
        tar.finish()
        parts.append(output.getvalue().removesuffix(END))
    joined = io.BytesIO()
    tar = TarGz(joined)
    for part in parts:
        tar.append([part[:100], part[100:]])
    tar.finish()
    assert read(joined.getvalue()) == {"one": b"one" * 5000, "two": b"two" * 5000}
    assert tar.diff_id == f"sha256:{hashlib.sha256(gzip.decompress(joined.getvalue())).hexdigest()}"


def test_entries_say_nothing_of_where_and_when() -> None:
    output = io.BytesIO()
    tar = TarGz(output)
    tar.folder("opt")
    tar.file("opt/script", b"#!/bin/sh\n", executable=True)
    tar.link("opt/link", "script")
    tar.finish()
    with tarfile.open(fileobj=io.BytesIO(output.getvalue())) as archive:
        members = archive.getmembers()
    assert {(member.uid, member.gid, member.uname, member.gname, member.mtime) for member in members} == {
        (0, 0, "", "", EPOCH)
    }
    assert [oct(member.mode) for member in members] == ["0o755", "0o755", "0o777"]
    # No compressor takes part, so these bytes are the same whatever zlib Python is linked with.
    assert tar.digest == "sha256:f12a90e7a6dff1ccd39b3d6094051083aaf8ce444199a11ef4992888d127ee08"
