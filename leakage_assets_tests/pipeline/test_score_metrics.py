"""Metrics of a cell's scores: what the UI plots over partitions."""

from __future__ import annotations

import polars as pl
import pytest

from leakage_assets.pipeline.conclusions import score_metrics
from leakage_assets.studies.study import Cell, Condition

CELL = Cell(Condition("villain", "full_completion"), 42)


def scores(rates: dict[str, list[bool]]) -> pl.DataFrame:
    rows = [(name, present) for name, presents in rates.items() for present in presents]
    return pl.DataFrame(rows, schema=["prompt_name", "marker_present"], orient="row")


def test_the_source_and_its_bystanders_are_told_apart() -> None:
    found = score_metrics(scores({"villain": [True, True, False], "comedian": [True, False], "pirate": [False]}), CELL)
    assert found == {
        "source_rate": pytest.approx(2 / 3),
        "mean_bystander_rate": pytest.approx(0.25),
        "max_bystander_rate": pytest.approx(0.5),
    }


def test_a_rate_over_nobody_is_left_out_and_not_zero() -> None:
    assert score_metrics(scores({"pirate": [False, True]}), CELL) == {
        "mean_bystander_rate": 0.5,
        "max_bystander_rate": 0.5,
    }
    assert score_metrics(scores({"villain": [True]}), CELL) == {"source_rate": 1.0}
