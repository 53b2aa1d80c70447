"""Proof that a case can fail: each is run once more with its mend taken out, and must not pass then."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Case = Callable[[], None]
Plant = Callable[[pytest.MonkeyPatch], None]
PLANTED: dict[str, list[tuple[Case, Plant]]] = {}


def fails_without(*plants: Plant) -> Callable[[Case], Case]:
    """Note, for `planted`, how the mend of this case is taken out; each way by itself."""

    def register(case: Case) -> Case:
        PLANTED.setdefault(case.__module__, []).extend((case, plant) for plant in plants)
        return case

    return register


def planted(module: str) -> pytest.MarkDecorator:
    """Parametrizes `test_the_case_fails_without_its_mend(case, plant, monkeypatch)` of a module."""
    pairs = PLANTED[module]
    ids = [f"{case.__name__}-{plant.__name__}" for case, plant in pairs]
    return pytest.mark.parametrize(("case", "plant"), pairs, ids=ids)


def must_fail(case: Case, plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take out the mend and run the case. Any error is a failure of the case."""
    plant(monkeypatch)
    try:
        case()
    except (Exception, pytest.fail.Exception):
        return
    pytest.fail(f"{case.__name__} passes without its mend ({plant.__name__})")
