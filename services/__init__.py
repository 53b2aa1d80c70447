"""Real servers on loopback for tests, measurements and the crash lab. `python -m services --help` tells the rest.

`services.shared` has the ones that a whole checkout shares. `services.private` gives a test a server of its own, to be
killed, frozen and starved; `services.proxy` stands between client and server, and does to connections what networks do.
"""
