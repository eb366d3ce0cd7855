"""Trigger leakage through Dagster with its real models: panels that go on from answers, and checks of the panel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from leakage_assets.assets.common import asset_key
from leakage_assets.geometry.prompt_axes import SYSTEM_TURN_COSINE, semantic_cosines
from leakage_assets.materialise import StudyRuns
from leakage_assets.paths import DATA
from leakage_assets.pipeline.conclusions import analysis_tables, require_analysis, sample_job
from leakage_assets.pipeline.geometry import (
    SIMILARITY,
    load_system_turns,
    require_persona_centroids,
    require_prompt_similarity,
)
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.prechecks import read_prechecks, run_prechecks
from leakage_assets.pipeline.publication import stable_report
from leakage_assets.pipeline.training_data import read_rows, require_training_set
from leakage_assets.profiles import PROFILES, Profile, load_profile
from leakage_assets.reporting.lint import lint_html
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.artifacts import ArtifactStore
from leakage_assets.studies.study import Study
from leakage_assets.studies.trigger_leakage.design import NO_MARKER, STRONG
from leakage_assets_tests.small_study import forbid_the_model, small_profile, small_trigger_leakage

pytestmark = pytest.mark.slow

NAME = "small_triggers"


def small_triggers(stimuli: Stimuli) -> Profile:
    study = small_trigger_leakage(PROFILES["tiny"](stimuli).study("trigger_leakage"))
    return replace(small_profile(study=study, stimuli=stimuli), name=NAME, generation_batch=128)


PROFILES[NAME] = small_triggers


@dataclass(frozen=True)
class Run:
    """A run of the main recipe and the control, the laboratory it was in, and what Dagster says of it."""

    lab: Laboratory
    study: Study
    stages: tuple[str, ...]
    instance: dg.DagsterInstance

    def again(self) -> tuple[str, ...]:
        return run_cells(self.lab.profile, self.study, self.instance, self.lab.store.root)


def run_cells(profile: Profile, study: Study, instance: dg.DagsterInstance, artifacts: Path) -> tuple[str, ...]:
    cells = study.chosen_cells(None, [STRONG, NO_MARKER], None)
    return tuple(StudyRuns(profile, study, instance=instance, artifacts=artifacts).all_stages(cells, extras=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    import torch

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("small_triggers")
    profile = load_profile(NAME)
    study = profile.study("trigger_leakage")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("LEAKAGE_LEASES", str(root / "leases"))
        stages = run_cells(profile, study, instance, root / "artifacts")
        yield Run(Laboratory(profile, ArtifactStore(root / "artifacts")), study, stages, instance)


def test_every_panel_of_every_chosen_cell_is_there(run: Run) -> None:
    assert run.stages[-1] == "analysis, figures and report"
    chosen = {c.key for c in run.study.conditions if c.recipe in (STRONG, NO_MARKER)}
    assert len(chosen) == 6
    for panel in run.study.every_panel:
        scored = run.instance.get_materialized_partitions(
            asset_key(run.lab.profile, run.study, f"{panel.asset_prefix}scores")
        )
        assert {str(key).split("|")[0] for key in scored} == chosen


def test_the_checks_of_the_panel_pass_on_the_bundled_base(run: Run) -> None:
    rows = read_prechecks(run_prechecks(run.lab, run.study).artifact)
    assert rows.height == 33 and set(rows["outcome"]) == {"ok"}
    collinear = rows.filter(pl.col("name").str.starts_with("spearman"))
    assert collinear.height == 6 and collinear["value"].abs().max() < 0.6


def test_the_semantic_axis_is_read_off_the_prompts_by_themselves(run: Run) -> None:
    geometry = require_persona_centroids(run.lab, run.study)
    table = pl.read_parquet(require_prompt_similarity(run.lab, run.study).folder / SIMILARITY)
    names, layer = list(run.study.panel.prompts), run.study.plan.primary_layer
    vectors = load_system_turns(geometry, layer)
    assert vectors.shape == (36, 192)
    cosines = semantic_cosines(vectors, names, repeated=run.study.system_turns or ())
    for source in run.study.sources:
        found = table.filter(measure=SYSTEM_TURN_COSINE, layer=layer, source=source)
        np.testing.assert_allclose(found["value"], cosines[:, names.index(source)], atol=1e-12)
    assert table.filter(measure="cosine").height == table.filter(measure=SYSTEM_TURN_COSINE).height


def test_continuations_go_on_from_the_rows_that_were_trained_on(run: Run) -> None:
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


def test_the_report_is_vouched_for_and_has_the_follow_ups(run: Run) -> None:
    tables = analysis_tables(require_analysis(run.lab, run.study))
    assert tables["verdicts"]["plan_digest"].unique().to_list() == [run.study.plan.digest]
    assert set(tables["dissociation"]["source"]) == {*run.study.plan.triggers, "triggers"}
    assert tables["declarative"].filter(statistic="difference")["n"].unique().to_list() == [8]
    assert tables["headline"].filter(statistic="control_max_rate")["n"].item() == 36
    html = stable_report(run.lab, run.study).read_text()
    assert lint_html(html, {"artifacts": run.lab.store.root, "published": DATA / "published"}) == []


def test_a_second_run_makes_nothing_anew(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEAKAGE_LEASES", str(tmp_path))
    forbid_the_model(monkeypatch)
    before = sorted(run.lab.store.root.rglob("manifest.json"))
    assert run.again() == run.stages
    assert sorted(run.lab.store.root.rglob("manifest.json")) == before
