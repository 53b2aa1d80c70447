"""Exit codes are frozen: scripts rely on them, and docs/exit-codes.md lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evenflow import errors, operate
from evenflow.cli import failures
from evenflow.cli.failures import Code, code_of

CODES = {0: "DONE", 1: "FOUND", 2: "USAGE", 3: "NOT_FOUND", 4: "REFUSED", 5: "UNREACHABLE", 7: "TIME_OVER", 70: "OURS",
         130: "INTERRUPTED"}  # fmt: skip
BY_ERROR = {
    2: ["DefinitionError", "SettingsError", "MissingExtra", "EventInvalid", "EventTooLarge", "StatementFailed",
        "WriteFailed"],
    4: ["Refused", "TransactionError", "TransactionAborted", "GroupStopped"],
    5: ["EngineUnavailable", "StoreUnavailable", "StoreConflict", "SchemasUnavailable", "PublishRefused",
        "PublishUnknown", "OutboxFull", "BacklogFull"],
}  # fmt: skip


def made(cls: type[BaseException]) -> BaseException:
    return cls.__new__(cls)


def test_the_codes_are_frozen() -> None:
    assert {each.value: each.name for each in Code} == CODES
    page = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text("utf-8")
    assert {int(each) for each in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} | {70} == set(CODES)
    assert "ends with 70" in page


@pytest.mark.parametrize(("code", "name"), [(code, name) for code, names in BY_ERROR.items() for name in names])
def test_the_code_of_each_error(code: int, name: str) -> None:
    assert code_of(made(getattr(errors, name))) == code


def test_the_code_of_what_the_command_line_raises() -> None:
    assert code_of(made(failures.UsageError)) == 2
    assert code_of(made(failures.BrokenApp)) == 2
    assert code_of(made(failures.Missing)) == 3
    assert code_of(made(operate.NotFound)) == 3
    assert code_of(made(failures.Declined)) == 4
    assert code_of(KeyboardInterrupt()) == 130
    assert code_of(RuntimeError()) == 70


def test_every_error_of_ours_has_a_code_that_is_meant() -> None:
    named = {name for names in BY_ERROR.values() for name in names}
    others = {name for name, cls in vars(errors).items() if isinstance(cls, type) and name not in named}
    assert others == {"EvenflowError", "PublishError", "DecodeError", "NewerVersion", "FenceLost"}  # never raised bare
