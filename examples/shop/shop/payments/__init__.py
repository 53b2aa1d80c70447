"""Takes the customers' money at a provider, and writes invoices."""

from shop.payments.provider import Answer, Provider
from shop.payments.service import payments

__all__ = ["Answer", "Provider", "payments"]
