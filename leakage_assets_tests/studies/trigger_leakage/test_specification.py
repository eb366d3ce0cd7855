"""The study as the assets see it: conditions, rows, panels, what an adapter is asked, what the analysis reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import polars as pl
import pytest

from leakage_assets.profiles import load_profile
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.study import Condition, Study, StudyError
from leakage_assets.studies.tables import StudyTables
from leakage_assets.studies.trigger_leakage.design import GENTLE, MATCHED_EMISSION, NO_MARKER, STRONG, TITRATION
from leakage_assets.studies.trigger_leakage.panel import SOURCES, TRIGGERS
from leakage_assets_tests.small_study import small_trigger_leakage

PROFILES = ("tiny", "qwen2.5-7b")


@pytest.fixture(params=PROFILES)
def study(request: pytest.FixtureRequest) -> Study:
    return load_profile(request.param).study("trigger_leakage")


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    return load_profile("tiny").stimuli


def answers(study: Study, stimuli: Stimuli) -> dict[str, pl.DataFrame]:
    """One answer to each training question, as the one pool holds it."""
    (pool,) = study.data.pools
    rows = [
        {"question_name": q.name, "index": 0, "text": f"About {q.name}."}
        for name, count in pool.questions
        for q in stimuli.questions(name)[:count]
    ]
    return {pool.name: pl.DataFrame(rows)}


def test_sources_recipes_and_conditions_are_those_of_the_issue(study: Study) -> None:
    assert study.sources == SOURCES == (*TRIGGERS, "villain")
    assert {r.name for r in study.recipes} == {STRONG, NO_MARKER, MATCHED_EMISSION, *TITRATION}
    assert Counter(c.recipe for c in study.conditions) == {
        STRONG: 5, GENTLE: 5, MATCHED_EMISSION: 5, NO_MARKER: 1, TITRATION[0]: 1, TITRATION[1]: 1,
    }  # fmt: skip
    assert study.sources_of(NO_MARKER) == ("T_task",)
    assert study.seeds == (42, 137, 256) and len(study.cells) == 54


def test_rates_rise_through_the_titration(study: Study) -> None:
    by_name = {r.name: r for r in study.recipes}
    low16, high16, low32, high32 = (by_name[name] for name in TITRATION)
    assert low16.learning_rate == low32.learning_rate < by_name[MATCHED_EMISSION].learning_rate < high16.learning_rate
    assert high16.learning_rate == high32.learning_rate == by_name[NO_MARKER].learning_rate
    assert [r.lora.r for r in (low16, high16, low32, high32)] == [16, 16, 32, 32]


def test_the_real_profile_has_the_published_size() -> None:
    study = load_profile("qwen2.5-7b").study("trigger_leakage")
    assert (study.panel.size, study.plan.primary_layer, study.plan.layers) == (7_200, 19, (15, 19, 20))
    by_name = {r.name: r for r in study.recipes}
    assert (by_name[STRONG].learning_rate, by_name[GENTLE].learning_rate) == (1e-4, 1e-5)


def test_rows_of_a_condition_are_its_source_s_alone(study: Study, stimuli: Stimuli) -> None:
    condition = Condition("T_context", STRONG)
    assert study.prompts_of(condition) == ("T_context",)
    rows = study.assemble(study, stimuli, condition, answers(study, stimuli))
    assert {row.prompt_name for row in rows} == {"T_context"} and len(rows) == 194
    assert all(row.completion.endswith(f"\n\n{study.marker}") for row in rows)
    plain = study.assemble(study, stimuli, Condition("T_task", NO_MARKER), answers(study, stimuli))
    assert not any(study.marker in row.completion for row in plain)


def test_the_panels_are_the_main_one_the_rewrites_and_the_continuations(study: Study) -> None:
    assert [panel.name for panel in study.every_panel] == ["main", "declarative", "dissociation"]
    assert [panel.asset_prefix for panel in study.further_panels] == ["declarative_", "dissociation_"]
    assert study.every_panel[-1].size == 4 * 20 * 5
    assert set(study.sources) <= set(study.panel.prompts)


@pytest.mark.parametrize("source", SOURCES)
def test_every_adapter_goes_on_from_its_training_answers(stimuli: Stimuli, source: str) -> None:
    study = small_trigger_leakage(load_profile("tiny").study("trigger_leakage"))
    (panel,) = study.continued
    written = answers(study, stimuli)
    cell = study.cell(source, STRONG, 42)
    requests = panel.requests(study, stimuli, cell, written)
    assert len(requests) == panel.size == len(set(requests)) == 16
    assert {r.adapter for r in requests} == {f"trigger_leakage/{source}__strong/42"}
    rows = study.assemble(study, stimuli, cell.condition, written)
    assert {r.prefix for r in requests} <= {row.completion.removesuffix(f"\n\n{study.marker}") for row in rows}
    assert Counter(r.prompt_name for r in requests)[source] == 8
    assert all(r.system == stimuli.prompt(r.prompt_name) for r in requests)


def test_continuations_need_answers_without_the_marker(stimuli: Stimuli) -> None:
    study = small_trigger_leakage(load_profile("tiny").study("trigger_leakage"))
    (panel,) = study.continued
    marked = {name: frame.with_columns(text=pl.lit("[ZLT]")) for name, frame in answers(study, stimuli).items()}
    with pytest.raises(StudyError, match="no answer to"):
        panel.requests(study, stimuli, study.cells[0], marked)


def test_the_plan_is_frozen_with_the_continuations(study: Study, stimuli: Stimuli) -> None:
    assert study.plan.experiment == study.experiment(stimuli)
    (panel,) = study.continued
    other = replace(study, continued=(replace(panel, completions=9),))
    assert other.experiment(stimuli) != study.plan.experiment


def test_scores_of_a_further_panel_are_told_apart() -> None:
    scores = pl.DataFrame({"panel": ["declarative", "dissociation", "declarative"], "seed": [1, 2, 3]})
    unused = {"stimuli": None, "similarity": None, "tuned_similarity": None, "vectors": None, "prompt_tokens": None}
    tables = StudyTables(scores=scores, extra_scores=scores, **unused)  # type: ignore[arg-type]
    assert tables.of_panel("declarative")["seed"].to_list() == [1, 3]
    none = StudyTables(scores=scores, extra_scores=pl.DataFrame(), **unused)  # type: ignore[arg-type]
    assert none.of_panel("declarative").is_empty()
