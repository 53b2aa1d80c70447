"""The TCP proxy is shipped with the conformance suite, since users' servers are harmed through it too."""

from evenflow.lab.proxy import Connection, Proxy, Trouble

__all__ = ["Connection", "Proxy", "Trouble"]
