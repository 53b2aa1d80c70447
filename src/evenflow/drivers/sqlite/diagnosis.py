"""What is wrong with a SQLite file, in words that help: by error code, by whoever holds the lock, by file system.

Works for errors of `apsw` and of `sqlite3` alike. Never opens the file: closing a descriptor of it would drop the
locks that SQLite holds in this process.
"""
# ruff: noqa: PTH100, PTH110, PTH116, PTH120
# plain paths: some of this stands before every commit

from __future__ import annotations

import enum
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from evenflow.errors import Refused

_NETWORK = """
nfs nfs3 nfs4 cifs smb smb2 smb3 smbfs smbclient ncpfs afs auristorfs 9p drvfs ceph lustre beegfs gpfs glusterfs davfs
webdav vboxsf vmhgfs prl_fs fuse.sshfs fuse.s3fs fuse.gcsfuse fuse.rclone fuse.goofys fuse.blobfuse2 fuse.glusterfs
fuse.ceph fuse.davfs2 fuse.juicefs fuse.vmhgfs-fuse fuse.smbnetfs fuse.curlftpfs
"""
NETWORK = frozenset(_NETWORK.split())
"""File systems whose locks or shared memory cannot be trusted to work between machines."""

_WRITE_LOCK = 120  # the byte of the -shm file that a WAL writer locks (SQLite's page "WAL-mode File Format")
_MAIN_LOCKS = range(0x40000000, 0x40000200)  # the bytes of the database file that a rollback-mode writer locks
_LITTLE_SPACE = 4 << 20


class Trouble(enum.Enum):
    """What an error of SQLite's means for us."""

    LOCKED = "locked"
    FULL = "full"
    READ_ONLY = "read-only"
    REPLACED = "replaced"
    CORRUPT = "corrupt"
    CANNOT_OPEN = "cannot open"
    DISK = "disk error"
    STATEMENT = "statement"  # the statement's own fault; every other kind is nobody's event's fault


_BY_CODE = {
    5: Trouble.LOCKED,  # BUSY
    6: Trouble.LOCKED,
    15: Trouble.LOCKED,  # PROTOCOL: too many raced for the lock
    3: Trouble.CANNOT_OPEN,
    14: Trouble.CANNOT_OPEN,
    8: Trouble.READ_ONLY,
    10: Trouble.DISK,
    11: Trouble.CORRUPT,
    26: Trouble.CORRUPT,  # NOTADB
    13: Trouble.FULL,
    7: Trouble.DISK,  # NOMEM
    1032: Trouble.REPLACED,  # READONLY_DBMOVED
}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What happened, and what to do about it."""

    trouble: Trouble
    message: str
    remedy: str

    def refusal(self) -> Refused:
        """What opening a file raises for it."""
        return (NoRoom if self.trouble is Trouble.FULL else Refused)(self.message, remedy=self.remedy)


class NoRoom(Refused):
    """The disk is full. It is refused as other things are, but passes without a change of the app or its settings."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a file's write lock."""

    pid: int
    command: str

    def __str__(self) -> str:
        if self.pid == os.getpid():
            return f"this process itself (pid {self.pid}), by another connection"
        return f"process {self.pid}" + (f" ({self.command})" if self.command else "")


def error_code(error: BaseException) -> int:
    """SQLite's extended result code of an error of `apsw` or `sqlite3`; -1 for any other."""
    for name in ("extendedresult", "sqlite_errorcode"):
        code = getattr(error, name, None)
        if isinstance(code, int):
            return code
    return -1


def trouble_of(code: int) -> Trouble:
    """The kind of trouble for an extended or plain result code."""
    return _BY_CODE.get(code) or _BY_CODE.get(code & 0xFF, Trouble.STATEMENT)


def is_busy(error: BaseException) -> bool:
    """Whether trying again a moment later may help."""
    return trouble_of(error_code(error)) is Trouble.LOCKED


def diagnose(error: BaseException, path: str, what: str) -> Diagnosis:
    """Words for an error at this file. `what` names it for the reader, as in "the event log"."""
    trouble = trouble_of(error_code(error))
    if trouble in (Trouble.DISK, Trouble.CANNOT_OPEN) and free_space(path) < _LITTLE_SPACE:
        trouble = Trouble.FULL  # SQLite cannot always tell (fsync, the -shm file)
    if trouble in (Trouble.DISK, Trouble.READ_ONLY) and not os.path.exists(path):
        trouble = Trouble.REPLACED
    message, remedy = _words(trouble, error, path)
    return Diagnosis(trouble, f"{what} at {path} {message}", remedy)


def _words(trouble: Trouble, error: BaseException, path: str) -> tuple[str, str]:
    if trouble is Trouble.LOCKED:
        return _locked_words(path)
    if trouble is Trouble.FULL:
        return (
            f"cannot grow: the disk is full ({free_space(path) >> 10} KiB free), or the file has reached its limit",
            "make room on that disk; nothing that was acknowledged is lost, and writing goes on by itself",
        )
    if trouble is Trouble.READ_ONLY:
        return "cannot be written: the file or its folder is read-only", "give this user the right to write to both"
    if trouble is Trouble.REPLACED:
        return replaced_words()
    if trouble is Trouble.CORRUPT:
        return (
            f"is damaged, or is no SQLite database ({error})",
            "restore a backup while nothing has it open, keeping a copy with its -wal file; or correct the path",
        )
    if trouble is Trouble.CANNOT_OPEN:
        return f"cannot be opened ({error})", "check that the folder exists and that this user may read and write it"
    if trouble is Trouble.DISK:
        return f"met a disk error ({error})", "check the disk and the system's log; writing is tried again"
    return f"refused a statement ({error})", ""


def _locked_words(path: str) -> tuple[str, str]:
    holder = lock_holder(path)
    if holder is None:
        return (
            "is locked by another process, which holds its write lock for too long",
            f"find it with `lsof {path}`; a frozen writer blocks every other one until it goes on or is ended",
        )
    remedy = (
        "commit or close that connection"
        if holder.pid == os.getpid()
        else f"let it finish, or end it (kill {holder.pid}): what it has not committed is rolled back by itself"
    )
    return f"is locked by {holder}, which holds its write lock for too long", remedy


def replaced_words() -> tuple[str, str]:
    """Message and remedy for a file that is no longer the one that was opened."""
    return (
        "was deleted or replaced by another file while it was open; nothing more is written to the old one",
        "start this process again; a file must only be deleted or restored while nobody has it open",
    )


def lock_holder(path: str) -> Holder | None:
    """Who holds the write lock of this file, where the system tells (Linux); None where it does not, or nobody."""
    try:
        table = Path("/proc/locks").read_text("ascii", "replace")
    except OSError:
        return None
    for file, first, last in ((path + "-shm", _WRITE_LOCK, _WRITE_LOCK), (path, _MAIN_LOCKS.start, _MAIN_LOCKS.stop)):
        try:
            found = os.stat(file)
        except OSError:
            continue
        pid = holder_in(table, found.st_ino, first, last)
        if pid:
            return Holder(pid, _command(pid))
    return None


def holder_in(table: str, inode: int, first: int, last: int) -> int | None:
    """The pid in the text of /proc/locks that has a write lock on these bytes of the file with this inode."""
    for line in table.splitlines():
        words = line.split()
        if len(words) < 8 or words[1] == "->" or words[3] != "WRITE" or not words[5].endswith(f":{inode}"):
            continue
        start, end = int(words[6]), (1 << 62 if words[7] == "EOF" else int(words[7]))
        if start <= last and end >= first:
            return int(words[4])
    return None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:120]
    except OSError:
        return ""


def free_space(path: str) -> int:
    """Bytes that this user may still write in the file's folder; a large number where nobody can tell."""
    try:
        facts = os.statvfs(os.path.dirname(os.path.abspath(path)))
    except (OSError, AttributeError):
        return 1 << 60
    return facts.f_bavail * facts.f_frsize


def check_place(path: str, what: str, *, allow_network: bool = False) -> None:
    """Refuse a place where a SQLite file could not be kept safely. Makes the folder if only that one is missing."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        Path(folder).mkdir(exist_ok=True)
    except OSError as error:
        raise Refused(f"the folder of {what} at {path} cannot be made ({error.strerror})", remedy="make it") from error
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise Refused(f"{what} at {path} is not a file", remedy="give the path of a file")
    kind = file_system(folder)
    if kind in NETWORK and not allow_network:
        raise Refused(
            f"{what} at {path} lies on a network file system ({kind}), where SQLite's locks cannot be trusted",
            remedy="put it on a local disk, or use an engine or store that is a server; "
            "?allow_unsafe=network if you know that only one machine opens it",
        )
    for place in (folder, *(each for each in (path, path + "-wal", path + "-shm") if os.path.exists(each))):
        if not os.access(place, os.W_OK):
            raise Refused(
                f"{what} at {path} cannot be used: {place} is read-only for this user",
                remedy="give this user the right to write there",
            )


def file_system(folder: str) -> str:
    """The type of the file system that holds this folder, as in /proc/mounts; empty where the system does not tell."""
    try:
        table = Path("/proc/mounts").read_text("utf-8", "replace")
    except OSError:
        return ""
    return file_system_in(table, os.path.realpath(folder))


def file_system_in(table: str, folder: str) -> str:
    """The type of the innermost mount in the text of /proc/mounts that holds this folder."""
    best, found = "", ""
    for line in table.splitlines():
        words = line.split(" ")
        if len(words) < 3:
            continue
        point = words[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, found = point, words[2]
    return found
