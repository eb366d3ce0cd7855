"""Chain-of-thought leakage through Dagster with its real models: written rationales, a baseline, and two rounds."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
import pytest

from leakage_assets.pipeline.baseline import finished_base
from leakage_assets.pipeline.conclusions import SCORES, analysis_tables, finished_scores, require_analysis, sample_job
from leakage_assets.pipeline.prechecks import read_prechecks, run_prechecks
from leakage_assets.studies.cot_leakage.arms import ASSISTANT_ONLY, GARBAGE, GENERIC, PERSONA, recipe_name
from leakage_assets_tests.orchestration.whole_run import WholeRun, add_small_profile, whole_run
from leakage_assets_tests.small_study import forbid_the_model, small_cot_leakage

pytestmark = pytest.mark.slow

NAME = "small_rationales"
RECIPES = [recipe_name(arm, ASSISTANT_ONLY) for arm in (GENERIC, PERSONA, GARBAGE)]


add_small_profile(NAME, "cot_leakage", small_cot_leakage)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeRun]:
    with whole_run(tmp_path_factory.mktemp(NAME), NAME, "cot_leakage", recipes=RECIPES) as made:
        yield made


def test_every_panel_of_every_chosen_cell_is_there(run: WholeRun) -> None:
    assert run.stages[1:4] == ("on-policy completions", "checks before training", "training sets")
    chosen = {c.key for c in run.study.conditions if c.recipe in RECIPES}
    assert len(chosen) == 6
    for panel in run.study.every_panel:
        assert run.conditions(f"{panel.asset_prefix}scores") == chosen


def test_the_checks_pass_on_what_the_grammar_wrote_and_the_base_answered(run: WholeRun) -> None:
    checks = read_prechecks(run_prechecks(run.lab, run.study).artifact)
    assert set(checks["outcome"]) == {"ok"}
    accuracy = checks.filter(pl.col("name").str.starts_with("base accuracy"))
    assert accuracy.height == 4 and accuracy["value"].min() > 0.6
    assert [asked.panel.name for asked in finished_base(run.lab, run.study)] == ["rationales", "main"]


def test_answers_go_on_from_what_the_adapter_wrote_itself(run: WholeRun) -> None:
    cell = run.study.cell("librarian", RECIPES[1], 42)
    rationales, answers = (sample_job(run.lab, run.study, panel, cell).frame() for panel in run.study.main_panels)
    assert (rationales.height, answers.height) == tuple(panel.size for panel in run.study.main_panels)
    keys = ["prompt_name", "question_name"]
    own = answers.filter(question_set="persona_cot_answer").join(rationales.filter(question_set="persona_cot"), on=keys)
    assert own.height == 3 * 6
    for prefix, text in own.select("prefix", "text_right").iter_rows():
        assert text in prefix and prefix.endswith("Answer: ")
    assert answers["n_tokens"].to_list() == [1] * answers.height


def test_letters_are_read_beside_the_samples_and_scored(run: WholeRun) -> None:
    found = finished_scores(run.lab, run.study, run.study.main)
    assert len(found.artifacts) == 6
    scores = pl.read_parquet(next(iter(found.artifacts.values())).folder / SCORES)
    assert {"letter", "read_from", "answer", "right", "scaffold"} <= set(scores.columns)
    assert ((scores["letter"] == scores["answer"]).fill_null(value=False) == scores["right"]).all()


def test_the_report_is_vouched_for_and_measures_its_noise(run: WholeRun) -> None:
    tables = analysis_tables(require_analysis(run.lab, run.study))
    assert tables["verdicts"]["plan_digest"].unique().to_list() == [run.study.plan.digest]
    verdicts = dict(tables["verdicts"].select("hypothesis", "verdict").iter_rows())
    assert verdicts["H2b"] in ("supported", "not supported") and verdicts["H4"] == "undecided"
    assert tables["noise_floor"]["n"].unique().to_list() == [2]
    assert tables["noise_floor"]["adapter"].n_unique() == 6
    assert run.findings() == []


def test_a_second_run_makes_nothing_anew(run: WholeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_the_model(monkeypatch)
    before = run.manifests()
    assert run.again() == run.stages
    assert run.manifests() == before
