"""The twins: the same work as an experienced engineer writes it by hand on apsw, msgspec and asyncio.

Two files (a log, and the database with the effects), WAL, `synchronous=FULL`, the same cache as ours; checkpoints are
SQLite's own, at its default pace. One consumer, no partitions, no parking, no fence.
"""
