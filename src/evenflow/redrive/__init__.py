"""Redrive and discard of many: the decisions of an operation, and the chore that carries operations out."""
