"""Two markers through Dagster with its real models: the checks, the masks, both panels, the gates and the report."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import polars as pl
import pytest

from leakage_assets.checks import GATES
from leakage_assets.models import load_tokenizer
from leakage_assets.pipeline.conclusions import SCORES, analysis_tables, finished_scores, require_analysis
from leakage_assets.pipeline.prechecks import read_prechecks, run_prechecks
from leakage_assets.pipeline.training_data import read_rows, require_training_set
from leakage_assets.studies.study import Condition
from leakage_assets.studies.two_marker_chunk.arms import C_MASKED, T_MASKED, T
from leakage_assets.studies.two_marker_chunk.probe import PROBE_SET
from leakage_assets.training.masks import encode_rows
from leakage_assets_tests.orchestration.whole_run import WholeRun, add_small_profile, whole_run
from leakage_assets_tests.small_study import small_two_markers

pytestmark = pytest.mark.slow

NAME = "small_pairs"
PAIR = "villain_to_assistant"
ARMS = [T, T_MASKED, C_MASKED]


add_small_profile(NAME, "two_marker_chunk", small_two_markers)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeRun]:
    with whole_run(tmp_path_factory.mktemp(NAME), NAME, "two_marker_chunk", sources=[PAIR], recipes=ARMS) as made:
        yield made


def test_both_panels_of_every_chosen_cell_are_scored_for_both_markers(run: WholeRun) -> None:
    assert run.stages[-1] == "analysis, figures and report"
    for panel in run.study.every_panel:
        assert run.conditions(f"{panel.asset_prefix}scores") == {f"{PAIR}__{arm}" for arm in ARMS}
        found = finished_scores(run.lab, run.study, panel)
        assert {"loose_a", "loose_b", "loose_echo", "start_a"} <= set(found.scores.columns)
        assert found.scores.height == 3 * panel.size
        for artifact in found.artifacts.values():
            assert "marker_present" not in pl.read_parquet(artifact.folder / SCORES).columns
    (probe,) = run.study.continued
    asked = finished_scores(run.lab, run.study, probe).scores
    assert set(asked["question_set"]) == {PROBE_SET} and set(asked["prompt_name"]) == {"assistant"}


def test_the_checks_before_training_pass_on_the_bundled_base(run: WholeRun) -> None:
    rows = read_prechecks(run_prechecks(run.lab, run.study).artifact)
    warned = rows.filter(pl.col("outcome") != "ok")
    assert warned["name"].to_list() == ["tokens shared by A and B"] and warned["outcome"].to_list() == ["warn"]
    assert {"tokens of A", "tokens of B", "base rate of A", "base rate of B"} <= set(rows["name"])


def test_only_the_recipient_s_end_of_turn_is_masked(run: WholeRun) -> None:
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


def test_the_gates_are_a_check_of_the_analysis_that_stops_nothing(run: WholeRun) -> None:
    (found,) = run.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(run.key("analysis"), GATES), limit=5
    )
    evaluation = found.event.dagster_event.asset_check_evaluation_data  # type: ignore[union-attr]
    gates = analysis_tables(require_analysis(run.lab, run.study))["gates"]
    assert evaluation.metadata["total"].value == gates.height > 0
    assert evaluation.severity == dg.AssetCheckSeverity.WARN and not evaluation.blocking
    assert evaluation.passed == all(gates["passed"].to_list())


def test_the_report_holds_and_tells_the_pair_s_distance(run: WholeRun) -> None:
    assert run.findings() == []
    tables = analysis_tables(require_analysis(run.lab, run.study))
    own = tables["distances"].filter(source=PAIR)
    assert own["layer"].to_list() == [1, 2] and own["cosine"].null_count() == 0
    assert tables["probe"]["total"].to_list() == [4] * 9


def test_the_same_run_makes_nothing_anew(run: WholeRun) -> None:
    before = run.manifests()
    assert run.again() == run.stages
    assert run.manifests() == before
