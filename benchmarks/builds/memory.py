"""The memory of a worker, with the processes of its build, while it layers 2 GB of wheels."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from image_registry.host.addresses import free_port

WHEELS = 8
WHEEL_BYTES = 256 << 20
_PIECE = 4 << 20


@dataclass(frozen=True)
class Memory:
    """What was seen: most bytes resident at once in all processes together, of them anonymous, and the build's time."""

    resident: int
    anonymous: int
    seconds: float
    wheels_bytes: int


def measure(folder: Path, base: str, python: str) -> Memory:
    """Run `image-registry up` on the base and build one image of all the wheels."""
    files = folder / "index"
    total = _make_wheels(files)
    with _serving(files) as url, _product(folder / "product", base, python, url) as (address, process):
        client = httpx.Client(base_url=f"http://{address}", timeout=10)
        body = {"name": "heavy", "pip_requirements": [{"name": _name(number)} for number in range(WHEELS)]}
        _wait_until(lambda: client.get("/v1/images").status_code == httpx.codes.OK)
        job = client.post("/v1/images", json=body).json()["job"]["jobId"]
        worker = _worker_of(process.pid)
        peak, anonymous, began = 0, 0, time.monotonic()
        while True:
            resident, private = _memory(worker)
            peak, anonymous = max(peak, resident), max(anonymous, private)
            status = client.get(f"/v1/jobs/{job}").json()["job"]["status"]
            if status in {"JOB_STATUS_SUCCEEDED", "JOB_STATUS_FAILED", "JOB_STATUS_CANCELLED"}:
                break
            time.sleep(0.05)
        if status != "JOB_STATUS_SUCCEEDED":
            raise RuntimeError(f"the build of the heavy wheels ended {status}: {client.get(f'/v1/jobs/{job}').text}")
        return Memory(peak, anonymous, time.monotonic() - began, total)


def _make_wheels(files: Path) -> int:
    """Write the wheels to the index, and return their size. Their data is packed once; only names differ."""
    noise = random.Random(1)  # noqa: S311
    data = files / "data.zip"
    files.mkdir(parents=True)
    record = []
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(2 * WHEEL_BYTES // _PIECE):
            content = noise.randbytes(_PIECE // 2) + bytes(_PIECE // 2)
            archive.writestr(f"{_name(0)}/data{number}.bin", content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{_name(0)}/data{number}.bin,sha256={digest},{len(content)}\n")
    packed = data.read_bytes()
    return sum(_make_wheel(files, _name(number), packed, "".join(record)) for number in range(WHEELS))


def _name(number: int) -> str:
    return f"heavy{number}"


def _make_wheel(files: Path, name: str, packed: bytes, record: str) -> int:
    """Write one wheel: the packed data under other paths (an archive has them as plain text), and its metadata."""
    project = files / "simple" / name
    project.mkdir(parents=True)
    path = project / f"{name}-1.0-py3-none-any.whl"
    path.write_bytes(packed.replace(f"{_name(0)}/data".encode(), f"{name}/data".encode()))
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", record.replace(f"{_name(0)}/", f"{name}/") + f"{info}/RECORD,,\n")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    (project / "index.html").write_text(f'<a href="{path.name}#sha256={digest}">{path.name}</a>\n')
    return path.stat().st_size


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _serving(files: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(files)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _product(folder: Path, base: str, python: str, index: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    http = f"127.0.0.1:{free_port()}"
    settings = {
        "DATA_DIR": str(folder),
        "GRPC_ADDRESS": f"127.0.0.1:{free_port()}",
        "HTTP_ADDRESS": http,
        "BASE_IMAGES": f"{python}={base}",
        "INDEX_URL": index,
    }
    environment = {**os.environ, **{f"IMAGE_REGISTRY_{name}": value for name, value in settings.items()}}
    process = subprocess.Popen(
        [sys.executable, "-m", "image_registry", "up"], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        yield http, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise TimeoutError


def _worker_of(parent: int) -> int:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        for pid in _descendants(parent):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if command[-2:] == [b"worker", b""] and b"-m" in command[:3]:
                return pid
        time.sleep(0.1)
    raise TimeoutError("there is no worker")


def _memory(worker: int) -> tuple[int, int]:
    """Resident and anonymous bytes of a process and all its descendants."""
    resident = anonymous = 0
    for pid in (worker, *_descendants(worker)):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        values = dict(re.findall(r"^(VmRSS|RssAnon):\s+(\d+) kB$", status, re.MULTILINE))
        resident += int(values.get("VmRSS", 0)) * 1024
        anonymous += int(values.get("RssAnon", 0)) * 1024
    return resident, anonymous


def _descendants(parent: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found, level = [], [parent]
    while level:
        level = [child for one in level for child in children.get(one, [])]
        found += level
    return found


def as_json(memory: Memory) -> str:
    """For a log."""
    return json.dumps(vars(memory))
