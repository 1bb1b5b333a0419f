"""The number that KEDA scales workers by, from the manifest's own query."""

import psycopg

from tests.fixtures.service import Service
from tests.integration.worker.test_capabilities import GIT
from tests.unit.deploy.manifests import resource


async def test_the_query_counts_what_keeps_workers_busy(service: Service, dsn: str) -> None:
    trigger = resource("ScaledObject", "worker")["spec"]["triggers"][0]
    query = trigger["metadata"]["query"]
    assert int(trigger["metadata"]["targetQueryValue"]) == 2
    with psycopg.connect(dsn, autocommit=True) as connection:

        def depth() -> int:
            row = connection.execute(query).fetchone()
            assert row is not None
            return int(row[0])

        assert depth() == 0
        await service.create("one")  # and the system image that it stands on
        await service.create("two")
        assert depth() == 3
        claimed = (
            "update jobs set status = 1, attempt = 1, lease_expires_at = now() + '1 hour' where image_name = 'one'"
        )
        connection.execute(claimed)
        assert depth() == 3
        connection.execute("update jobs set run_after = now() + interval '1 hour' where image_name = 'two'")
        assert depth() == 2
        connection.execute("update jobs set run_after = now() where image_name = 'two'")
        await service.report("system-python-3-12")
        assert depth() == 2
        await service.create("tools", package_requirements=GIT)
        assert depth() == 2, "these workers have no engine"
        connection.execute(claimed.replace("one", "tools"))
        assert depth() == 2, "another worker has it"
