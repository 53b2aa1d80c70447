"""Knows how much was earned, when, and with whom."""

from shop.analytics.service import analytics

__all__ = ["analytics"]
