"""Measurements: `make bench` lists them, `make bench CASE=consume-transactional` runs one. Twins run in the same run."""
