"""Postgres: the pool, the SQL and the schema. No SQL and no SQLSTATE outside of here."""
