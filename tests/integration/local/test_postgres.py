"""The embedded Postgres, run for real."""

import psycopg

from tests.fixtures.postgres import clone_database


def test_clones_are_independent(postgres_server: str) -> None:
    with clone_database(postgres_server) as template:
        with psycopg.connect(template) as connection:
            connection.execute("CREATE TABLE t (i int)")
        with clone_database(postgres_server, template) as one, clone_database(postgres_server, template) as two:
            with psycopg.connect(one) as connection:
                connection.execute("INSERT INTO t VALUES (1)")
            with psycopg.connect(two) as connection:
                assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
