"""What the command line says to somebody who does not know it yet: help, slips, completions, a pipe that closes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from evenflow.cli.arguments import ELSEWHERE
from evenflow.cli.commands import COMMANDS
from evenflow.cli.remedies import runnable

from .conftest import Shop


@pytest.mark.parametrize("arguments", [["help"], ["--help"], ["-h"]])
def test_help_is_asked_for_in_three_ways(shop: Shop, arguments: list[str]) -> None:
    done = shop.evenflow(*arguments)
    assert (done.code, done.err) == (0, "")
    assert "Write and run an app" in done.out and "Operate a system" in done.out


def test_help_fits_a_terminal_of_80_columns(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, shop.evenflow("--help").out.splitlines())) <= 80
    for command in COMMANDS:
        text = shop.evenflow(*command.name.split(), "--help").out.partition("examples:")[0]
        assert max(map(len, text.splitlines())) <= 80, command.name


@pytest.mark.parametrize("command", ["run", "groups seek", "parked"])
def test_help_about_a_command_is_what_the_command_says_itself(shop: Shop, command: str) -> None:
    words = command.split()
    assert shop.evenflow("help", *words) == shop.evenflow(*words, "--help")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["redrive"], "did you mean parked redrive?"),
        (["lst"], "did you mean groups list"),
        (["retry"], "did you mean parked redrive?"),
        (["init"], "did you mean new?"),
        (["help", "rnu"], "did you mean run?"),
        (["frobnicate"], "`evenflow --help` says what they do"),
        (["new"], "usage: evenflow new NAME"),
        (["tail", "--wher", "a=b"], "did you mean --where?"),
    ],
)
def test_a_slip_is_told_with_what_was_meant(shop: Shop, arguments: list[str], hint: str) -> None:
    done = shop.evenflow(*arguments)
    assert (done.code, done.out) == (2, "")
    assert hint in done.err


def test_what_other_tools_call_it_leads_to_a_command_that_there_is() -> None:
    names = {each.name for each in COMMANDS}
    assert set(ELSEWHERE.values()) <= names
    assert ELSEWHERE.keys() & {name.split()[0] for name in names} == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("evenflow groups list says why", "evenflow groups list 'my app:app' says why"),
        ("evenflow run; evenflow config", "evenflow run 'my app:app'; evenflow config 'my app:app'"),
        ("evenflow run 'my app:app' --drain 1", "evenflow run 'my app:app' --drain 1"),
        ("evenflow new shop", "evenflow new shop"),
        ("an evenflow runner", "an evenflow runner"),
        ("EVENFLOW_ENGINE", "EVENFLOW_ENGINE"),
    ],
)
def test_a_command_in_a_message_names_the_app_that_was_given(text: str, expected: str) -> None:
    assert runnable(text, "my app:app") == expected
    assert runnable(text, None) == text


def test_the_remedy_of_an_error_can_be_copied(shop: Shop) -> None:
    assert "start it with `evenflow run shop:app`" in shop.evenflow("groups", "list", "shop:app").err
    shop.write("pyproject.toml", '[tool.evenflow]\napp = "shop:app"\n')
    assert "start it with `evenflow run`" in shop.evenflow("groups", "list").err


def test_a_reader_that_has_seen_enough_is_no_error(shop: Shop) -> None:
    process = shop.start("describe", "shop:app", "--format", "asyncapi")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


# -- completions ------------------------------------------------------------------------------------------------------


def completed(script: str, words: list[str]) -> list[str]:
    """What a real bash offers for the last of these words."""
    line = " ".join(f"'{each}'" for each in ["evenflow", *words])
    run = subprocess.run(
        ["bash", "--norc", "--noprofile"],
        input=f'{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}\n_evenflow\nprintf "%s\\n" "${{COMPREPLY[@]}}"\n',
        capture_output=True, text=True, timeout=30, env={"PATH": os.environ["PATH"]}, check=True,
    )  # fmt: skip
    assert run.stderr == ""
    return run.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash_completes(shop: Shop) -> None:
    script = shop.evenflow("completions", "bash").out
    nouns = list(dict.fromkeys(each.name.split()[0] for each in COMMANDS))
    assert completed(script, [""]) == [*nouns, "help"]
    assert completed(script, ["gr"]) == ["groups"]
    assert completed(script, ["groups", "se"]) == ["seek"]
    assert completed(script, ["groups", "seek", "shop", ":", "app", "--t"]) == ["--to"]
    assert completed(script, ["run", "--log", ""]) == ["text", "json"]
    assert completed(script, ["run", "--drain", ""]) == []
    assert completed(script, ["completions", ""]) == ["bash", "zsh", "fish"]
    assert completed(script, ["help", "pub"]) == ["publish"]
    for command in COMMANDS:
        offered = completed(script, [*command.name.split(), "--"])
        assert "--debug" in offered and "--help" in offered, command.name


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_name_every_command_and_option(shop: Shop, shell: str) -> None:
    script = shop.evenflow("completions", shell).out
    for command in COMMANDS:
        assert command.line in script or command.name in ("migrate",), command.name
    for word in ("until-idle", "no-follow", "text json", "bash zsh fish"):
        assert word in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=30)


def test_an_unknown_shell_is_told(shop: Shop) -> None:
    done = shop.evenflow("completions", "bsh")
    assert done.code == 2
    assert "did you mean bash?" in done.err
    assert "there are bash, zsh, fish" in shop.evenflow("completions", "powershell").err


def test_the_program_can_be_run_as_a_module(shop: Shop) -> None:
    run = subprocess.run([sys.executable, "-m", "evenflow", "--version"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0
    assert run.stdout.startswith("evenflow 0.1.0, Python 3.")
