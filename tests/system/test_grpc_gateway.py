"""The protos stay usable with grpc-gateway: Debian's plugins (1.6.4) take them, and what they write compiles."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from image_registry.openapi.document import build
from tests.system.go import go_build

REPOSITORY = Path(__file__).parents[2]
PACKAGES = "golang-grpc-gateway golang-go golang-goprotobuf-dev golang-github-grpc-ecosystem-grpc-gateway-dev"
NEEDED = ("protoc-gen-grpc-gateway", "protoc-gen-swagger", "protoc-gen-go", "go")
FOLDER = "ri/api/imageregistry"
PROTOS = {path.stem for path in (REPOSITORY / "protos" / FOLDER).glob("*.proto")}
GO_PACKAGES = (sorted(PROTOS - {"job_status"}), ["job_status"])  # plugins take one of them at a time
OLD_TIMESTAMP = "Mgoogle/protobuf/timestamp.proto=github.com/golang/protobuf/ptypes/timestamp"  # as Debian has it

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    if missing := [tool for tool in NEEDED if shutil.which(tool) is None]:
        pytest.fail(f"{', '.join(missing)} not installed: apt-get install --no-install-recommends {PACKAGES}")


def compile_protos(folder: Path, plugin: str, parameter: str, files: list[str]) -> None:
    """Run a plugin of old on some of our protos; what it writes goes into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    wrapper = folder.parent / f"wrapped-{plugin}"
    wrapper.write_text(f"#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name('proto3_optional.py')} {plugin}\n")
    wrapper.chmod(0o755)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"--plugin=protoc-gen-old={wrapper}"),
            *(f"-I{REPOSITORY / 'protos'}", f"-I{sysconfig.get_path('purelib')}", f"--old_out={parameter}:{folder}"),
            *(f"{FOLDER}/{name}.proto" for name in files),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def go_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Go workspace with the messages, the gRPC stubs and the reverse proxy."""
    folder = tmp_path_factory.mktemp("go")
    for files in GO_PACKAGES:
        compile_protos(folder / "src", "protoc-gen-go", f"plugins=grpc,{OLD_TIMESTAMP}", files)
    compile_protos(folder / "src", "protoc-gen-grpc-gateway", f"logtostderr=true,{OLD_TIMESTAMP}", GO_PACKAGES[0])
    return folder


@pytest.fixture(scope="module")
def swagger(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What grpc-gateway's own generator of OpenAPI 2 makes of the protos."""
    folder = tmp_path_factory.mktemp("swagger") / "out"
    names = "logtostderr=true,allow_merge=true,merge_file_name=all,json_names_for_fields=true"
    compile_protos(folder, "protoc-gen-swagger", names, GO_PACKAGES[0])
    document: dict[str, Any] = json.loads((folder / "all.swagger.json").read_text())
    return document


def test_both_bindings_of_a_method_are_there(go_path: Path) -> None:
    code = (go_path / "src" / FOLDER / "image_registry.pb.gw.go").read_text()
    handled = re.findall(r'mux\.Handle\("(\w+)", pattern_(\w+), func', code)
    assert sorted(set(handled)) == [
        ("DELETE", "ImageRegistry_DeleteImage_0"),
        ("GET", "ImageRegistry_GetImage_0"),
        ("GET", "ImageRegistry_ListImages_0"),
        ("POST", "ImageRegistry_CreateImage_0"),
        ("POST", "ImageRegistry_ListImages_1"),
        ("POST", "ImageRegistry_UpdateBuildInfo_0"),
    ]


def test_the_proxy_compiles(go_path: Path) -> None:
    go_build(go_path / "src" / FOLDER, f"{go_path}:/usr/share/gocode", go_path / "cache", "./...")


def test_its_paths_are_those_of_our_document(swagger: dict[str, Any]) -> None:
    theirs = {(verb, path.replace("job_id", "jobId")) for path, verbs in swagger["paths"].items() for verb in verbs}
    assert theirs == {(verb, path) for path, verbs in build()["paths"].items() for verb in verbs}


def test_its_schema_names_and_fields_are_those_of_our_document(swagger: dict[str, Any]) -> None:
    """But for names that depend on what else there is, and for what this old release writes out or leaves out."""
    ours = build()["components"]["schemas"]
    both = set(swagger["definitions"]) & set(ours)
    assert set(ours) - both == {
        "rimeManagedImageStatus",  # it doesn't see google.rpc.Status, which is another Status
        "googlerpcStatus",
        "rimeJobDataStressTest",  # as on the published page, whose API had another StressTest
        "rimeJobDataContinuousIncrementalTest",
    }
    for name in both - {"protobufAny"}:
        theirs = swagger["definitions"][name]
        assert list(theirs.get("properties", {})) == list(ours[name].get("properties", {})), name
        assert theirs["type"] == ours[name]["type"], name
        assert theirs.get("enum") == ours[name].get("enum"), name
