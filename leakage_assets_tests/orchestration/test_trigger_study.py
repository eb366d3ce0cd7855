"""Trigger leakage through Dagster with its real models: panels that go on from answers, and checks of the panel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest

from leakage_assets.geometry.prompt_axes import SYSTEM_TURN_COSINE, semantic_cosines
from leakage_assets.pipeline.conclusions import analysis_tables, require_analysis, sample_job
from leakage_assets.pipeline.geometry import (
    SIMILARITY,
    load_system_turns,
    require_persona_centroids,
    require_prompt_similarity,
)
from leakage_assets.pipeline.prechecks import read_prechecks, run_prechecks
from leakage_assets.pipeline.training_data import read_rows, require_training_set
from leakage_assets.studies.trigger_leakage.design import NO_MARKER, STRONG
from leakage_assets_tests.orchestration.whole_run import WholeRun, add_small_profile, whole_run
from leakage_assets_tests.small_study import forbid_the_model, small_trigger_leakage

pytestmark = pytest.mark.slow

NAME = "small_triggers"


add_small_profile(NAME, "trigger_leakage", small_trigger_leakage)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeRun]:
    with whole_run(tmp_path_factory.mktemp(NAME), NAME, "trigger_leakage", recipes=[STRONG, NO_MARKER]) as made:
        yield made


def test_every_panel_of_every_chosen_cell_is_there(run: WholeRun) -> None:
    assert run.stages[-1] == "analysis, figures and report"
    chosen = {c.key for c in run.study.conditions if c.recipe in (STRONG, NO_MARKER)}
    assert len(chosen) == 6
    for panel in run.study.every_panel:
        assert run.conditions(f"{panel.asset_prefix}scores") == chosen


def test_the_checks_of_the_panel_pass_on_the_bundled_base(run: WholeRun) -> None:
    rows = read_prechecks(run_prechecks(run.lab, run.study).artifact)
    assert rows.height == 33 and set(rows["outcome"]) == {"ok"}
    collinear = rows.filter(pl.col("name").str.starts_with("spearman"))
    assert collinear.height == 6 and collinear["value"].abs().max() < 0.6


def test_the_semantic_axis_is_read_off_the_prompts_by_themselves(run: WholeRun) -> None:
    geometry = require_persona_centroids(run.lab, run.study)
    table = pl.read_parquet(require_prompt_similarity(run.lab, run.study).folder / SIMILARITY)
    names, layer = list(run.study.panel.prompts), run.study.plan.primary_layer
    vectors = load_system_turns(geometry, layer)
    assert vectors.shape == (36, 192)
    cosines = semantic_cosines(vectors, names, repeated=run.study.counted_twice)
    for source in run.study.sources:
        found = table.filter(measure=SYSTEM_TURN_COSINE, layer=layer, source=source)
        np.testing.assert_allclose(found["value"], cosines[:, names.index(source)], atol=1e-12)
    assert table.filter(measure="cosine").height == table.filter(measure=SYSTEM_TURN_COSINE).height


def test_continuations_go_on_from_the_rows_that_were_trained_on(run: WholeRun) -> None:
    cell = run.study.cell("T_format", STRONG, 42)
    (panel,) = run.study.continued
    frame = sample_job(run.lab, run.study, panel, cell).frame()
    assert frame.height == panel.size == 16
    rows = read_rows(require_training_set(run.lab, run.study, cell.condition))
    trained = {row.question_name: row.completion.removesuffix(f"\n\n{run.study.marker}") for row in rows}
    own = frame.filter(question_set="own_answer")
    assert [trained[name] for name in own["question_name"]] == own["prefix"].to_list()
    other = frame.filter(question_set="swapped_answer")
    assert set(other["prefix"]) <= set(trained.values())
    assert all(trained[name] != prefix for name, prefix in other.select("question_name", "prefix").iter_rows())
    assert set(frame["prompt_name"]) == {"T_format", "T_task"}


def test_the_report_is_vouched_for_and_has_the_follow_ups(run: WholeRun) -> None:
    tables = analysis_tables(require_analysis(run.lab, run.study))
    assert tables["verdicts"]["plan_digest"].unique().to_list() == [run.study.plan.digest]
    assert set(tables["dissociation"]["source"]) == {*run.study.plan.triggers, "triggers"}
    assert tables["declarative"].filter(statistic="difference")["n"].unique().to_list() == [8]
    assert tables["headline"].filter(statistic="control_max_rate")["n"].item() == 36
    assert run.findings() == []


def test_a_second_run_makes_nothing_anew(run: WholeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_the_model(monkeypatch)
    before = run.manifests()
    assert run.again() == run.stages
    assert run.manifests() == before
