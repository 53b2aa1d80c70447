"""The test kit: `world` for your own app. `engine_suite` and `store_suite` are for whoever writes an engine or store."""

from evenflow.testing.world import NotSettled, World, world

__all__ = ["NotSettled", "World", "world"]
