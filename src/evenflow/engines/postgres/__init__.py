"""PostgreSQL as an engine: a log in tables."""
