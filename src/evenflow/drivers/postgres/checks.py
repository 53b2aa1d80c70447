"""What durability rests on at a PostgreSQL server, and what stands between it and us."""

from __future__ import annotations

from collections.abc import Callable, Collection

from evenflow.checkup import Finding
from evenflow.drivers.postgres.link import Link

OLDEST = 130000
APART = 5.0
"""Seconds that clocks may differ."""
UNSAFE = {
    "fsync": ("what was committed is lost, and the database destroyed, when the machine fails", ("on",)),
    "full_page_writes": ("the database may be destroyed when the machine fails", ("on",)),
    "synchronous_commit": (
        "what was committed last is lost when the server fails",
        ("on", "remote_apply", "remote_write", "local"),
    ),
}
"""Settings that must have one of these values, and what it costs if they have not."""

_SETTINGS = """
select current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery(),
    current_setting('default_transaction_read_only'), current_setting('server_encoding'),
    current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit')
"""


async def durability_findings(link: Link, allow_unsafe: Collection[str]) -> list[Finding]:
    """Version, recovery, encoding, and the settings that durability rests on. What is "wrong" is to be refused."""
    ((number, version, recovering, read_only, encoding, *values),) = await link.fetch(_SETTINGS)
    found = [
        Finding("ok", "version", f"PostgreSQL {version}")
        if number >= OLDEST
        else Finding("wrong", "version", f"PostgreSQL {version} is too old", "upgrade the server to 13 or later"),
        Finding("ok", "encoding", encoding)
        if encoding == "UTF8"
        else Finding("wrong", "encoding", f"the database is encoded in {encoding}", "make it with encoding 'UTF8'"),
    ]
    if recovering or read_only == "on":
        why = "the server is in recovery: a standby" if recovering else "default_transaction_read_only is on"
        remedy = "connect to the primary (several hosts and target_session_attrs=read-write in the URL)"
        found.append(Finding("wrong", "writable", why, remedy))
    for (name, (price, good)), value in zip(UNSAFE.items(), values, strict=True):
        if value in good:
            found.append(Finding("ok", name, value))
        elif name in allow_unsafe:
            found.append(Finding("warn", name, f"{name} is {value}: {price} (allowed by allow_unsafe={name})"))
        else:
            remedy = f"set {name} = on for the server, the database and the role; or say ?allow_unsafe={name}"
            found.append(Finding("wrong", name, f"{name} is {value}: {price}", remedy))
    return found


async def clock_finding(link: Link, now: Callable[[], float]) -> Finding:
    """How far the server's clock is from ours."""
    before = now()
    ((theirs,),) = await link.fetch("select extract(epoch from clock_timestamp())::float8")
    apart = theirs - (before + now()) / 2
    if abs(apart) <= APART:
        return Finding("ok", "clock", f"{apart:+.3f} s from this machine's")
    return Finding(
        "warn",
        "clock",
        f"the server's clock is {apart:+.1f} s from this machine's",
        "set both by NTP: due times and ages are told by this machine's",
    )


async def pooled(link: Link) -> bool:
    """Whether something stands between the server and us that shares its connections."""
    ((pid,),) = await link.fetch("select pg_backend_pid()")
    return bool(pid != link.pid)


async def keeps_names(link: Link) -> bool:
    """Whether a pooler looks after prepared statements: then it gives them names of its own."""
    await link.control("begin")
    try:
        return await link.renames_statements()
    finally:
        await link.control("rollback")
