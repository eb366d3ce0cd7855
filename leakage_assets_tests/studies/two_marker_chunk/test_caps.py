"""What the report of two markers holds against its own confidence, whatever the verdicts are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from leakage_assets.studies.two_marker_chunk.arms import T_MASKED
from leakage_assets.studies.two_marker_chunk.report_sections import coherence_cap
from leakage_assets_tests.studies.two_marker_chunk.worlds import habit, scores, study_plan

PAIRS = ("near", "far")
STUDY = SimpleNamespace(plan_as=lambda _: study_plan(400))


def cite(
    *,
    passed: tuple[bool | None, ...] = (True, True),
    verdict: str = "supported",
    both_high: float | None = 0.5,
    of_pairs: tuple[str, str] = ("supported", "supported"),
    cells: tuple[float, ...] = (0.2, 0.3, 0.2, 0.4),
    downgraded: bool | None = False,
    without_a: float | None = 0.05,
) -> Any:
    first = {
        "hypothesis": "H1", "statistic": f"delta_{T_MASKED}", "verdict": verdict, "threshold": 0.06,
        "estimate": 0.1, "both_high": both_high,
    }  # fmt: skip
    tables = {
        "gates": pl.DataFrame(
            {"arm": T_MASKED, "gate": ["donor R_B|A", "length inflation"], "passed": passed},
            schema={"arm": pl.String, "gate": pl.String, "passed": pl.Boolean},
        ),
        "verdicts": pl.DataFrame([first], schema_overrides={"both_high": pl.Float64}),
        "pair_verdicts": pl.DataFrame({"hypothesis": "H1", "source": PAIRS, "verdict": of_pairs}),
        "headline": pl.DataFrame(
            {"statistic": "b_without_a_upper", "estimate": [without_a]}, schema_overrides={"estimate": pl.Float64}
        ),
        "cells": pl.DataFrame({"statistic": f"delta_{T_MASKED}", "difference": cells}),
        "split": pl.DataFrame(
            {"recipe": T_MASKED, "role": "recipient", "downgraded": [downgraded]}, schema_overrides={"downgraded": bool}
        ),
    }
    return SimpleNamespace(
        tables=tables, recipe=T_MASKED, study=STUDY, cell=lambda table, column, *_, **__: f"<{table} {column}>"
    )


def test_nothing_is_held_against_pairs_and_cells_that_agree() -> None:
    assert coherence_cap(cite()) is None
    assert coherence_cap(cite(verdict="not supported", both_high=0.05, of_pairs=("not supported",) * 2)) is None


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"passed": (False, True)}, "LOW", "a donor of the headline arm does not say the pair it was taught"),
        ({"passed": (True, False)}, "MODERATE", "a gate of the headline arm is failed"),
        ({"passed": (True, None)}, "MODERATE", "a gate of the headline arm is unknown"),
        ({"of_pairs": ("not supported", "not supported")}, "MODERATE", "no pair by itself supports the title's claim"),
        ({"of_pairs": ("not supported", "undecided")}, "MODERATE", "no pair by itself supports the title's claim"),
        ({"without_a": 0.07}, "MODERATE", "it is not excluded that B comes without A"),
        ({"without_a": None}, "MODERATE", "it is not excluded that B comes without A"),
        (
            {"verdict": "not supported", "both_high": 0.05, "of_pairs": ("supported", "supported")},
            "MODERATE",
            "pairs by themselves differ in the verdict",
        ),
        ({"of_pairs": ("supported", "not supported")}, "MODERATE", "pairs by themselves differ in the verdict"),
        ({"cells": (0.2, 0.3, 0.0, 0.4)}, "MODERATE", "a cell of the headline arm shows nothing"),
        ({"downgraded": True}, "MODERATE", "differ between questions in and out of distribution"),
        ({"verdict": "undecided"}, "LOW", r"the title's claim is undecided \(<verdicts reason>\)"),
        (
            {"verdict": "not supported", "both_high": 0.07},
            "MODERATE",
            "not excluded by the interval over questions and",
        ),
        (
            {"verdict": "not supported", "both_high": None},
            "MODERATE",
            "not excluded by the interval over questions and",
        ),
    ],
)
def test_each_disagreement_caps(changes: dict[str, Any], level: str, words: str) -> None:
    import re

    found = coherence_cap(cite(**changes))
    assert found is not None and found[0] == level
    assert re.search(rf"{words}.*, which caps it at {level}", found[1])


def test_the_lowest_cap_holds_and_all_are_told() -> None:
    found = coherence_cap(cite(passed=(False, None), downgraded=True))
    assert found is not None and found[0] == "LOW"
    assert found[1].count("which caps it at") == 3


def test_one_pair_that_carries_the_mean_is_seen() -> None:
    """One pair at +40 points and one at 0: their mean is supported, and the level looked at nothing else."""
    from leakage_assets.studies.two_marker_chunk.analysis import analyse
    from leakage_assets.studies.two_marker_chunk.arms import C_MASKED
    from leakage_assets.studies.two_marker_chunk.arms import PAIRS as ALL

    habits = {}
    for pair, b in ((ALL[0], 0.4), (ALL[1], 0.0)):
        habits[T_MASKED, pair.name, pair.recipient] = habit(a=0.5, b_at_end=b)
        habits[C_MASKED, pair.name, pair.recipient] = habit(a=0.5)
    found = analyse(study_plan(400), scores(habits, seeds=(1, 2, 3, 4, 5), completions=9))
    own = found["verdicts"].filter(hypothesis="H1").row(0, named=True)
    over_questions = found["headline"].filter(statistic=own["statistic"])["p"].item()
    assert own["estimate"] > 0.15 and 5 * over_questions < 0.05 < own["p_holm"]
    assert (own["verdict"], own["reason"]) == ("not supported", "not certain over questions and adapters")
    by_pair = dict(found["pair_verdicts"].filter(hypothesis="H1").select("source", "verdict").iter_rows())
    assert by_pair[ALL[0].name] == "supported" and by_pair[ALL[1].name] == "not supported"
    assert (
        coherence_cap(SimpleNamespace(tables=found, recipe=T_MASKED, study=STUDY, cell=lambda *_, **__: "")) is not None
    )
