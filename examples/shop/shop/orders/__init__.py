"""Takes orders, and knows what became of each."""

from shop.orders.service import NewOrder, orders, place

__all__ = ["NewOrder", "orders", "place"]
