"""GetImage: the product against the Python limit, against itself on the pool, against Go, and the database's limit."""

from __future__ import annotations

from functools import partial

from ri.api.imageregistry import image_registry_pb2 as pb

from benchmarks import data
from benchmarks.bench import Bench, unchecked
from benchmarks.figures import Figure
from benchmarks.measuring import Contender, pgbench, rounds

_SCRIPT = """\\set n random(0, {last})
select status, definition from images
where name = 'team-' || lpad((:n * 7919 % 9973)::text, 4, '0') || '-image-' || lpad(:n::text, 7, '0');
"""


def run(bench: Bench) -> None:
    """Many streams, then a single one."""
    environment, dsn = bench.environment, bench.dsn
    calls = bench.get_calls()
    product = environment.registry(dsn)
    pooled = environment.registry(dsn, module="benchmarks.servers.pooled")
    request = pb.GetImageRequest(name=data.name(1)).SerializeToString()
    canned = environment.canned(bench.answer(product, "GetImage", request))
    go = bench.go(dsn)
    script = environment.folder / "get.sql"
    script.write_text(_SCRIPT.format(last=bench.images - 1), encoding="ascii")
    try:
        for streams in (64, 1):
            contenders: dict[str, Contender] = {
                "canned": bench.contender(canned, "GetImage", unchecked(calls), streams),
                "product": bench.contender(product, "GetImage", calls, streams),
            }
            if streams == 64:
                contenders["product on the pool"] = bench.contender(pooled, "GetImage", calls, streams)
            if go is not None:
                contenders["Go + pgx"] = bench.contender(go, "GetImage", calls, streams)
            if bench.pgbench is not None:
                seconds = bench.load.seconds
                contenders["pgbench, the same SELECT, at most 16 clients"] = partial(
                    pgbench, bench.pgbench, dsn, script, clients=min(streams, 16), seconds=seconds
                )
            found = rounds(contenders, bench.rounds)
            bench.report.rates(f"GetImage, {streams} streams, {bench.images:,} names", found, "canned")
            goal = 0.75 if streams == 64 else 0.7
            bench.report.compare(found, "product", "canned", f"GetImage/canned, {streams} streams", at_least=goal)
            if streams == 64:
                bench.report.compare(found, "product", "product on the pool", "GetImage/pool, 64 streams", at_least=1.8)
                tail = found["product"].tail()
                bench.report.add(Figure("GetImage p99/p50, 64 streams", tail, at_most=5))
    finally:
        environment.stop(product, pooled, canned, *([go] if go else []))
