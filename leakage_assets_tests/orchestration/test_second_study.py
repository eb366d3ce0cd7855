"""Source rate beside marker leakage in one profile, run whole through Dagster with its real models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from leakage_assets.assets.common import asset_key
from leakage_assets.checks import PRECHECKS
from leakage_assets.materialise import StudyRuns
from leakage_assets.paths import DATA
from leakage_assets.pipeline.conclusions import analysis_tables, require_analysis
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.prechecks import read_prechecks, require_prechecks, run_prechecks
from leakage_assets.pipeline.publication import stable_report
from leakage_assets.pipeline.training_data import read_rows, require_training_set
from leakage_assets.profiles import PROFILES, Profile, load_profile
from leakage_assets.reporting.lint import lint_html
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.artifacts import ArtifactMissing, ArtifactStore
from leakage_assets.studies.study import Study
from leakage_assets_tests.small_study import SOURCE_RATE_SOURCES, small_profile, small_source_rate

pytestmark = pytest.mark.slow

NAME = "two_studies"


def two_studies(stimuli: Stimuli) -> Profile:
    small = small_profile(stimuli=stimuli)
    second = small_source_rate(PROFILES["tiny"](stimuli).study("source_rate"))
    return replace(small, name=NAME, studies=(*small.studies, second))


PROFILES[NAME] = two_studies


@dataclass(frozen=True)
class Run:
    """A run of everything, the laboratory it was in, and what Dagster says of it."""

    lab: Laboratory
    study: Study
    stages: tuple[str, ...]
    instance: dg.DagsterInstance

    def again(self) -> tuple[str, ...]:
        runs = StudyRuns(self.lab.profile, self.study, instance=self.instance, artifacts=self.lab.store.root)
        return tuple(runs.all_stages(self.study.cells, extras=False))

    def materialised(self, name: str, *, shared: bool = False) -> set[str]:
        key = asset_key(self.lab.profile, None if shared else self.study, name)
        return self.instance.get_materialized_partitions(key)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    import torch

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("two_studies")
    profile = load_profile(NAME)
    study = profile.study("source_rate")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("LEAKAGE_LEASES", str(root / "leases"))
        runs = StudyRuns(profile, study, instance=instance, artifacts=root / "artifacts")
        stages = tuple(runs.all_stages(study.cells, extras=False))
        yield Run(Laboratory(profile, ArtifactStore(root / "artifacts")), study, stages, instance)


def test_every_condition_is_trained_and_no_other(run: Run) -> None:
    assert len(run.study.conditions) == 8 and len(run.study.sources) * len(run.study.recipes) == 15
    assert run.stages[-1] == "analysis, figures and report"
    for asset in ("adapter", "samples", "scores"):
        assert {str(key).split("|")[0] for key in run.materialised(asset)} == {c.key for c in run.study.conditions}
    assert run.materialised("training_set") == {c.key for c in run.study.conditions}


def test_the_checks_before_training_are_shown_and_what_trains_asks_for_them(run: Run) -> None:
    key = asset_key(run.lab.profile, run.study, "prechecks")
    (evaluation,) = run.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(key, PRECHECKS), limit=5
    )
    assert evaluation.status == AssetCheckExecutionRecordStatus.SUCCEEDED
    rows = read_prechecks(run_prechecks(run.lab, run.study).artifact)
    assert rows["outcome"].to_list() == ["ok"] * 4
    assert rows["detail"].to_list()[:2] == ["0 of 6 completions"] * 2  # the bundled model never says it unprompted
    require_prechecks(run.lab, run.study)
    other = replace(run.study, silent_prompts=("villain",))
    with pytest.raises(ArtifactMissing, match="materialise prechecks first"):
        require_prechecks(run.lab, other)


def test_only_the_study_s_own_answers_are_written(run: Run) -> None:
    assert {pool.name for pool in run.lab.profile.pools} > {"villain", "source_rate_assistant"}
    assert run.materialised("on_policy_completions", shared=True) == {"source_rate_assistant"}


def test_all_prompts_of_a_condition_get_the_same_answers(run: Run) -> None:
    for condition in run.study.conditions:
        rows = read_rows(require_training_set(run.lab, run.study, condition))
        assert {row.prompt_name for row in rows} == set(run.study.prompts_of(condition)) and len(rows) == 15
        bare = {(row.question_name, row.completion.removesuffix(f"\n\n{run.study.marker}")) for row in rows}
        assert len(bare) == 5


def test_the_analysis_has_every_source_and_the_report_is_vouched_for(run: Run) -> None:
    tables = analysis_tables(require_analysis(run.lab, run.study))
    assert set(tables["points"]["source"]) == set(SOURCE_RATE_SOURCES)
    assert tables["rates"].height == 8
    assert tables["headline"].filter(statistic="spearman")["n"].item() == 5
    assert tables["verdicts"]["plan_digest"].unique().to_list() == [run.study.plan.digest]
    assert set(tables["references"]["reference"]) == set(SOURCE_RATE_SOURCES)
    cosine = tables["points"].filter(pl.col("source") == "assistant")["cosine"].item()
    assert cosine == pytest.approx(1.0)
    html = stable_report(run.lab, run.study).read_text()
    assert lint_html(html, {"artifacts": run.lab.store.root, "published": DATA / "published"}) == []


def test_a_second_run_makes_nothing_anew(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEAKAGE_LEASES", str(tmp_path))
    before = sorted(run.lab.store.root.rglob("manifest.json"))
    times = [path.stat().st_mtime_ns for path in before]
    assert run.again() == run.stages
    assert sorted(run.lab.store.root.rglob("manifest.json")) == before
    assert [path.stat().st_mtime_ns for path in before] == times
