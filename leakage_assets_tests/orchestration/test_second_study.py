"""Source rate beside marker leakage in one profile, run whole through Dagster with its real models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import dagster as dg
import polars as pl
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from leakage_assets.checks import PRECHECKS
from leakage_assets.pipeline.conclusions import analysis_tables, require_analysis
from leakage_assets.pipeline.prechecks import read_prechecks, require_prechecks, run_prechecks
from leakage_assets.pipeline.training_data import read_rows, require_training_set
from leakage_assets.profiles import PROFILES, Profile
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.artifacts import ArtifactMissing
from leakage_assets_tests.orchestration.whole_run import WholeRun, whole_run
from leakage_assets_tests.small_study import SOURCE_RATE_SOURCES, small_profile, small_source_rate

pytestmark = pytest.mark.slow

NAME = "two_studies"


def two_studies(stimuli: Stimuli) -> Profile:
    small = small_profile(stimuli=stimuli)
    second = small_source_rate(PROFILES["tiny"](stimuli).study("source_rate"))
    return replace(small, name=NAME, studies=(*small.studies, second))


PROFILES[NAME] = two_studies


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeRun]:
    with whole_run(tmp_path_factory.mktemp(NAME), NAME, "source_rate", extras=False) as made:
        yield made


def test_every_condition_is_trained_and_no_other(run: WholeRun) -> None:
    assert len(run.study.conditions) == 8 and len(run.study.sources) * len(run.study.recipes) == 15
    assert run.stages[-1] == "analysis, figures and report"
    for asset in ("adapter", "samples", "scores"):
        assert run.conditions(asset) == {c.key for c in run.study.conditions}
    assert run.materialised("training_set") == {c.key for c in run.study.conditions}


def test_the_checks_before_training_are_shown_and_what_trains_asks_for_them(run: WholeRun) -> None:
    key = run.key("prechecks")
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


def test_only_the_study_s_own_answers_are_written(run: WholeRun) -> None:
    assert {pool.name for pool in run.lab.profile.pools} > {"villain", "source_rate_assistant"}
    assert run.materialised("on_policy_completions", shared=True) == {"source_rate_assistant"}


def test_all_prompts_of_a_condition_get_the_same_answers(run: WholeRun) -> None:
    for condition in run.study.conditions:
        rows = read_rows(require_training_set(run.lab, run.study, condition))
        assert {row.prompt_name for row in rows} == set(run.study.prompts_of(condition)) and len(rows) == 15
        bare = {(row.question_name, row.completion.removesuffix(f"\n\n{run.study.marker}")) for row in rows}
        assert len(bare) == 5


def test_the_analysis_has_every_source_and_the_report_is_vouched_for(run: WholeRun) -> None:
    tables = analysis_tables(require_analysis(run.lab, run.study))
    assert set(tables["points"]["source"]) == set(SOURCE_RATE_SOURCES)
    assert tables["rates"].height == 8
    assert tables["headline"].filter(statistic="spearman")["n"].item() == 5
    assert tables["verdicts"]["plan_digest"].unique().to_list() == [run.study.plan.digest]
    assert set(tables["references"]["reference"]) == set(SOURCE_RATE_SOURCES)
    cosine = tables["points"].filter(pl.col("source") == "assistant")["cosine"].item()
    assert cosine == pytest.approx(1.0)
    assert run.findings() == []


def test_a_second_run_makes_nothing_anew(run: WholeRun) -> None:
    before = run.manifests()
    assert run.again() == run.stages
    assert run.manifests() == before
