"""Measurements. `make bench` lists them; `make bench CASE=consume-transactional` runs one, and its twin in turns."""
