"""Two markers through Dagster with its real models: the checks, the masks, both panels, the gates and the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from leakage_assets.assets.common import asset_key
from leakage_assets.checks import GATES
from leakage_assets.materialise import StudyRuns
from leakage_assets.models import load_tokenizer
from leakage_assets.paths import DATA
from leakage_assets.pipeline.conclusions import SCORES, analysis_tables, finished_scores, require_analysis
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.prechecks import read_prechecks, run_prechecks
from leakage_assets.pipeline.publication import stable_report
from leakage_assets.pipeline.training_data import read_rows, require_training_set
from leakage_assets.profiles import PROFILES, Profile, load_profile
from leakage_assets.reporting.lint import lint_html
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.artifacts import ArtifactStore
from leakage_assets.studies.study import Condition, Study
from leakage_assets.studies.two_marker_chunk.arms import C_MASKED, T_MASKED, T
from leakage_assets.studies.two_marker_chunk.probe import PROBE_SET
from leakage_assets.training.masks import encode_rows
from leakage_assets_tests.small_study import small_profile, small_two_markers

pytestmark = pytest.mark.slow

NAME = "small_pairs"
PAIR = "villain_to_assistant"
ARMS = [T, T_MASKED, C_MASKED]


def small_pairs(stimuli: Stimuli) -> Profile:
    study = small_two_markers(PROFILES["tiny"](stimuli).study("two_marker_chunk"))
    return replace(small_profile(study=study, stimuli=stimuli), name=NAME, generation_batch=128)


PROFILES[NAME] = small_pairs


@dataclass(frozen=True)
class Run:
    """A run of one pair, the laboratory it was in, and what Dagster says of it."""

    lab: Laboratory
    study: Study
    stages: tuple[str, ...]
    instance: dg.DagsterInstance

    def key(self, name: str) -> dg.AssetKey:
        return asset_key(self.lab.profile, self.study, name)


def run_cells(profile: Profile, study: Study, instance: dg.DagsterInstance, artifacts: Path) -> tuple[str, ...]:
    cells = study.chosen_cells([PAIR], ARMS, None)
    return tuple(StudyRuns(profile, study, instance=instance, artifacts=artifacts).all_stages(cells, extras=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    import torch

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("small_pairs")
    profile = load_profile(NAME)
    study = profile.study("two_marker_chunk")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("LEAKAGE_LEASES", str(root / "leases"))
        stages = run_cells(profile, study, instance, root / "artifacts")
        yield Run(Laboratory(profile, ArtifactStore(root / "artifacts")), study, stages, instance)


def test_both_panels_of_every_chosen_cell_are_scored_for_both_markers(run: Run) -> None:
    assert run.stages[-1] == "analysis, figures and report"
    for panel in run.study.every_panel:
        scored = run.instance.get_materialized_partitions(run.key(f"{panel.asset_prefix}scores"))
        assert {str(key).split("|")[0] for key in scored} == {f"{PAIR}__{arm}" for arm in ARMS}
        found = finished_scores(run.lab, run.study, panel)
        assert {"loose_a", "loose_b", "loose_echo", "start_a"} <= set(found.scores.columns)
        assert found.scores.height == 3 * panel.size
        for artifact in found.artifacts.values():
            assert "marker_present" not in pl.read_parquet(artifact.folder / SCORES).columns
    (probe,) = run.study.continued
    asked = finished_scores(run.lab, run.study, probe).scores
    assert set(asked["question_set"]) == {PROBE_SET} and set(asked["prompt_name"]) == {"assistant"}


def test_the_checks_before_training_pass_on_the_bundled_base(run: Run) -> None:
    rows = read_prechecks(run_prechecks(run.lab, run.study).artifact)
    warned = rows.filter(pl.col("outcome") != "ok")
    assert warned["name"].to_list() == ["tokens shared by A and B"] and warned["outcome"].to_list() == ["warn"]
    assert {"tokens of A", "tokens of B", "base rate of A", "base rate of B"} <= set(rows["name"])


def test_only_the_recipient_s_end_of_turn_is_masked(run: Run) -> None:
    tokenizer = load_tokenizer(run.lab.profile.base)
    stops = {}
    for arm in (T, T_MASKED):
        rows = read_rows(require_training_set(run.lab, run.study, Condition(PAIR, arm)))
        encoded = encode_rows(tokenizer, rows, run.study.recipe(arm), run.study.marker)
        stops[arm] = {
            row.prompt_name: any(masked.input_ids[place] == tokenizer.eos_token_id for place in masked.kept)
            for row, masked in zip(rows, encoded, strict=True)
        }
    assert all(stops[T].values()) and len(stops[T]) == 6
    assert [name for name, kept in stops[T_MASKED].items() if not kept] == ["assistant"]


def test_the_gates_are_a_check_of_the_analysis_that_stops_nothing(run: Run) -> None:
    (found,) = run.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(run.key("analysis"), GATES), limit=5
    )
    evaluation = found.event.dagster_event.asset_check_evaluation_data  # type: ignore[union-attr]
    gates = analysis_tables(require_analysis(run.lab, run.study))["gates"]
    assert evaluation.metadata["total"].value == gates.height > 0
    assert evaluation.severity == dg.AssetCheckSeverity.WARN and not evaluation.blocking
    assert evaluation.passed == all(gates["passed"].to_list())


def test_the_report_holds_and_tells_the_pair_s_distance(run: Run) -> None:
    page = stable_report(run.lab, run.study)
    stores = {"artifacts": run.lab.store.root, "published": DATA / "published"}
    assert lint_html(page.read_text(), stores) == []
    tables = analysis_tables(require_analysis(run.lab, run.study))
    own = tables["distances"].filter(source=PAIR)
    assert own["layer"].to_list() == [1, 2] and own["cosine"].null_count() == 0
    assert tables["probe"]["total"].to_list() == [4] * 9


def test_the_same_run_makes_nothing_anew(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEAKAGE_LEASES", str(tmp_path))
    before = sorted(run.lab.store.root.rglob("manifest.json"))
    times = [path.stat().st_mtime_ns for path in before]
    assert run_cells(run.lab.profile, run.study, run.instance, run.lab.store.root) == run.stages
    assert sorted(run.lab.store.root.rglob("manifest.json")) == before
    assert [path.stat().st_mtime_ns for path in before] == times
