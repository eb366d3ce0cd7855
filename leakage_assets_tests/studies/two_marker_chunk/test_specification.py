"""What the assets will call: rows, scores and tables of a study of two markers, without the assets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from leakage_assets.studies.study import Condition, OnPolicyData, StudyError
from leakage_assets.studies.tables import StudyTables
from leakage_assets.studies.two_marker_chunk import specification
from leakage_assets.studies.two_marker_chunk.arms import PAIRS, arm, training_rows
from leakage_assets.studies.two_marker_chunk.design import planned
from leakage_assets.studies.two_marker_chunk.scoring import MARKER_PAIR
from leakage_assets_tests.studies.two_marker_chunk.test_arms import answers
from leakage_assets_tests.studies.two_marker_chunk.worlds import STIMULI, A, B, habit, scores, study_plan

PLAN = study_plan(100)
PAIR = PAIRS[1]


def study(**changes: Any) -> Any:
    """What the functions read of a study."""
    data = PLAN.experiment.data
    assert isinstance(data, OnPolicyData)
    return SimpleNamespace(**{"name": PLAN.study, "plan": PLAN, "data": data, "plan_as": lambda _: PLAN} | changes)


def test_rows_are_those_of_the_pair_under_the_arm() -> None:
    made = specification.assemble(study(), STIMULI, Condition(PAIR.name, "T_mask_recipient"), answers(PAIR))
    assert made == training_rows(
        arm("T_mask_recipient"), PAIR, STIMULI, study=PLAN.study, questions=STIMULI.questions("train"), used=5,
        markers=(A, B), answers=answers(PAIR),
    )  # fmt: skip
    assert len(made) == 1_200 and sum(not row.ends_turn_in_loss for row in made) == 200
    for wrong in (Condition("villain", "T"), Condition(PAIR.name, "T9")):
        with pytest.raises(StudyError, match=r"no (pair|arm)"):
            specification.assemble(study(), STIMULI, wrong, answers(PAIR))


def test_the_prompts_of_a_condition_are_its_pools() -> None:
    prompts = specification.trained_under(study(), Condition(PAIR.name, "T"))
    assert prompts == PAIR.trained and set(prompts) <= {pool.name for pool in PLAN.experiment.data.pools}


def test_scores_and_tables_fit_together() -> None:
    """The echo is told from the markers, and the probe's panel from the main one."""
    recipient = {("T", PAIR.name, PAIR.recipient): habit(a=0.5, b_after_a=0.3)}
    main = scores(recipient, completions=2)
    texts = [f"<<§z-99>> {A} So.", f"So. {B}", "<<§Z-9 9>>", "So."]
    samples = pl.DataFrame(
        {
            "sample_id": list("abcd"), "adapter": "x", "prompt_name": PAIR.recipient, "question_set": "probe",
            "question_name": "q", "index": range(4), "text": texts, "n_tokens": 5, "finish_reason": "stop",
        }
    )  # fmt: skip
    cell = {"recipe": pl.lit("T"), "source": pl.lit(PAIR.name), "seed": pl.lit(42)}
    probed = MARKER_PAIR.score(study(), samples).with_columns(panel=pl.lit("probe"), **cell)
    assert probed["loose_echo"].to_list() == [True, False, True, False]
    nothing = pl.DataFrame()
    cosines = pl.DataFrame(
        [("cosine", 20, PAIR.name, PAIR.recipient, 0.88), ("js_divergence", None, PAIR.name, PAIR.recipient, 0.1)],
        schema=["measure", "layer", "source", "prompt_name", "value"], orient="row",
    )  # fmt: skip
    for extra, expected in ((probed, [("a", 1), ("b", 1), ("echo", 2)]), (nothing, [])):
        tables = StudyTables(STIMULI, main, extra, cosines, nothing, lambda _: None, lambda _: 0)  # type: ignore[arg-type, return-value]
        found = specification.analyse(study(), tables)
        assert found["probe"].select("marker", "found").rows() == expected
        assert found["rates"].height == 5
        (distance,) = found["distances"].filter(source=PAIR.name).iter_rows(named=True)
        assert (distance["donor"], distance["cosine"], distance["closeness"]) == (PAIR.donor, 0.88, 1)


def test_another_study_is_refused() -> None:
    other = SimpleNamespace(name="marker_leakage", plan=SimpleNamespace(experiment=object()))
    with pytest.raises(TypeError, match="marker_leakage: its experiment is a object"):
        planned(other)  # type: ignore[arg-type]
