"""One replica by itself: how fast it starts, what it holds in memory, and what a second process brings."""

from __future__ import annotations

from ri.api.imageregistry import image_registry_pb2 as pb

from benchmarks.bench import SERVICE, Bench
from benchmarks.environment import Server
from benchmarks.figures import Figure
from benchmarks.measuring import rounds
from benchmarks.quota import EVERYTHING, quotas

_STARTS = 3
_LONG_PAGES = 40  # 52 MB


def start(bench: Bench) -> None:
    """How long a server takes from its process to SERVING."""
    environment, dsn = bench.environment, bench.dsn
    seconds = []
    for _ in range(_STARTS):
        server = environment.registry(dsn)
        seconds.append(server.start_seconds)
        environment.stop(server)
    bench.report.add(Figure("start to SERVING, s", sorted(seconds)[_STARTS // 2], at_most=1))


def memory(bench: Bench) -> None:
    """What a server holds after long pages, as many as it keeps, and 1,000 calls at once."""
    server = bench.environment.registry(bench.dsn)
    try:
        _show_long_pages(bench, server)
        bench.load.run(server.address, SERVICE + "GetImage", bench.get_calls(), streams=1000)
        bench.report.add(Figure("memory after 1,000 open streams, MiB", server.resident_mib(), at_most=150))
    finally:
        bench.environment.stop(server)


def _show_long_pages(bench: Bench, server: Server) -> None:
    token = ""
    for _ in range(_LONG_PAGES):
        request = pb.ListImagesRequest(page_size=1000, page_token=token).SerializeToString()
        token = pb.ListImagesResponse.FromString(bench.answer(server, "ListImages", request)).next_page_token


def processes(bench: Bench) -> None:
    """What a second process on the same port brings: with shares of a core, and where all take what they can get."""
    environment, dsn = bench.environment, bench.dsn
    calls = bench.get_calls()
    one, two = environment.registry(dsn), environment.registry(dsn, processes=2)
    contenders = {
        "one process": bench.contender(one, "GetImage", calls, 64),
        "two processes": bench.contender(two, "GetImage", calls, 64),
    }
    try:
        for where, quota in quotas([*one.pids(), *two.pids()]):
            with quota:
                found = rounds(contenders, bench.rounds)
            bench.report.rates(f"GetImage by processes on one port, 64 streams, {where}", found, "one process")
            if where != EVERYTHING:  # the goal is for cores that are free
                bench.report.compare(found, "two processes", "one process", f"two processes/one, {where}", at_least=1.6)
    finally:
        environment.stop(one, two)
