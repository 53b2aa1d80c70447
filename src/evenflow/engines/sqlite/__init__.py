"""The embedded engine: a log in one file."""
