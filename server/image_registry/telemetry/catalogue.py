"""Every metric, once. `python -m image_registry.telemetry.catalogue` prints `docs/reference/metrics.md`."""

from __future__ import annotations

from image_registry.telemetry.metrics import Counter, Histogram, Metric, Part, Sampled

_PREFIX = "image_registry_"
_CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BUILD_SECONDS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)

CATALOGUE: list[Metric] = []


def _counter(name: str, text: str, *labels: str, part: Part) -> Counter:
    metric = Counter(_PREFIX + name, text, labels, part)
    CATALOGUE.append(metric)
    return metric


def _histogram(name: str, text: str, *labels: str, part: Part, buckets: tuple[float, ...]) -> Histogram:
    metric = Histogram(_PREFIX + name, text, labels, part, buckets=buckets)
    CATALOGUE.append(metric)
    return metric


def _sampled(name: str, text: str, *labels: str, part: Part) -> Sampled:
    metric = Sampled(_PREFIX + name, text, labels, part, total=name.endswith("_total"))
    CATALOGUE.append(metric)
    return metric


INFO = _sampled("info", "1; the labels say which version runs, and as what.", "version", "part", part=Part.BOTH)

# Calls. Health checks are left out: a load balancer's would drown everybody else's.
RPCS = _counter("rpcs_total", "Calls that ended, by gRPC status.", "method", "code", part=Part.SERVER)
RPC_SECONDS = _histogram(
    "rpc_duration_seconds",
    "Time in the server of calls with one answer.",
    "method",
    part=Part.SERVER,
    buckets=_CALL_SECONDS,
)
RPCS_IN_FLIGHT = _sampled("rpcs_in_flight", "Calls under way, streams among them.", part=Part.SERVER)
REFUSALS = _counter(
    "refusals_total",
    "Calls that ended with an error, by its reason (see errors.md): keys refused, rates and quotas exceeded.",
    "reason",
    part=Part.SERVER,
)
AUDIT_LOST = _counter("audit_entries_lost_total", "Audit entries that are in the log alone.", part=Part.SERVER)
CERTIFICATE_EXPIRY = _sampled(
    "certificate_expiry_timestamp_seconds",
    "When the certificates in use end (Unix time), by the setting that names their file: of a chain the first, of "
    "authorities the last.",
    "certificate",
    part=Part.SERVER,
)

# The database.
DATABASE_UP = _sampled("database_up", "1 if the last look at the database found it.", part=Part.SERVER)
POOL_MAX = _sampled("db_pool_max_connections", "Connections that the pool may have.", part=Part.BOTH)
POOL_CONNECTIONS = _sampled("db_pool_connections", "Connections that the pool has.", part=Part.BOTH)
POOL_IN_USE = _sampled("db_pool_in_use_connections", "Connections at work.", part=Part.BOTH)
POOL_WAITING = _sampled("db_pool_waiting_calls", "Calls that wait for a connection.", part=Part.BOTH)
POOL_WAITS = _sampled("db_pool_waits_total", "Calls that had to wait for a connection.", part=Part.BOTH)
POOL_WAIT_SECONDS = _sampled("db_pool_wait_seconds_total", "Time that calls waited.", part=Part.BOTH)
POOL_TIMEOUTS = _sampled("db_pool_timeouts_total", "Calls that got no connection in time.", part=Part.BOTH)
POINT_READ_FALLBACKS = _counter(
    "point_read_fallbacks_total", "GetImage calls that the gathered reads left to the pool.", part=Part.SERVER
)
PAGE_GROUPS = _counter(
    "page_groups_total",
    "Groups of some 16 images that large pages were made of: `hit` was kept from an earlier page, `miss` was read.",
    "result",
    part=Part.SERVER,
)

# The queue, as the database has it: every server says the same.
JOBS_WAITING = _sampled("jobs_waiting", "Jobs that no worker has.", "priority", part=Part.SERVER)
JOBS_WAITING_FOR_PACKAGES = _sampled(
    "jobs_waiting_for_packages",
    "Those of the jobs waiting that want system packages: workers without an engine don't take them.",
    part=Part.SERVER,
)
JOBS_RUNNING = _sampled("jobs_running", "Jobs that workers have.", part=Part.SERVER)
JOBS_OLDEST = _sampled(
    "jobs_oldest_claimable_age_seconds",
    "For how long the oldest job that a worker could take at once has waited; 0: there is none.",
    "priority",
    part=Part.SERVER,
)

# The bitmaps of popular libraries, as the database has them: every server says the same.
BITMAPS_BEHIND = _sampled(
    "bitmaps_waiting_builds",
    "Finished builds that the bitmaps of popular libraries lack, 20,000 at most; a worker enters 500 and more.",
    part=Part.SERVER,
)
BITMAPS_OVERDUE = _sampled(
    "bitmaps_overdue_seconds",
    "For how long so many builds have been waiting that a worker ought to have entered them; 0: they are fewer.",
    part=Part.SERVER,
)

# Workers.
WORKER_SLOTS = _sampled("worker_slots", "Jobs that the worker may have at once.", part=Part.WORKER)
WORKER_JOBS = _sampled("worker_jobs", "Jobs that the worker has.", part=Part.WORKER)
BUILDS = _counter(
    "builds_total",
    "Builds whose end the process recorded, by the job's status and its termination reason.",
    "outcome",
    "cause",
    part=Part.BOTH,
)
BUILD_SECONDS = _histogram(
    "build_duration_seconds",
    "Time of an attempt that ended its build.",
    "outcome",
    part=Part.WORKER,
    buckets=_BUILD_SECONDS,
)
STAGE_SECONDS = _histogram(
    "build_stage_duration_seconds",
    "Time of each stage that was finished.",
    "stage",
    part=Part.WORKER,
    buckets=_BUILD_SECONDS,
)
RETRIES = _counter("job_retries_total", "Attempts that failed for a passing reason.", part=Part.WORKER)
LEASES_LOST = _counter("leases_lost_total", "Jobs that the worker stopped, its lease being over.", part=Part.WORKER)
LEASES_TAKEN_OVER = _counter(
    "leases_taken_over_total", "Jobs of silent workers that the worker set free.", part=Part.WORKER
)
CACHE_LAYERS = _counter(
    "cache_layers_total",
    "Layers of finished builds: `hit` was in the cache, `miss` was made.",
    "result",
    part=Part.WORKER,
)
CACHE_BYTES = _sampled("cache_size_bytes", "Size of the build cache, as of the last minute.", part=Part.WORKER)


def kind_of(metric: Metric) -> str:
    """The metric's type in Prometheus' words."""
    if isinstance(metric, Histogram):
        return "histogram"
    return "counter" if isinstance(metric, Counter) or (isinstance(metric, Sampled) and metric.total) else "gauge"


def page() -> str:
    """The metrics as the Markdown page `docs/reference/metrics.md`."""
    rows = "\n".join(
        f"| `{one.name}` | {kind_of(one)} | {', '.join(f'`{label}`' for label in one.labels)} "
        f"| {one.part.value} | {one.help} |"
        for one in CATALOGUE
    )
    return f"""# Metrics

<!-- Written by `make generate` from server/image_registry/telemetry/catalogue.py; edit that. -->

What a process shows at `IMAGE_REGISTRY_ADMIN_ADDRESS` for Prometheus, and sends to `IMAGE_REGISTRY_OTLP_ENDPOINT`.
Beside these there are the Prometheus client's own about the process (`process_…`) and Python (`python_…`).
A gateway shows Envoy's statistics (`envoy_…`) there.

| name | type | labels | process | meaning |
| --- | --- | --- | --- | --- |
{rows}
"""


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201
