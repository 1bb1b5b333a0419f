"""JSON and YAML have the published names; tables are aligned and complete."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import yaml
from click.testing import CliRunner
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from ri.api.imageregistry import image_registry_pb2 as pb
from ri.api.imageregistry import job_status_pb2, jobs_pb2

from image_registry.cli.output import age, columns, print_many, print_one, published
from image_registry.client import PipLibrary
from image_registry.client.convert import image_from, job_from


def as_rest(message: Any) -> Any:
    """The message as the gateway prints it, without what is absent."""
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


def test_an_image_is_printed_as_rest_prints_it() -> None:
    message = pb.ManagedImage(
        name="vision",
        status=pb.ManagedImage.STATUS_READY,
        role_type=pb.ManagedImage.ROLE_TYPE_USER_DEFINED,
        rime_tag="v1",
        repo_uri="oci:/images/vision",
        python_version="3.11",
        child_images=[{"name": "x"}],
        pip_requirements=[{"name": "numpy", "version_specifier": ">=1.26"}],
        pip_libraries=[{"name": "numpy", "version": "1.26.4"}],
        package_requirements=[{"name": "git", "package_type": "PACKAGE_TYPE_APT"}],
    )
    message.base_image.name = "system-python-3-11"
    message.base_image.reference_type = pb.ImageReference.REFERENCE_TYPE_MANAGED
    assert published(image_from(message)) == as_rest(message)
    assert published(image_from(pb.ManagedImage())) == as_rest(pb.ManagedImage())


def test_a_job_is_printed_as_rest_prints_it() -> None:
    message = jobs_pb2.JobMetadata(
        job_id="1",
        status=job_status_pb2.JOB_STATUS_FAILED,
        job_type=jobs_pb2.JOB_TYPE_IMAGE_BUILDER,
        termination_reason=jobs_pb2.TERMINATION_REASON_OOMKILLED,
        running_time_secs=1.5,
        cancellation_requested=True,
        job_progress_str="so far",
        creation_time=Timestamp(seconds=1_700_000_000, nanos=123456000),
        start_time=Timestamp(seconds=1_700_000_001),
    )
    message.agent_id.uuid = "2"
    message.archived_job_logs.url.url = "http://x"
    message.archived_job_logs.expiration_time.seconds = 1_700_000_000
    assert published(job_from(message)) == as_rest(message)
    assert published(job_from(jobs_pb2.JobMetadata())) == as_rest(jobs_pb2.JobMetadata())


def printed(output: str, *values: PipLibrary) -> str:
    @click.command()
    def command() -> None:
        print_many(
            values, output, name=lambda one: one.name, header=("NAME", "V"), row=lambda one: (one.name, one.version)
        )

    return CliRunner().invoke(command).output


NUMPY, GRUEN = PipLibrary("numpy", "1"), PipLibrary("grün", "2.0")


def test_lists_in_every_form() -> None:
    assert printed("name", NUMPY, GRUEN) == "numpy\ngrün\n"
    assert printed("table", NUMPY, GRUEN) == "NAME   V\nnumpy  1\ngrün   2.0\n"
    expected = [{"name": "numpy", "version": "1"}, {"name": "grün", "version": "2.0"}]
    assert json.loads(printed("json", NUMPY, GRUEN)) == expected
    assert yaml.safe_load(printed("yaml", NUMPY, GRUEN)) == expected


def test_empty_lists_are_valid_too() -> None:
    assert json.loads(printed("json")) == []
    assert printed("table") == "NAME  V\n"
    assert (yaml.safe_load(printed("yaml")) or []) == []


def test_one_value_in_every_form() -> None:
    def shown(output: str) -> str:
        command = click.Command("x", callback=lambda: print_one(NUMPY, output, name="numpy", table=lambda: ["a line"]))
        return CliRunner().invoke(command).output

    assert shown("name") == "numpy\n"
    assert shown("table") == "a line\n"
    assert json.loads(shown("json")) == yaml.safe_load(shown("yaml")) == {"name": "numpy", "version": "1"}


def test_columns_colour_statuses_without_shifting_them() -> None:
    lines = [
        click.unstyle(line) for line in columns([("NAME", "STATUS", "X"), ("a", "READY", "1"), ("b", "FAILED", "2")])
    ]
    assert lines == ["NAME  STATUS  X", "a     READY   1", "b     FAILED  2"]


def test_ages() -> None:
    now = datetime.now(UTC)
    spans = [timedelta(seconds=5), timedelta(minutes=3), timedelta(hours=5), timedelta(days=2, hours=3)]
    assert [age(now - span) for span in spans] == ["5 s", "3 min", "5 h", "2 d"]
    assert age(None) == "-"
