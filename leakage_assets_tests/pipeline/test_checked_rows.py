"""What a study says must hold of masked rows holds of those that a cell is trained on, also of a set made earlier."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from leakage_assets.pipeline import adapters
from leakage_assets.profiles import load_profile
from leakage_assets.studies.study import Cell, StudyError
from leakage_assets.studies.two_marker_chunk.arms import T_MASKED, T
from leakage_assets_tests.studies.two_marker_chunk.test_arms import masked_rows


class Draft:
    folder = None

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(("stored", "refused"), [(T_MASKED, False), (T, True)])
def test_the_trainer_is_given_the_check_of_the_cell(monkeypatch: Any, stored: str, refused: bool) -> None:
    study = load_profile("tiny").study("two_marker_chunk")
    condition = next(c for c in study.conditions if c.recipe == T_MASKED)
    reached: list[bool] = []

    class Reached(Exception): ...

    def train(*_: Any, check: Any, **__: Any) -> None:
        check(masked_rows(stored))
        reached.append(True)
        raise Reached

    monkeypatch.setattr(adapters, "train_adapter", train)
    monkeypatch.setattr(adapters, "require_training_set", lambda *_: None)
    monkeypatch.setattr(adapters, "read_rows", lambda _: [])
    lab: Any = SimpleNamespace(
        store=SimpleNamespace(draft=lambda *_, **__: Draft()), refresh=None, base=lambda: None, emit=None,
        report_to="none", profile=SimpleNamespace(training_mode="packed"),
    )  # fmt: skip
    with pytest.raises(StudyError if refused else Reached):
        adapters._train(lab, study, Cell(condition, 42), (), {})
    assert bool(reached) != refused
