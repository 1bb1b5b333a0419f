"""The servers of peers on the suite's Postgres, each on a database of its own, and how they are asked.

They run as shipped, but in one worker process (MLflow starts four) and with two settings in their favour: MLflow starts
none of its other services, and Feast refreshes its cache in a thread (as shipped it reads its whole registry again
after every write).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from psycopg.conninfo import conninfo_to_dict

from benchmarks.environment import Environment, Server
from benchmarks.peers import installing

_FEAST_SERVICE = "/feast.registry.RegistryServer/"
_FEAST_PROJECT = "bench"
_FEAST_CONFIGURATION = f"""project: {_FEAST_PROJECT}
provider: local
registry:
  registry_type: sql
  path: '%s'
  cache_mode: thread
  cache_ttl_seconds: 600
online_store:
  type: sqlite
  path: online.db
entity_key_serialization_version: 3
"""


@dataclass(frozen=True)
class Request:
    """One kind of call: what it is called, how it is written for a name and a text, what its answer must hold."""

    title: str
    method: str
    body: Callable[[str, str], bytes]
    answer: Callable[[str], bytes] = lambda _: b""


@dataclass(frozen=True)
class Peer:
    """A running peer. `again` starts another one that has read into its cache what has been written."""

    title: str
    server: Server
    target: str
    dsn: str
    table: str
    write: Request
    reads: tuple[Request, ...]
    again: Callable[[], Peer | None] | None = None


def mlflow(environment: Environment) -> Peer | None:
    """MLflow's model registry over REST: registered models."""
    programs = installing.programs("mlflow")
    if programs is None:
        return None
    dsn = environment.database("mlflow")
    argv = [str(programs / "mlflow"), "server", "--workers", "1", "--host", "127.0.0.1"]
    argv += ["--no-serve-artifacts", "--default-artifact-root", str(environment.folder / "artifacts"), "--port"]
    variables = {
        "MLFLOW_BACKEND_STORE_URI": _for_sqlalchemy(dsn),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    server = environment.listening(argv, variables)
    path = "/api/2.0/mlflow/registered-models"

    def written(name: str, text: str) -> bytes:
        return f"{path}/create {json.dumps({'name': name, 'description': text})}".encode()

    def answer(name: str) -> bytes:
        return f'"name": "{name}"'.encode()

    return Peer(
        f"MLflow {installing.version('mlflow')}",
        server,
        f"http://{server.address}",
        dsn,
        "registered_models",
        Request("create registered model", "POST", written, answer),
        (Request("get registered model", "GET", lambda name, _: f"{path}/get?name={name}".encode(), answer),),
    )


def feast(environment: Environment) -> Peer | None:
    """Feast's registry server over gRPC: entities. Messages are written by hand: its code needs its packages."""
    programs = installing.programs("feast")
    if programs is None:
        return None
    dsn = environment.database("feast")
    folder = environment.folder / "feast"
    folder.mkdir(exist_ok=True)
    (folder / "feature_store.yaml").write_text(_FEAST_CONFIGURATION % _for_sqlalchemy(dsn), encoding="utf-8")
    argv = [str(programs / "feast"), "--chdir", str(folder), "serve_registry", "--port"]
    server = environment.listening(argv, {"FEAST_USAGE": "False"})

    def get(name: str, *, cached: bool) -> bytes:
        return _text(1, name) + _text(2, _FEAST_PROJECT) + _number(3, int(cached))

    def apply(name: str, text: str) -> bytes:
        spec = _text(1, name) + _number(2, 2) + _text(3, text) + _text(4, name) + _text(9, _FEAST_PROJECT)
        return _field(1, _field(1, spec)) + _text(2, _FEAST_PROJECT) + _number(3, 1)

    def answer(name: str) -> bytes:
        return _text(1, name)

    reading = _FEAST_SERVICE + "GetEntity"
    return Peer(
        f"Feast {installing.version('feast')}",
        server,
        server.address,
        dsn,
        "entities",
        Request("apply entity", _FEAST_SERVICE + "ApplyEntity", apply),
        (
            Request("get entity", reading, lambda name, _: get(name, cached=False), answer),
            Request("get entity, cached for 10 minutes", reading, lambda name, _: get(name, cached=True), answer),
        ),
        again=partial(feast, environment),
    )


def _for_sqlalchemy(dsn: str) -> str:
    """The same for SQLAlchemy, whose URLs have no sockets as hosts."""
    words = conninfo_to_dict(dsn)
    login, place = f"{words['user']}:{words['password']}", f"host={words['host']}&port={words['port']}"
    return f"postgresql+psycopg://{login}@/{words['dbname']}?{place}"


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode())


def _number(number: int, value: int) -> bytes:
    return bytes([number << 3]) + _varint(value)


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
