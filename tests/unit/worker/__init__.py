"""Workers, without a database."""
