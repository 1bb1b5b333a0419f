"""The whole product on one machine: its data folder, its own Postgres, its processes and their supervisor."""
