"""A server's memory under full load: GetImage, lists and creates at once, for as long as is asked."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

from ri.api.imageregistry import image_registry_pb2 as pb

from benchmarks import data
from benchmarks.bench import SERVICE, Bench
from benchmarks.console import say
from benchmarks.figures import Figure
from benchmarks.measuring import Call, Load
from benchmarks.suites.create import fresh_calls

_PARTS = 10  # at most; the first settles the server, growth is measured over the others
_MINUTE = 60.0
_CREATES_A_SECOND = 2_000  # more than are served beside the rest


def run(bench: Bench, seconds: float) -> None:
    """Full load for so many seconds, the memory noted after every minute, or after each tenth if that is shorter."""
    length = min(_MINUTE, seconds / _PARTS)
    part = Load(bench.load.program, seconds=length, warmup=0)
    server = bench.environment.registry(bench.dsn)
    gets, pages = bench.get_calls(), bench.calls("soak-pages", _pages())
    rows = [["seconds of load", "resident MiB", "GetImage", "ListImages", "CreateImage", "failed"]]
    sizes, failures = [], 0
    for number in range(round(seconds / length)):
        creates = bench.calls("soak-creates", list(itertools.islice(fresh_calls(), int(_CREATES_A_SECOND * length))))
        with ThreadPoolExecutor(3) as pool:
            loads = [
                pool.submit(part.run, server.address, SERVICE + "GetImage", gets, streams=64, tolerant=True),
                pool.submit(part.run, server.address, SERVICE + "ListImages", pages, streams=4, tolerant=True),
                pool.submit(
                    part.run, server.address, SERVICE + "CreateImage", creates, streams=8, once=True, tolerant=True
                ),
            ]
        seen = [load.result() for load in loads]
        sizes.append(server.resident_mib())
        failed = sum(sample.failures for sample in seen)
        failures += failed
        served = [f"{sample.calls:,}" for sample in seen]
        rows.append([f"{(number + 1) * length:.0f}", f"{sizes[-1]:.1f}", *served, str(failed)])
        say(" | ".join(rows[-1]))
    bench.report.tables[f"{seconds:.0f} s of full load, calls served in each part"] = rows
    name = f"memory after {seconds:.0f} s of full load / after the first {length:.0f}"
    bench.report.add(Figure(name, sizes[-1] / sizes[0], at_most=1.1))
    bench.report.add(Figure(f"memory after {seconds:.0f} s of full load, MiB", sizes[-1], at_most=150))
    bench.report.add(Figure(f"failed calls in {seconds:.0f} s of full load", failures, at_most=0))


def _pages() -> list[Call]:
    """Pages of 50, each of images with one of the most popular libraries."""
    found = []
    for rank in range(20):
        wanted = pb.ListImagesRequest.PipLibraryFilter(name=data.library(rank))
        request = pb.ListImagesRequest(pip_libraries=[wanted])
        library = pb.ManagedImage.PipLibrary(name=data.library(rank)).SerializeToString()
        found.append(Call(request.SerializeToString(), library))
    return found
