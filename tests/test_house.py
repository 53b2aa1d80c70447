"""The house: licence, changelog, dependencies, sizes, and nothing in the files that belongs to one machine."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

import evenflow

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "evenflow"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

APACHE_2_0 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
CORE_GOAL = 2_500
CORE_BOUND = 11_000  # docs/adr/0024
NOT_CORE = ("engines", "stores", "drivers", "codecs", "lab", "testing", "cli", "operate", "sql")
NOT_FILES_OF_OURS = {".git", ".venv", ".evenflow", "__pycache__", "build", "dist", "node_modules"}

# In pieces, so that this file does not find itself.
PLACES = [
    "/wo" + "rk/",
    "/ro" + "ot/",
    "/Us" + "ers/",
    *(f"{each}/" for each in (Path.home(), ROOT) if each != Path("/")),
]
HOME = re.compile(rf"(?<![\w.])(?:{'|'.join(map(re.escape, PLACES))})")
INDEX = re.compile(
    "pypi" + r"\.|python" + r"hosted|index" + r"-url|find" + r"-links|arti" + r"factory|dev" + "pi", re.IGNORECASE
)


def files() -> list[Path]:
    """What is in the repository, or will be with the next commit."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return sorted(file for name in listed.split("\0") if name and (file := ROOT / name).is_file())
    return sorted(
        file
        for file in ROOT.rglob("*")
        if file.is_file() and not NOT_FILES_OF_OURS & set(file.relative_to(ROOT).parts) and ".egg-info" not in str(file)
    )


def lines_with(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    found = []
    for path in paths:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                found.append(
                    f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}:{number}: {line.strip()}"
                )
    return found


def code_lines(source: str) -> int:
    """Lines that hold code: not blank, not only a comment, no docstring."""
    held: set[int] = set()
    nothing = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in nothing:
            held.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
            and node.end_lineno is not None
        ):
            held.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(held)


def core_files() -> list[Path]:
    return [file for file in sorted(PACKAGE.rglob("*.py")) if file.relative_to(PACKAGE).parts[0] not in NOT_CORE]


def test_the_licence_is_apache_2_0_word_for_word() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2_0
    assert PROJECT["license"] == "Apache-2.0"


def test_the_first_version_in_the_changelog_is_this_one() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert [version for version in versions if version != "Unreleased"][0] == evenflow.__version__ == PROJECT["version"]


def test_there_are_two_run_time_dependencies() -> None:
    assert sorted(re.split(r"[<>=~! ;\[]", each)[0] for each in PROJECT["dependencies"]) == ["apsw", "msgspec"]


def test_the_core_imports_nothing_but_them_and_the_standard_library() -> None:
    wanted = set()
    for file in core_files():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                wanted.add(node.module.partition(".")[0])
    extras = {"pydantic", "cronsim"}  # where a class of the user is one, so it is there; where a cron line is used
    extras |= {"fastavro", "google", "jsonschema"}  # where a codec of the user's app is of that kind
    assert wanted - set(sys.stdlib_module_names) - {"evenflow", "msgspec", "apsw"} - extras == set()


def pinned(name: str) -> set[str]:
    """The packages of one file of requirements, and of those that it builds upon."""
    found: set[str] = set()
    for line in (ROOT / "requirements" / f"{name}.txt").read_text("utf-8").splitlines():
        if match := re.fullmatch(r"-r (\w+)\.txt", line):
            found |= pinned(match[1])
        elif line and not line.startswith("#"):
            assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line), line
            found.add(line.partition("==")[0])
    return found


def test_the_pinned_versions_are_exact_and_cover_what_the_package_needs() -> None:
    run, dev = pinned("run"), pinned("dev")
    assert {"apsw", "msgspec"} <= run < dev < pinned("bench")
    assert {"pytest", "mypy", "ruff"} <= dev - run


def test_no_path_of_one_machine_is_in_a_file() -> None:
    assert lines_with(HOME, files()) == []


def test_no_package_index_is_in_a_file() -> None:
    assert lines_with(INDEX, [file for file in files() if file.name != "LICENSE"]) == []


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("see /ro" + "ot/notes", HOME),
        ("path = '/wo" + "rk/x.db'", HOME),
        (f"file://{ROOT}/x".replace("file://", "'"), HOME),
        ("https://py" + "pi.example/simple", INDEX),
        ("--extra-index" + "-url https://x", INDEX),
    ],
)
def test_a_planted_line_is_found(tmp_path: Path, text: str, pattern: re.Pattern[str]) -> None:
    (tmp_path / "planted.txt").write_text(f"fine\n{text}\n")
    (found,) = lines_with(pattern, [tmp_path / "planted.txt"])
    assert text in found


def test_code_lines_are_counted_without_comments_docstrings_and_blanks() -> None:
    source = '"""Doc\nstring."""\n\n# note\nX = """two\nlines"""\n\ndef f():  # here\n    """Doc."""\n    return (\n        1\n    )\n'
    assert code_lines(source) == 6


def test_the_core_stays_small(record_property: pytest.RecordProperty) -> None:
    sizes = {str(file.relative_to(PACKAGE)): code_lines(file.read_text("utf-8")) for file in core_files()}
    total = sum(sizes.values())
    record_property("core_code_lines", total)
    largest = ", ".join(f"{name} {size}" for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:8])
    print(f"the core has {total} code lines (goal {CORE_GOAL}, bound {CORE_BOUND}); largest: {largest}")
    assert total <= CORE_BOUND, f"the core has {total} code lines, the bound is {CORE_BOUND}; largest: {largest}"


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty = {"util", "utils", "common", "base", "manager", "helper", "helpers", "misc"}
    assert [str(file) for file in PACKAGE.rglob("*.py") if file.stem in empty] == []


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text("utf-8")
    pages = sorted(file.name for file in folder.glob("[0-9]*.md"))
    assert [page for page in pages if f"({page})" not in index] == []
    assert [int(page[:4]) for page in pages] == list(range(1, len(pages) + 1))


def test_make_lists_its_targets_and_ci_runs_the_tests() -> None:
    run = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    listed = re.findall(r"^  make (\w+)", run.stdout, re.MULTILINE)
    assert {"help", "run", "test", "bench", "lint", "docs", "clean"} <= set(listed)
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text("utf-8")
