"""One image is created over REST and built; logs, traces and metrics of all processes tell of it, and no secret."""

import json
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from image_registry.telemetry.catalogue import CATALOGUE
from image_registry.telemetry.metrics import Part
from tests.fixtures.collector import Span
from tests.integration.observability.conftest import CALLERS_SPAN, INDEX_PASSWORD, TRACE, Observed

pytestmark = [pytest.mark.xdist_group("base"), pytest.mark.timeout(600)]
CREATE = "rime.ImageRegistry/CreateImage"
STAGES = {"build.resolve", "build.fetch", "build.layer", "build.push", "build.record"}


def traced(spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.trace == TRACE]


def of_image(spans: list[Span]) -> list[Span]:
    return [s for s in traced(spans) if s.attributes.get("image_registry.image") == "seen"]


def complete(spans: list[Span]) -> bool:
    names = {span.name for span in traced(spans)}
    return (
        names >= STAGES | {CREATE}
        and any(s.service.endswith("gateway") for s in traced(spans))
        and bool(of_image(spans))
    )


def test_one_trace_leads_from_the_callers_span_to_the_stages_of_the_build(observed: Observed) -> None:
    spans = traced(observed.collector.wait_for(complete))
    by_id = {span.id: span for span in spans}

    def path(span: Span) -> list[str]:
        above = by_id.get(span.parent)
        return [*(path(above) if above else [span.parent]), span.name]

    [job] = of_image(spans)
    [stage] = [span for span in spans if span.name == "build.push" and span.parent == job.id]
    gateway = next(span for span in spans if span.service == "image-registry-gateway")
    assert path(stage) == [CALLERS_SPAN, gateway.name, CREATE, "job.build", "build.push"]
    assert {span.name for span in spans if span.parent == job.id} >= STAGES
    assert stage.service == "image-registry-worker"
    [call] = [span for span in spans if span.name == CREATE]
    assert call.service == "image-registry-server"
    assert call.attributes["image_registry.request_id"] == "the-create"
    assert call.attributes["image_registry.via"] == "rest"
    assert observed.key.startswith(call.attributes["image_registry.caller"])
    below = [span for span in spans if span.parent == call.id and span.service == "image-registry-server"]
    assert "images.create" in {span.name for span in below}
    assert all(set(s.attributes) <= {"db.system.name", "db.operation.name"} for s in below)
    assert not any(span.failed for span in spans)


def lines(observed: Observed, **wanted: Any) -> list[dict[str, Any]]:
    logged = [*observed.server.logged(), *observed.worker.logged()]
    return [line for line in logged if all(line.get(name) == value for name, value in wanted.items())]


def test_every_call_has_a_line_with_its_id_its_end_and_its_caller(observed: Observed) -> None:
    [miss] = lines(observed, logger="image_registry.access", request_id="the-miss")
    assert (miss["method"], miss["code"]) == ("rime.ImageRegistry/GetImage", "NOT_FOUND")
    assert miss["duration_ms"] > 0
    assert miss["via"] == "rest"
    assert miss["caller"]
    assert observed.key.startswith(miss["caller"])
    [refused] = lines(observed, logger="image_registry.access", code="UNAUTHENTICATED")
    assert (refused["caller"], refused["method"]) == ("", "rime.ImageRegistry/GetImage")
    assert not lines(observed, method="grpc.health.v1.Health/Check")


def test_the_audit_log_and_the_answer_have_the_same_id(observed: Observed) -> None:
    [line] = lines(observed, logger="image_registry.audit", request_id="the-create")
    entry = json.loads(line["message"])
    assert (entry["audit"], entry["result"], entry["via"], line["trace_id"]) == ("CreateImage", "OK", "rest", TRACE)
    assert entry["duration_ms"] > 0
    assert not lines(observed, logger="image_registry.access", request_id="the-create")  # one line is enough
    assert observed.answers["create"][1]["x-request-id"] == "the-create"
    assert observed.answers["miss"][1]["x-request-id"] == "the-miss"
    assert len(observed.answers["refused"][1]["x-request-id"]) >= 32


def test_lines_of_the_worker_say_which_job_image_and_attempt(observed: Observed) -> None:
    found = lines(observed, job=observed.job["jobId"])
    assert found
    for line in found:
        assert (line["image"], line["attempt"], line["trace_id"]) == ("seen", 1, TRACE)
    assert any("succeeded after" in line["message"] for line in found)


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[(f"image_registry_{name}", frozenset(labels.items()))]


def test_the_server_tells_prometheus_of_its_calls_its_pool_and_the_queue(observed: Observed) -> None:
    text = observed.scrape("server")
    get = "rime.ImageRegistry/GetImage"
    assert value(text, "rpcs_total", method=CREATE, code="OK") == 1
    assert value(text, "rpcs_total", method=get, code="NOT_FOUND") == 1
    assert value(text, "rpcs_total", method=get, code="UNAUTHENTICATED") == 1
    assert value(text, "rpc_duration_seconds_count", method=CREATE) == 1
    assert value(text, "refusals_total", reason="KEY_INVALID") == 1
    assert value(text, "refusals_total", reason="IMAGE_NOT_FOUND") == 1
    assert value(text, "rpcs_in_flight") == 0
    assert value(text, "db_pool_max_connections") == 16
    assert value(text, "db_pool_connections") >= value(text, "db_pool_in_use_connections") >= 0
    assert value(text, "database_up") == 1
    for priority in ("interactive", "platform"):
        assert value(text, "jobs_waiting", priority=priority) == 0
        assert value(text, "jobs_oldest_claimable_age_seconds", priority=priority) == 0
    assert value(text, "jobs_waiting_for_packages") == 0
    assert value(text, "bitmaps_waiting_builds") >= 1
    assert value(text, "bitmaps_overdue_seconds") == 0
    assert "grpc.health" not in text


def test_the_worker_tells_prometheus_of_its_builds(observed: Observed) -> None:
    text = observed.scrape("worker")
    assert value(text, "builds_total", outcome="succeeded", cause="completed") == 2, "the system image and the user's"
    assert value(text, "build_duration_seconds_count", outcome="succeeded") == 2
    for stage in STAGES:
        assert value(text, "build_stage_duration_seconds_count", stage=stage.removeprefix("build.")) == 2
    assert value(text, "worker_slots") == 2
    assert value(text, "cache_layers_total", result="miss") >= 1
    assert value(text, "cache_size_bytes") > 0


def test_what_a_process_shows_is_in_the_catalogue(observed: Observed) -> None:
    for name, part in (("server", Part.SERVER), ("worker", Part.WORKER)):
        shown = {family.name for family in text_string_to_metric_families(observed.scrape(name))}
        ours = {family for family in shown if family.startswith("image_registry_")}
        wanted = {one.name.removesuffix("_total") for one in CATALOGUE if one.part in {part, Part.BOTH}}
        assert ours == wanted
        assert "process_resident_memory_bytes" in shown


def test_no_secret_is_in_any_of_it(observed: Observed) -> None:
    observed.collector.wait_for(complete)
    secret = observed.key.rpartition("_")[2]
    logs = "\n".join([*observed.server.lines, *observed.worker.lines, *observed.gateway.lines])
    metrics = observed.scrape("server") + observed.scrape("worker")
    sent = b"\n".join(observed.collector.bodies).decode(errors="replace")
    for what in (logs, metrics, sent):
        assert what
        assert not re.search(f"{re.escape(secret)}|{INDEX_PASSWORD}", what)
