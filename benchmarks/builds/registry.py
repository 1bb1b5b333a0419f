"""A real registry on loopback (Debian's docker-registry), and what the benchmark puts into it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIGURATION = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: "{folder}"}}}}
http: {{addr: "{address}"}}
"""


@contextmanager
def running_registry(folder: Path) -> Iterator[str]:
    """Run docker-registry with its data in `folder`; yields host and port."""
    program = shutil.which("docker-registry")
    if program is None:
        raise FileNotFoundError("docker-registry is not installed (Debian: apt-get install docker-registry)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    folder.mkdir(parents=True)
    configuration = folder / "config.yml"
    configuration.write_text(_CONFIGURATION.format(folder=folder / "data", address=address))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", configuration], stdout=log, stderr=log)
    try:
        _wait_for(f"http://{address}/v2/")
        yield address
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str) -> None:
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        try:
            if httpx.get(url).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            time.sleep(0.05)
    raise TimeoutError(f"no answer from {url}")


def push_base(layout: Path, host: str, tag: str, *, extra: str = "") -> str:
    """Push the only image of an OCI layout as `base:tag`; with `extra`, one more small layer that holds this text."""
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]))
    config = json.loads(_blob(layout, manifest["config"]["digest"]))
    with httpx.Client(base_url=f"http://{host}", timeout=60) as client:
        for layer in manifest["layers"]:
            _push_blob(client, _blob(layout, layer["digest"]))
        if extra:
            archive = _archive("etc/platform-release", extra.encode())
            packed = gzip.compress(archive, mtime=0)
            _push_blob(client, packed)
            kind = "application/vnd.oci.image.layer.v1.tar+gzip"
            manifest["layers"].append({"mediaType": kind, "digest": _digest(packed), "size": len(packed)})
            config["rootfs"]["diff_ids"].append(_digest(archive))
            config.pop("history", None)
        data = json.dumps(config).encode()
        _push_blob(client, data)
        manifest["config"] |= {"digest": _digest(data), "size": len(data)}
        manifest["mediaType"] = _MANIFEST
        headers = {"Content-Type": _MANIFEST}
        client.put(f"/v2/base/manifests/{tag}", content=json.dumps(manifest), headers=headers).raise_for_status()
    return f"{host}/base:{tag}"


def _push_blob(client: httpx.Client, data: bytes) -> None:
    digest = _digest(data)
    if client.head(f"/v2/base/blobs/{digest}").status_code == httpx.codes.OK:
        return
    started = client.post("/v2/base/blobs/uploads/")
    started.raise_for_status()
    client.put(
        httpx.URL(started.headers["location"]).copy_merge_params({"digest": digest}), content=data
    ).raise_for_status()


def _archive(name: str, data: bytes) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return output.getvalue()


def _blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def size_of(layout: Path) -> dict[str, Any]:
    """How large an image in a layout is: bytes of its layers, and their number."""
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]))
    return {"bytes": sum(layer["size"] for layer in manifest["layers"]), "layers": len(manifest["layers"])}
