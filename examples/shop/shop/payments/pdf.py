"""An invoice on paper."""

from __future__ import annotations

from io import BytesIO

from reportlab.lib.pagesizes import A5
from reportlab.pdfgen.canvas import Canvas

from shop.events import InvoiceDue

_WIDTH, _HEIGHT = A5
_LEFT, _RIGHT = 50, _WIDTH - 50


def dollars(cents: int) -> str:
    return f"${cents // 100:,}.{cents % 100:02}"


def invoice_pdf(invoice: InvoiceDue) -> bytes:
    """The same bytes for the same invoice, whenever it is drawn."""
    file = BytesIO()
    page = Canvas(file, pagesize=A5, invariant=1, pageCompression=0)
    page.setTitle(f"Invoice {invoice.number}")
    page.setFont("Helvetica-Bold", 18)
    page.drawString(_LEFT, _HEIGHT - 70, "Invoice")
    page.setFont("Helvetica", 11)
    _line(page, 100, f"Number {invoice.number}", f"Date {invoice.day}")
    _line(page, 116, f"Customer {invoice.customer}", f"Order {invoice.order_id}")
    page.line(_LEFT, _HEIGHT - 140, _RIGHT, _HEIGHT - 140)
    _line(page, 165, f"{invoice.cds} x CD {invoice.title}", dollars(invoice.cents))
    page.line(_LEFT, _HEIGHT - 180, _RIGHT, _HEIGHT - 180)
    page.setFont("Helvetica-Bold", 11)
    _line(page, 205, "Paid", dollars(invoice.cents))
    page.showPage()
    page.save()
    return file.getvalue()


def _line(page: Canvas, below: int, left: str, right: str) -> None:
    """Two texts, one at each margin, so many points below the upper edge."""
    page.drawString(_LEFT, _HEIGHT - below, left)
    page.drawRightString(_RIGHT, _HEIGHT - below, right)
