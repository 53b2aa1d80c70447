"""Codecs: how events become bytes. One file each; a team's own needs only the contract in `codec.py`."""
