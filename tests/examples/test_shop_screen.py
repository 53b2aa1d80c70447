"""What a person sees while the shop works."""

from __future__ import annotations

from io import StringIO

import pytest
from replay.figures import Figure, Look
from replay.purchases import read
from replay.screen import Lines, LiveTable, Progress, screen_for
from rich.console import Console
from rich.text import Text

GROUPS = (
    Figure("orders.outcome", waiting=0, rate=0.2, age=None, parked=0, dead=0),
    Figure("payments.charge", waiting=1234, rate=812.4, age=2.25, parked=3, dead=0),
    Figure("notifications.send", waiting=5, rate=3.0, age=61.0, parked=4, dead=2),
)
LOOK = Look(GROUPS, taken=100, at_work=True, stopped=())


def progress(placed: int) -> Progress:
    return Progress(total=3, placed=placed, settled=1, latest=read(3)[-1], seconds=75.0)


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_there_is_a_line_for_each_group(width: int) -> None:
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=width, height=40, _environ={"TERM": "xterm"})
    screen = screen_for(console)
    assert isinstance(screen, LiveTable)
    with screen:
        for number in range(10):
            screen.say(f"said {number}")
        screen.show(progress(2), LOOK)
    lines = [line.rstrip() for line in plain(out.getvalue()).splitlines()]
    assert max(map(len, lines)) <= width
    assert [line for line in lines if line.startswith("said")][-8:] == [f"said {number}" for number in range(2, 10)]
    placed, settled = ([line for line in lines if line.startswith(word)][-1] for word in ("placed", "settled"))
    assert placed.split()[-6:] == ["2", "of", "3", "01", "Jan", "1997"]
    assert settled.split()[-4:] == ["1", "of", "3", "1:15"]
    cells = {line.split()[0]: line.split()[1:] for line in lines if "." in line.partition(" ")[0]}
    assert cells == {
        "orders.outcome": ["-", "-", "-"],
        "payments.charge": ["1,234", "812/s", "2.2", "s", "3"],
        "notifications.send": ["5", "3/s", "61.0", "s", "4", "2"],
    }


def plain(text: str) -> str:
    """Without what colours it and moves the cursor."""
    return Text.from_ansi(text).plain


def test_where_there_is_none_there_are_plain_lines_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    screen = screen_for(Console(file=StringIO(), force_terminal=False))
    assert isinstance(screen, Lines)
    with screen:
        for placed in (1, 2, 3):
            screen.show(progress(placed), LOOK)
            screen.say(f"said {placed}")
    rest = "1 settled; 1,234 wait in payments.charge; 7 set aside, 2 of them dead"
    assert capsys.readouterr().out.splitlines() == [
        f"  75 s  1 of 3 placed to 1997-01-01, {rest}",
        *[f"said {placed}" for placed in (1, 2, 3)],
        f"  75 s  3 of 3 placed to 1997-01-01, {rest}",
    ]
