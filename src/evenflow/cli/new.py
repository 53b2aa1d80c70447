"""new: a project that runs at once."""

from __future__ import annotations

import keyword
import os
import re
import sys
from argparse import Namespace
from pathlib import Path

from evenflow.cli.failures import Code, UsageError, relative
from evenflow.cli.output import out, paint, say
from evenflow.errors import Refused

FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    ".gitignore": "gitignore",
    "{{package}}/__init__.py": "init.py",
    "{{package}}/main.py": "main.py",
    "{{package}}/sql/0001_customers.sql": "0001_customers.sql",
    "tests/test_main.py": "test_main.py",
}
"""Where each file goes, and what it is made from, in the folder `project`."""

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_TAKEN = {"evenflow", "tests", "test", "sql", "pytest", "msgspec", "apsw"}


def new(options: Namespace) -> int:
    """Make the folder with all files, or nothing."""
    folder = Path(options.name)
    name = folder.resolve().name
    package = _package(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{relative(str(folder))} exists and is not empty", remedy="nothing was changed; give a new name")
    try:
        for target, template in FILES.items():
            file = folder / target.replace("{{package}}", package)
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as written:
                written.write(_filled(template, name, package))
            out(str(file))
    except OSError as error:
        place = relative(str(error.filename or folder))
        raise Refused(
            f"{place} cannot be written: {error.strerror}",
            remedy=f"mend that, remove what is in {relative(str(folder))}, and try again",
        ) from error
    _next_steps(folder)
    return Code.DONE


def _package(name: str) -> str:
    package = name.replace("-", "_")
    if len(name) > 40 or not _NAME.fullmatch(name):
        hint = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
        better = f"for example {hint}" if _NAME.fullmatch(hint) else "for example shop"
        raise UsageError(
            f"{name!r} cannot name a project", remedy=f"small letters, digits, '-' and '_', a letter first: {better}"
        )
    if package in _TAKEN or package in sys.stdlib_module_names or keyword.iskeyword(package):
        raise UsageError(f"a package {package!r} would hide another one of that name", remedy=f"try my-{name}")
    return package


def _filled(template: str, name: str, package: str) -> str:
    text = (Path(__file__).parent / "project" / f"{template}.tmpl").read_text("utf-8")
    return text.replace("{{name}}", name).replace("{{package}}", package)


def _next_steps(folder: Path) -> None:
    event = '\'{"order_id": "1", "customer": "Ada", "cents": 500}\''
    say()
    say(paint(f"{folder.resolve().name} is made. It runs as it is:", "green", sys.stderr))
    if folder.resolve() != Path.cwd():
        say(f"  cd {os.fspath(folder)}")
    say("  evenflow dev                      and in another terminal:")
    say(f"  evenflow publish order.placed {event}")
    say("  python -m pytest                  its tests (pip install pytest)")
