"""Implementations of the store contract (`evenflow.store`), one per database."""
