"""Peers: other registries of named things on Postgres, as their makers ship them, in environments of their own."""
