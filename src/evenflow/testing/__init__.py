"""The test kit: `world` for your own app; `engine_suite` and `store_suite` for an engine or a store of your own."""

from evenflow.testing.world import NotSettled, World, world

__all__ = ["NotSettled", "World", "world"]
