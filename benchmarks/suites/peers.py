"""GetImage and CreateImage beside what peers have like them, on the same Postgres, in the same rounds."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import psycopg
from psycopg import sql

from benchmarks.bench import Bench
from benchmarks.measuring import Call, Contender, Sample, rounds
from benchmarks.peers import servers
from benchmarks.peers.servers import Peer, Request
from benchmarks.suites import create

ROUNDS = 3  # they are far apart: more rounds say nothing new
NAMES = 2_000
_TEXT = "x" * 1_400  # with it their answers are as long as GetImage's
_FEW = "x" * 150  # and with this what they write is as long as CreateImage's requirements
_FILL_SECONDS = 120
_WRITES_A_SECOND = 2_000  # more than any peer does here


def run(bench: Bench) -> None:
    """Whatever peers can be had."""
    environment = bench.environment
    started = (servers.mlflow(environment), servers.feast(environment))
    peers = [_filled(bench, peer) for peer in started if peer is not None]
    if not peers:
        return
    product = environment.registry(bench.dsn)
    names = [_name(number) for number in range(NAMES)]
    for streams in (64, 1):
        contenders: dict[str, Contender] = {
            "GetImage": bench.contender(product, "GetImage", bench.get_calls(), streams),
        }
        for peer in peers:
            for request in peer.reads:
                calls = _calls(bench, request, names)
                contenders[f"{peer.title}: {request.title}"] = _reader(bench, peer, request, calls, streams)
        _report(bench, contenders, f"GetImage and the reads of peers, {streams} streams", streams)
    contenders = {"CreateImage": lambda: create.measured(bench, product)}
    for peer in peers:
        contenders[f"{peer.title}: {peer.write.title}"] = _writer(bench, peer)
    _report(bench, contenders, "CreateImage and the writes of peers, 64 streams", 64)


def _report(bench: Bench, contenders: dict[str, Contender], title: str, streams: int) -> None:
    """A table; with many streams also how far the product is ahead of each."""
    found = rounds(contenders, min(bench.rounds, ROUNDS))
    product, *others = contenders
    bench.report.rates(title, found, product)
    if streams == 64:
        for other in others:
            bench.report.compare(found, product, other, f"{product}/{other}, 64 streams", at_least=1)


def _filled(bench: Bench, peer: Peer) -> Peer:
    """The peer with the names that are read later, made by its own call."""
    count = sql.SQL("select count(*) from {}").format(sql.Identifier(peer.table))
    with psycopg.connect(peer.dsn, autocommit=True) as conn:
        if conn.execute(count).fetchone() == (0,):
            calls = _calls(bench, peer.write, [_name(number) for number in range(NAMES)], _TEXT)
            patient = replace(bench.load, seconds=_FILL_SECONDS, warmup=0)
            patient.run(peer.target, peer.write.method, calls, streams=16, once=True)
        held = conn.execute(count).fetchone()
    if held != (NAMES,):
        raise RuntimeError(f"{peer.title} holds {held} names, not {NAMES}")
    if peer.again is None:
        return peer
    bench.environment.stop(peer.server)
    return peer.again() or peer


def _name(number: int) -> str:
    return f"team-{number * 7919 % 9973:04d}-thing-{number:07d}"


def _calls(bench: Bench, request: Request, names: Iterable[str], text: str = "") -> Path:
    calls = [Call(request.body(name, text), request.answer(name)) for name in names]
    return bench.calls(f"peer {request.title}", calls)


def _reader(bench: Bench, peer: Peer, request: Request, calls: Path, streams: int) -> Contender:
    return lambda: bench.load.run(peer.target, request.method, calls, streams=streams, cpu=peer.server.cpu_seconds)


def _writer(bench: Bench, peer: Peer) -> Contender:
    def measure() -> Sample:
        run = secrets.token_hex(4)
        count = int(_WRITES_A_SECOND * (bench.load.seconds + bench.load.warmup))
        calls = _calls(bench, peer.write, (f"bench-{run}-{number}" for number in range(count)), _FEW)
        return bench.load.run(peer.target, peer.write.method, calls, streams=64, once=True, cpu=peer.server.cpu_seconds)

    return measure
