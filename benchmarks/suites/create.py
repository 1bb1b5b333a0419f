"""CreateImage with a durable commit, against the Python limit and the same rows in pgbench."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator

from ri.api.imageregistry import image_registry_pb2 as pb

from benchmarks import data
from benchmarks.bench import SERVICE, Bench, named
from benchmarks.environment import Server
from benchmarks.measuring import Call, Contender, Sample, pgbench, rounds

_PIPS = [pb.ManagedImage.PipRequirement(name=f"library-{n}", version_specifier=">=1.0,<2") for n in range(5)]
_CALLS_A_SECOND = 8_000  # more than any server here creates
_SCRIPT = """\\set n random(0, 1000000000000000)
with image as (
    insert into images (name, role, status, python_version, platform_tag, base_image_id, definition)
    select 'pgbench-' || :n, 2, 1, b.python_version, b.platform_tag, b.id, convert_to(repeat('x', 256), 'utf8')
    from images b where b.name = 'system-python-3-11' on conflict (name) do nothing returning id, name, definition
)
insert into jobs (kind, priority, image_id, image_name, repository, definition)
select 1, 0, id, name, 'oci:/images/managed/' || name, definition from image returning uuid;
"""


def run(bench: Bench) -> None:
    """64 streams of names that were never used."""
    environment, dsn = bench.environment, bench.dsn
    product = environment.registry(dsn)
    canned = environment.canned(bench.answer(product, "CreateImage", next(fresh_calls()).request))
    go = bench.go(dsn)
    script = environment.folder / "create.sql"
    script.write_text(_SCRIPT, encoding="ascii")
    try:
        contenders: dict[str, Contender] = {
            "canned": lambda: measured(bench, canned, checked=False),
            "product": lambda: measured(bench, product),
            "product, each with an x-request-id": lambda: measured(bench, product, ids=True),
        }
        if go is not None:
            contenders["Go + pgx, no validation"] = lambda: measured(bench, go)
        if program := bench.pgbench:
            contenders["pgbench, the same rows, 16 clients"] = lambda: pgbench(
                program, dsn, script, clients=16, seconds=bench.load.seconds
            )
        found = rounds(contenders, bench.rounds)
        bench.report.rates("CreateImage, 64 streams, durable", found, "canned")
        bench.report.compare(found, "product", "canned", "CreateImage/canned, 64 streams", at_least=0.5)
    finally:
        environment.stop(product, canned, *([go] if go else []))


def measured(bench: Bench, server: Server, *, checked: bool = True, ids: bool = False) -> Sample:
    """One round with fresh names; `ids`: repeated safely, as the Python client sends them."""
    count = int(_CALLS_A_SECOND * (bench.load.seconds + bench.load.warmup))
    file = bench.calls("create", list(itertools.islice(fresh_calls(checked=checked), count)))
    return bench.load.run(
        server.address, SERVICE + "CreateImage", file, streams=64, once=True, ids=ids, cpu=server.cpu_seconds
    )


def fresh_calls(*, checked: bool = True) -> Iterator[Call]:
    """Creates of names that nobody has used; the answer has to hold the image."""
    run = secrets.token_hex(4)
    for number in itertools.count():
        name = f"bench-{run}-{number}"
        request = pb.CreateImageRequest(name=name, pip_requirements=_PIPS, python_version=data.PYTHON)
        yield Call(request.SerializeToString(), named(name) if checked else b"")
