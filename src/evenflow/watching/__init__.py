"""What ends silent stalls: the decision (watchdog), groups and relay (stalls), tasks that are kept alive (keeping)."""
