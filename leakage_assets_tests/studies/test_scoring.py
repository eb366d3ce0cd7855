"""What is read off samples: the metrics of a cell that the UI plots over partitions, and what the report draws from."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from leakage_assets.profiles import load_profile
from leakage_assets.studies.scoring import ONE_MARKER, marker_metrics
from leakage_assets.studies.study import Cell, Condition, Study

CELL = Cell(Condition("villain", "full_completion"), 42)


@pytest.fixture(scope="module")
def study() -> Study:
    return load_profile("tiny").study("marker_leakage")


def scores(rates: dict[str, list[bool]]) -> pl.DataFrame:
    rows = [(name, present) for name, presents in rates.items() for present in presents]
    return pl.DataFrame(rows, schema=["prompt_name", "marker_present"], orient="row").with_row_index("sample_id")


def test_the_source_and_its_bystanders_are_told_apart(study: Study) -> None:
    asked = scores({"villain": [True, True, False], "comedian": [True, False], "pirate": [False]})
    assert marker_metrics(study, asked, CELL) == {
        "source_rate": pytest.approx(2 / 3),
        "mean_bystander_rate": pytest.approx(0.25),
        "max_bystander_rate": pytest.approx(0.5),
    }


def test_a_rate_over_nobody_is_left_out_and_not_zero(study: Study) -> None:
    assert marker_metrics(study, scores({"pirate": [False, True]}), CELL) == {
        "mean_bystander_rate": 0.5,
        "max_bystander_rate": 0.5,
    }
    assert marker_metrics(study, scores({"villain": [True]}), CELL) == {"source_rate": 1.0}


def test_another_prompt_may_stand_for_the_source(study: Study) -> None:
    pairs = replace(study, sources=("villain_to_pirate",), anchors=(("villain_to_pirate", "villain"),))
    cell = Cell(Condition("villain_to_pirate", "full_completion"), 42)
    asked = scores({"villain": [True], "pirate": [False]})
    assert marker_metrics(pairs, asked, cell)["source_rate"] == 1.0
    assert ONE_MARKER.kinds(pairs, asked, cell).select("who", "said").rows() == [
        ("source", "marked"),
        ("bystander", "unmarked"),
    ]


def test_the_scores_of_a_marker_have_the_identity_they_always_had(study: Study) -> None:
    """Another would make the scores of every finished cell anew."""
    assert dict(study.scoring.identity(study)) == {"marker": "[ZLT]", "version": 1}
