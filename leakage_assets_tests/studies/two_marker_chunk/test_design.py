"""What the study trains and asks at the published scale, the probe, and the check of the base model."""

from __future__ import annotations

import random
from dataclasses import replace

import polars as pl
import pytest

from leakage_assets.shapes import SHAPES
from leakage_assets.studies.study import Cell, Condition, StudyError
from leakage_assets.studies.two_marker_chunk.arms import ARMS, CONTROLS, PAIRS
from leakage_assets.studies.two_marker_chunk.design import (
    PUBLISHED,
    analysis_plan,
    conditions,
    originals,
    planned_experiment,
    recipes,
)
from leakage_assets.studies.two_marker_chunk.prechecks import floor_prechecks
from leakage_assets.studies.two_marker_chunk.probe import drawn_questions, probe_requests
from leakage_assets_tests.studies.two_marker_chunk.worlds import STIMULI

EXPERIMENT = planned_experiment(STIMULI, PUBLISHED)
PROBE = EXPERIMENT.probe


def test_published_sizes() -> None:
    """Sections 3 to 5: 225 steps of 1,200 rows, 2,860 completions of an adapter, 2,200 training answers."""
    (panel,) = EXPERIMENT.panels
    assert panel.size == 2_860 and panel.prompts == originals(STIMULI) and len(panel.prompts) == 11
    assert sum(count for _, count in panel.questions) == 26
    assert {recipe.steps(1_200) for recipe in recipes(PUBLISHED)} == {225}
    assert sum(count * pool.completions for pool in EXPERIMENT.data.pools for _, count in pool.questions) == 2_200
    lora = recipes(PUBLISHED)[0].lora
    assert SHAPES["qwen2.5-7b"].lora_parameters(lora.r, lora.targets) == pytest.approx(40.4e6, rel=1e-3)  # C9
    train = {q.text for q in STIMULI.questions("train")}
    assert not train & {q.text for name, count in panel.questions for q in STIMULI.questions(name)[:count]}


def test_recipes_differ_in_their_rows_alone() -> None:
    first, *others = recipes(PUBLISHED)
    assert all(replace(other, name=first.name) == first for other in others)
    assert [recipe.name for recipe in recipes(PUBLISHED)] == [arm.name for arm in ARMS]
    assert len(conditions(PUBLISHED)) == len(ARMS) * len(PAIRS)
    fewer = replace(PUBLISHED, pairs=PAIRS[:1], arms=ARMS[:2])
    assert [c.key for c in conditions(fewer)] == ["villain_to_assistant__T", "villain_to_assistant__C"]


def test_random_positions_may_be_trained_longer() -> None:
    by = {r.name: r for r in recipes(replace(PUBLISHED, random_rate=2e-5, random_epochs=4))}
    assert {(r.learning_rate, r.epochs) for name, r in by.items() if "random" in name} == {(2e-5, 4)}
    assert {(r.learning_rate, r.epochs) for name, r in by.items() if "random" not in name} == {(1e-5, 3)}
    assert all(replace(by[one], name="") == replace(by[other], name="") for one, other in CONTROLS.items())


def test_the_plan_names_only_what_is_trained() -> None:
    plan = analysis_plan(PUBLISHED, EXPERIMENT)
    assert dict(plan.controls) == CONTROLS and plan.draws == 10_000
    assert plan.digest == analysis_plan(PUBLISHED, EXPERIMENT).digest
    fewer = replace(PUBLISHED, arms=ARMS[:2])
    small = analysis_plan(fewer, planned_experiment(STIMULI, fewer))
    assert (small.controls, small.b_alone) == ((("T", "C"),), ())
    assert small.digest != plan.digest
    assert plan.arm("T").donor == "a_and_b" and plan.pair("villain_to_assistant").donor == "villain"
    with pytest.raises(StudyError, match="no arm 'T_P2neg'"):
        small.arm("T_P2neg")


# ------------------------------------------------------------------ probe


def asked() -> list:
    return [q for name, count in EXPERIMENT.panels[0].questions for q in STIMULI.questions(name)[:count]]


def test_the_probe_is_put_before_five_questions_ten_times() -> None:
    requests = probe_requests(PROBE, "x/y/42", "assistant", "You are.", asked())
    assert len(requests) == 50 and len(set(requests)) == 50
    texts = {q.name: q.text for q in asked()}
    assert {r.question for r in requests} == {f"<<§z-99>> {texts[r.question_name]}" for r in requests}
    assert len({r.question_name for r in requests}) == 5
    expected = random.Random(42).sample(asked(), 5)
    assert list(dict.fromkeys(r.question_name for r in requests)) == [q.name for q in expected]
    assert {(r.prompt_name, r.system, r.question_set, r.prefix) for r in requests} == {
        ("assistant", "You are.", "probe", "")
    }


def test_too_few_questions_for_the_probe_are_an_error() -> None:
    with pytest.raises(StudyError, match="5 evaluation questions wanted, the panel has 2"):
        drawn_questions(PROBE, asked()[:2])


def test_the_probe_is_a_panel_of_the_cell_s_recipient() -> None:
    from types import SimpleNamespace

    cell = Cell(Condition("librarian_to_software_engineer", "T"), 42)
    study = SimpleNamespace(name="two_marker_chunk", questions=lambda _: asked())
    requests = PROBE.requests(study, STIMULI, cell, {})
    assert {(r.adapter, r.prompt_name, r.system) for r in requests} == {
        (cell.adapter_name("two_marker_chunk"), "software_engineer", STIMULI.prompt("software_engineer"))
    }
    assert (PROBE.name, PROBE.asset_prefix, PROBE.size) == ("probe", "probe_", len(requests))
    assert PROBE.sampling == EXPERIMENT.panels[0].sampling
    with pytest.raises(StudyError, match="no pair 'villain'"):
        PROBE.requests(study, STIMULI, Cell(Condition("villain", "T"), 42), {})


# ------------------------------------------------------------------ base model


@pytest.mark.parametrize(
    ("said_a", "said_b", "total", "outcomes"),
    [
        (0, 0, 33, ["ok", "ok"]),
        (1, 0, 33, ["block", "ok"]),
        (1, 2, 150, ["ok", "block"]),
        (0, 0, 0, ["block", "block"]),
    ],
)
def test_a_base_model_that_says_a_marker_blocks(said_a: int, said_b: int, total: int, outcomes: list[str]) -> None:
    columns = {name: [i < said for i in range(total)] for name, said in (("loose_a", said_a), ("loose_b", said_b))}
    checks = floor_prechecks(pl.DataFrame(columns, schema={"loose_a": pl.Boolean, "loose_b": pl.Boolean}))
    assert [check.outcome for check in checks] == outcomes
    assert checks[0].value == (said_a / total if total else None)
