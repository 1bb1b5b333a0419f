"""A server's memory under full load: GetImage, lists and creates at once, for as long as is asked."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

from ri.api.imageregistry import image_registry_pb2 as pb

from benchmarks import data
from benchmarks.bench import SERVICE, Bench
from benchmarks.figures import Figure
from benchmarks.measuring import Call, Load
from benchmarks.suites.create import fresh_calls

_PARTS = 10  # the first settles the server; growth is measured over the others
_CREATES = 30_000  # of one part at most


def run(bench: Bench, seconds: float) -> None:
    """Full load for so many seconds, the memory noted after each part of it."""
    part = Load(bench.load.program, seconds=seconds / _PARTS, warmup=0)
    server = bench.environment.registry(bench.dsn)
    gets, pages = bench.get_calls(), bench.calls("soak-pages", _pages())
    rows = [["seconds", "resident MiB", "calls a second"]]
    sizes = []
    began = time.monotonic()
    for _ in range(_PARTS):
        creates = bench.calls("soak-creates", list(itertools.islice(fresh_calls(), _CREATES)))
        with ThreadPoolExecutor(3) as pool:
            loads = [
                pool.submit(part.run, server.address, SERVICE + "GetImage", gets, streams=64),
                pool.submit(part.run, server.address, SERVICE + "ListImages", pages, streams=4),
                pool.submit(part.run, server.address, SERVICE + "CreateImage", creates, streams=8, once=True),
            ]
        rate = sum(load.result().per_second for load in loads)
        sizes.append(server.resident_mib())
        rows.append([f"{time.monotonic() - began:.0f}", f"{sizes[-1]:.1f}", f"{rate:,.0f}"])
    bench.report.tables[f"Memory over {seconds:.0f} s of full load"] = rows
    name = f"memory after {seconds:.0f} s of full load / after a tenth of them"
    bench.report.add(Figure(name, sizes[-1] / sizes[0], at_most=1.1))
    bench.report.add(Figure(f"memory after {seconds:.0f} s of full load, MiB", sizes[-1], at_most=150))


def _pages() -> list[Call]:
    """Pages of 50, each of images with one of the most popular libraries."""
    found = []
    for rank in range(20):
        wanted = pb.ListImagesRequest.PipLibraryFilter(name=data.library(rank))
        request = pb.ListImagesRequest(pip_libraries=[wanted])
        library = pb.ManagedImage.PipLibrary(name=data.library(rank)).SerializeToString()
        found.append(Call(request.SerializeToString(), library))
    return found
