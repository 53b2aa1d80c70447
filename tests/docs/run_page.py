"""Runs one page of the documentation from top to bottom in an empty folder: `python run_page.py PAGE FOLDER [SHOWN=GIVEN …]`.

A block that begins with `# name.py` (or `-- name.sql`) is that file; a `diff` block changes it. Other Python blocks are run in one module, with
`await` where they like, as in `python -m asyncio`. A text block after Python is what it prints; a `console` block holds
commands after `$` with what they print to a terminal, `^C` where a person presses it. Prints what is wrong, by line.
"""

from __future__ import annotations

import ast
import asyncio
import fcntl
import inspect
import io
import linecache
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
import traceback
import types
from contextlib import redirect_stdout
from pathlib import Path

from page_blocks import Block, begins, blocks, readable, same

FILES = ("python", "sql", "toml", "ini", "yaml")
NOT_RUN = (
    "pip install ",
    "python3 -m venv ",
    ". .venv/bin/activate",
    "make ",
    "uvicorn ",
    "evenflow run ",
    "evenflow conformance ",
    "docker run ",
    "kafka-acls.sh ",
    "kafka-configs.sh ",
    "kafka-consumer-groups.sh ",
)
HOME, FOLDER = sys.argv[2], "/srv/shop"
"""Where the page runs, and what it calls that."""
SERVERS = dict(each.split("=", 1) for each in sys.argv[3:])
"""What a page calls its servers, and those that it runs with. What is shown as nothing is a prefix of names."""
PATIENCE = 30.0
WIDTH = 120


class Page:
    """The state of a page while it runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wrong: list[str] = []
        self.module = types.ModuleType("page")
        sys.modules["page"] = self.module
        self.runner = asyncio.Runner()

    def run(self, all_blocks: list[Block]) -> None:
        """Everything, in order, up to the first thing that is wrong."""
        for block in all_blocks:
            try:
                self._run(block)
            except Exception:
                self.wrong.append(f"{self.name}:{block.line}: {traceback.format_exc()}")
            if self.wrong:
                return
        self.runner.close()

    def _run(self, block: Block) -> None:
        if block.language == "console":
            self._console(block)
        elif block.language == "sh":
            lines = [line for line in block.text.splitlines() if line and not line.startswith(NOT_RUN)]
            if lines:
                self._say(block, f"this would not be run: {lines[0]!r}; use `console`, or add it to NOT_RUN")
        elif block.language == "diff":
            _patch(block.text)
        elif block.language in FILES and block.file:
            file = Path(block.file)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, "utf-8")
            if block.shown is not None:
                self._terminal(block, f"python {file}", block.shown)
        elif block.language == "python":
            printed = self._python(block)
            if block.shown is not None:
                self._compare(block, block.shown, printed)
            elif printed:
                self._say(block, f"prints what is not shown:\n{printed}")
        else:
            self._say(block, f"a block of {block.language or 'no language'!r} that nothing checks")

    def _python(self, block: Block) -> str:
        name = f"{Path(self.name).stem}.py"
        source = "\n" * block.line + block.text
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        code = compile(source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        printed = io.StringIO()
        with redirect_stdout(printed):
            try:
                if code.co_flags & inspect.CO_COROUTINE:
                    self.runner.run(_awaited(code, self.module))
                else:
                    exec(code, self.module.__dict__)
            except Exception as error:
                if block.shown is None:
                    raise
                print("".join(traceback.format_exception_only(error)).rstrip())
        return as_shown(printed.getvalue())

    def _console(self, block: Block) -> None:
        commands: list[list[str]] = []
        for line in block.text.splitlines():
            if line.startswith("$ "):
                commands.append([line[2:]])
            elif not commands:
                self._say(block, "begins with no command")
                return
            elif len(commands[-1]) == 1 and commands[-1][0].endswith("\\"):
                commands[-1][0] = f"{commands[-1][0][:-1]}{line.strip()}"
            else:
                commands[-1].append(line)
        for command, *shown in commands:
            if command.startswith("cd ") and " " not in command[3:]:
                os.chdir(command[3:])
                continue
            if not self._terminal(block, command, "\n".join(shown)):
                return

    def _terminal(self, block: Block, command: str, shown: str) -> bool:
        came, code = terminal(command, shown)
        if code and "error" not in shown:
            self._say(block, f"{command} ended with {code} and printed\n{readable(came)}")
            return False
        return self._compare(block, shown, came, command)

    def _compare(self, block: Block, shown: str, came: str, what: str = "") -> bool:
        if same(as_shown(shown), came):
            return True
        self._say(block, f"{what or 'it'} printed\n---\n{readable(came).rstrip()}\n--- and not\n{shown.rstrip()}\n---")
        return False

    def _say(self, block: Block, what: str) -> None:
        self.wrong.append(f"{self.name}:{block.line}: {what}")


def _patch(text: str) -> None:
    """Change the file that the first line names, as `--- shop.py`."""
    head, *lines = text.splitlines()
    file = Path(head.removeprefix("--- "))
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] in " -")
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] in " +")
    before = file.read_text("utf-8")
    if before.count(old) != 1:
        raise ValueError(f"{file} does not hold these lines once:\n{old}")
    file.write_text(before.replace(old, new), "utf-8")


async def _awaited(code: types.CodeType, module: types.ModuleType) -> None:
    await eval(code, module.__dict__)


def terminal(command: str, shown: str) -> tuple[str, int]:
    """What a command prints to a terminal, and its exit code. Where `shown` has a ^C, that is typed once what stands before it has come."""
    pid, terminal_ = pty.fork()
    if pid == 0:
        os.execvp("bash", ["bash", "-c", command])
    fcntl.ioctl(terminal_, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
    before, ctrl_c, _ = shown.partition("^C")
    typed = not ctrl_c
    came, deadline = b"", time.monotonic() + PATIENCE
    while True:
        if not typed and begins(before, _text(came)):
            os.write(terminal_, b"\x03")
            typed = True
        if not select.select([terminal_], [], [], max(0.0, deadline - time.monotonic()))[0]:
            os.killpg(pid, signal.SIGKILL)
            came += b"\n(it did not end)"
            break
        try:
            part = os.read(terminal_, 65536)
        except OSError:  # it has ended
            break
        if not part:
            break
        came += part
    os.close(terminal_)
    _, status = os.waitpid(pid, 0)
    return _text(came), os.waitstatus_to_exitcode(status)


def _text(came: bytes) -> str:
    return as_shown(came.decode(errors="replace"))


def as_shown(text: str) -> str:
    """What came, with the page's own words for where it runs."""
    text = text.replace(HOME, FOLDER)
    for shown, given in SERVERS.items():
        text = text.replace(given, shown)
    return text


def main() -> int:
    file = Path(sys.argv[1]).absolute()
    os.chdir(HOME)
    sys.path.insert(0, HOME)
    page = Page(file.name)
    text = file.read_text("utf-8")
    for shown, given in SERVERS.items():
        text = text.replace(shown, given) if shown else text
    page.run(blocks(text))
    for line in page.wrong:
        print(line)
    return 1 if page.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
