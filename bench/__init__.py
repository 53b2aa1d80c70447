"""Measurements of Evenflow beside the same work by hand, and beside others. `python -m bench --help` tells the rest."""
