"""Knows how many CDs of each title are free, and for which order the others are held."""

from shop.stock.service import stock
from shop.stock.supplier import Supplier

__all__ = ["Supplier", "stock"]
