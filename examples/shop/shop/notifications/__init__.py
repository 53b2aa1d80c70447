"""Writes to the customers."""

from shop.notifications.mailer import Mail, Mailer
from shop.notifications.service import notifications

__all__ = ["Mail", "Mailer", "notifications"]
