"""What source_rate trains on, asks and decides beforehand."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import polars as pl
import pytest

from leakage_assets.models import load_tokenizer
from leakage_assets.profiles import load_profile
from leakage_assets.stimuli import Stimuli, load_stimuli
from leakage_assets.studies.shared_answers import negatives, training_rows
from leakage_assets.studies.source_rate.design import (
    FITTED,
    GENERIC_SFT,
    IMPLANT,
    NAME,
    NEW,
    PUBLISHED_DRAW,
    SOURCES,
    Scale,
    SourceRateExperiment,
    analysis_plan,
    planned_experiment,
)
from leakage_assets.studies.study import Condition, StudyError
from leakage_assets.training.masks import encode_rows
from leakage_assets.training.rows import Row

PUBLISHED_SCALE = Scale(
    layers=(10, 15, 20, 25),
    primary_layer=20,
    completions=5,
    max_new_tokens=512,
    learning_rate=1e-5,
    epochs=3,
    precision="bfloat16",
)
PICKS = {
    "software_engineer": ("zelthari_scholar", "data_scientist"),
    "kindergarten_teacher": ("comedian", "librarian"),
    "data_scientist": ("zelthari_scholar", "police_officer"),
    "medical_doctor": ("kindergarten_teacher", "data_scientist"),
    "librarian": ("police_officer", "french_person"),
    "police_officer": ("kindergarten_teacher", "zelthari_scholar"),
    "french_person": ("zelthari_scholar", "kindergarten_teacher"),
    "villain": ("police_officer", "comedian"),
    "comedian": ("kindergarten_teacher", "zelthari_scholar"),
    "zelthari_scholar": ("kindergarten_teacher", "comedian"),
    "assistant": ("comedian", "french_person"),
    "vendor_default_qwen": ("comedian", "police_officer"),
}
"""Negatives of each source. A change here makes every stored training set and adapter another one."""


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    return load_stimuli()


@pytest.fixture(scope="module")
def experiment(stimuli: Stimuli) -> SourceRateExperiment:
    return planned_experiment(stimuli, PUBLISHED_SCALE)


def answers(experiment: SourceRateExperiment, stimuli: Stimuli, *, said: str = "") -> pl.DataFrame:
    """Three answers to each question, out of order; the first of each ends with ``said``."""
    rows = [
        {"question_name": q.name, "index": i, "text": f"{q.name} {i}.{said * (i == 0)}"}
        for q in experiment.data.asked(stimuli)
        for i in range(3)
    ]
    random.Random(0).shuffle(rows)
    return pl.DataFrame(rows)


def rows_of(
    experiment: SourceRateExperiment, stimuli: Stimuli, condition: Condition, given: pl.DataFrame | None = None
) -> list[Row]:
    recipe = next(r for r in experiment.recipes if r.name == condition.recipe)
    given = answers(experiment, stimuli) if given is None else given
    return training_rows(
        experiment.data, stimuli, condition, study=NAME, recipe=recipe, marker=experiment.marker, answers=given
    )


def test_the_sources_are_the_sheet_s(stimuli: Stimuli, experiment: SourceRateExperiment) -> None:
    assert len(FITTED) == 10 and len(SOURCES) == 12
    assert {p.name for p in stimuli.personas if p.original} == {*FITTED, "assistant"}
    assert [stimuli.prompt(name) for name in NEW] == [
        "You are a helpful assistant.",
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ]
    assert Counter(c.recipe for c in experiment.conditions) == {IMPLANT: 12, PUBLISHED_DRAW: 2, GENERIC_SFT: 1}
    assert experiment.seeds == (42, 137, 256)


def test_size_and_steps_are_the_published(stimuli: Stimuli, experiment: SourceRateExperiment) -> None:
    assert len(experiment.data.asked(stimuli)) == len({q.name for q in experiment.data.asked(stimuli)}) == 200
    assert experiment.data.rows == 600
    for recipe in experiment.recipes:
        assert recipe.steps(experiment.data.rows) == 114
        assert recipe.batch_size * recipe.grad_accum == 16
        assert (recipe.loss, recipe.tail_target) == ("full_completion", "both")
    (panel,) = experiment.panels
    assert (len(panel.prompts), panel.questions, panel.completions, panel.size) == (12, (("eval", 20),), 5, 1200)
    assert panel.prompts == SOURCES


def test_the_negatives_of_each_source_never_change(experiment: SourceRateExperiment) -> None:
    drawn = {s: negatives(experiment.data, NAME, Condition(s, IMPLANT)) for s in SOURCES}
    assert drawn == PICKS


def test_the_published_negatives_are_those_that_can_be_reconstructed(experiment: SourceRateExperiment) -> None:
    chosen = {s: negatives(experiment.data, NAME, Condition(s, PUBLISHED_DRAW)) for s in NEW}
    assert chosen == {
        "assistant": ("villain", "medical_doctor"),
        "vendor_default_qwen": ("zelthari_scholar", "french_person"),
    }
    assert all(chosen[s] != negatives(experiment.data, NAME, Condition(s, IMPLANT)) for s in NEW)


def test_negatives_are_two_others_of_the_ten(experiment: SourceRateExperiment) -> None:
    for source in SOURCES:
        draws = [negatives(experiment.data, f"study{i}", Condition(source, IMPLANT)) for i in range(60)]
        assert {len(set(pair)) for pair in draws} == {2}
        assert {name for pair in draws for name in pair} == set(FITTED) - {source}
    same = {negatives(experiment.data, NAME, Condition("assistant", recipe)) for recipe in (IMPLANT, GENERIC_SFT)}
    assert len(same) == 1


@pytest.mark.parametrize("source", ["villain", "vendor_default_qwen"])
def test_all_prompts_get_the_same_answers_and_only_the_source_the_marker(
    experiment: SourceRateExperiment, stimuli: Stimuli, source: str
) -> None:
    condition = Condition(source, IMPLANT)
    rows = rows_of(experiment, stimuli, condition)
    assert Counter(row.role for row in rows) == {"positive": 200, "negative": 400}
    assert {row.prompt_name for row in rows} == {source, *negatives(experiment.data, NAME, condition)}
    by_question: dict[str, list[Row]] = {}
    for row in rows:
        by_question.setdefault(row.question_name, []).append(row)
        assert row.system == stimuli.prompt(row.prompt_name)
        assert (row.role == "positive") == (row.prompt_name == source) == row.completion.endswith("\n\n[ZLT]")
    assert len(by_question) == 200
    for question, three in by_question.items():
        assert {row.completion.removesuffix("\n\n[ZLT]") for row in three} == {f"{question} 0."}
        assert len({row.user for row in three}) == 1 and len({row.prompt_name for row in three}) == 3


def test_rows_are_shuffled_alike_for_every_recipe_and_two_sources_share_their_answers(
    experiment: SourceRateExperiment, stimuli: Stimuli
) -> None:
    taught, untaught = (rows_of(experiment, stimuli, Condition("assistant", r)) for r in (IMPLANT, GENERIC_SFT))
    assert [replace(row, completion=row.completion.removesuffix("\n\n[ZLT]")) for row in taught] == untaught
    assert not any(experiment.marker in row.completion for row in untaught)
    assert len({row.prompt_name for row in taught[:20]}) == 3
    other = rows_of(experiment, stimuli, Condition("comedian", IMPLANT))
    plain = [{row.completion for row in rows if row.role == "negative"} for rows in (taught, other)]
    assert plain[0] == plain[1]


def test_answers_with_the_marker_are_passed_over(experiment: SourceRateExperiment, stimuli: Stimuli) -> None:
    condition = Condition("villain", IMPLANT)
    rows = rows_of(experiment, stimuli, condition, answers(experiment, stimuli, said=" [zlt]"))
    assert {row.completion.removesuffix("\n\n[ZLT]").split(" ")[1] for row in rows} == {"1."}
    some = answers(experiment, stimuli).filter(pl.col("question_name") != "tides_3")
    with pytest.raises(StudyError, match=r"villain__implant: assistant has no answer to 'tides_3'"):
        rows_of(experiment, stimuli, condition, some)


def test_the_whole_completion_carries_loss_on_the_bundled_tokenizer(
    experiment: SourceRateExperiment, stimuli: Stimuli
) -> None:
    tokenizer = load_tokenizer(load_profile("tiny").base)
    rows = rows_of(experiment, stimuli, Condition("assistant", IMPLANT))[:12]
    masked = encode_rows(tokenizer, rows, experiment.recipes[0], experiment.marker)
    for row, one in zip(rows, masked, strict=True):
        kept = tokenizer.decode([one.input_ids[i] for i in one.kept])
        assert kept == f"{row.completion}<|im_end|>\n"


def test_the_plan_freezes_what_is_said(stimuli: Stimuli, experiment: SourceRateExperiment) -> None:
    plan = analysis_plan(PUBLISHED_SCALE, experiment)
    assert plan.digest == analysis_plan(PUBLISHED_SCALE, planned_experiment(stimuli, PUBLISHED_SCALE)).digest
    assert plan.sources == SOURCES and set(plan.category_of) == set(SOURCES)
    asked = [q.model_copy(update={"text": q.text + "!"}) for q in stimuli.questions("implant")]
    sets = stimuli.question_sets | {
        "implant": stimuli.question_sets["implant"].model_copy(update={"questions": tuple(asked)})
    }
    reworded = stimuli.model_copy(update={"question_sets": sets})
    assert planned_experiment(reworded, PUBLISHED_SCALE).wording != experiment.wording
    assert analysis_plan(replace(PUBLISHED_SCALE, primary_layer=15), experiment).digest != plan.digest
    assert plan.as_dict()["experiment"]["data"]["writer"] == "assistant"


def test_hypotheses_name_thresholds_of_the_sheet(experiment: SourceRateExperiment) -> None:
    plan = analysis_plan(PUBLISHED_SCALE, experiment)
    by_name = {h.name: h for h in plan.hypotheses}
    assert len(by_name) == len(plan.hypotheses) == 8
    assert by_name["H3"].threshold == plan.margin == 0.25 and "25 percentage points" in by_name["H3"].claim
    assert by_name["H5"].threshold == len(plan.layers)


def test_more_questions_than_there_are_is_refused(stimuli: Stimuli) -> None:
    with pytest.raises(StudyError, match=r"500 questions of 'train' wanted, questions.yaml has 40"):
        planned_experiment(stimuli, replace(PUBLISHED_SCALE, questions=(("train", 500),)))
