"""GetImage over REST through the gateway, against the same call over gRPC."""

from __future__ import annotations

from benchmarks import data
from benchmarks.bench import Bench
from benchmarks.measuring import Call, Contender, rounds
from benchmarks.quota import quotas


def run(bench: Bench) -> None:
    """64 streams."""
    environment = bench.environment
    product = environment.registry(bench.dsn)
    gateway = environment.gateway(product)
    names = [data.name(number) for number in range(0, bench.images, max(1, bench.images // 20_000))]
    paths = bench.calls("rest", [Call(f"/v1/images/{name}".encode(), f'"{name}"'.encode()) for name in names])
    try:
        contenders: dict[str, Contender] = {
            "gRPC": bench.contender(product, "GetImage", bench.get_calls(), 64),
            "REST": lambda: bench.load.run(
                f"http://{gateway.address}", "GET", paths, streams=64, cpu=product.cpu_seconds
            ),
        }
        for where, quota in quotas(product.pids()):
            with quota:
                found = rounds(contenders, bench.rounds)
            bench.report.rates(f"GetImage over gRPC and over REST, 64 streams, {where}", found, "gRPC")
            bench.report.compare(found, "REST", "gRPC", f"REST/gRPC, GetImage, 64 streams, {where}", at_least=0.75)
    finally:
        environment.stop(gateway, product)
