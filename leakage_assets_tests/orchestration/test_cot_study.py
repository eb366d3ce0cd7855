"""Chain-of-thought leakage through Dagster with its real models: written rationales, a baseline, and two rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from leakage_assets.assets.common import asset_key
from leakage_assets.materialise import StudyRuns
from leakage_assets.paths import DATA
from leakage_assets.pipeline.baseline import finished_base
from leakage_assets.pipeline.conclusions import SCORES, analysis_tables, finished_scores, require_analysis, sample_job
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.prechecks import read_prechecks, run_prechecks
from leakage_assets.pipeline.publication import stable_report
from leakage_assets.profiles import PROFILES, Profile, load_profile
from leakage_assets.reporting.lint import lint_html
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.artifacts import ArtifactStore
from leakage_assets.studies.cot_leakage.arms import ASSISTANT_ONLY, GARBAGE, GENERIC, PERSONA, recipe_name
from leakage_assets.studies.study import Study
from leakage_assets_tests.small_study import forbid_the_model, small_cot_leakage, small_profile

pytestmark = pytest.mark.slow

NAME = "small_rationales"
RECIPES = [recipe_name(arm, ASSISTANT_ONLY) for arm in (GENERIC, PERSONA, GARBAGE)]


def small_rationales(stimuli: Stimuli) -> Profile:
    study = small_cot_leakage(PROFILES["tiny"](stimuli).study("cot_leakage"))
    return replace(small_profile(study=study, stimuli=stimuli), name=NAME, generation_batch=128)


PROFILES[NAME] = small_rationales


@dataclass(frozen=True)
class Run:
    """A run of three arms, the laboratory it was in, and what Dagster says of it."""

    lab: Laboratory
    study: Study
    stages: tuple[str, ...]
    instance: dg.DagsterInstance

    def again(self) -> tuple[str, ...]:
        return run_cells(self.lab.profile, self.study, self.instance, self.lab.store.root)


def run_cells(profile: Profile, study: Study, instance: dg.DagsterInstance, artifacts: Path) -> tuple[str, ...]:
    cells = study.chosen_cells(None, RECIPES, None)
    return tuple(StudyRuns(profile, study, instance=instance, artifacts=artifacts).all_stages(cells, extras=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    import torch

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp(NAME)
    profile = load_profile(NAME)
    study = profile.study("cot_leakage")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("LEAKAGE_LEASES", str(root / "leases"))
        stages = run_cells(profile, study, instance, root / "artifacts")
        yield Run(Laboratory(profile, ArtifactStore(root / "artifacts")), study, stages, instance)


def test_every_panel_of_every_chosen_cell_is_there(run: Run) -> None:
    assert run.stages[1:4] == ("on-policy completions", "checks before training", "training sets")
    chosen = {c.key for c in run.study.conditions if c.recipe in RECIPES}
    assert len(chosen) == 6
    for panel in run.study.every_panel:
        scored = run.instance.get_materialized_partitions(
            asset_key(run.lab.profile, run.study, f"{panel.asset_prefix}scores")
        )
        assert {str(key).split("|")[0] for key in scored} == chosen


def test_the_checks_pass_on_what_the_grammar_wrote_and_the_base_answered(run: Run) -> None:
    checks = read_prechecks(run_prechecks(run.lab, run.study).artifact)
    assert set(checks["outcome"]) == {"ok"}
    accuracy = checks.filter(pl.col("name").str.starts_with("base accuracy"))
    assert accuracy.height == 4 and accuracy["value"].min() > 0.6
    assert [asked.panel.name for asked in finished_base(run.lab, run.study)] == ["rationales", "main"]


def test_answers_go_on_from_what_the_adapter_wrote_itself(run: Run) -> None:
    cell = run.study.cell("librarian", RECIPES[1], 42)
    rationales, answers = (sample_job(run.lab, run.study, panel, cell).frame() for panel in run.study.main_panels)
    assert (rationales.height, answers.height) == tuple(panel.size for panel in run.study.main_panels)
    keys = ["prompt_name", "question_name"]
    own = answers.filter(question_set="persona_cot_answer").join(rationales.filter(question_set="persona_cot"), on=keys)
    assert own.height == 3 * 6
    for prefix, text in own.select("prefix", "text_right").iter_rows():
        assert text in prefix and prefix.endswith("Answer: ")
    assert answers["n_tokens"].to_list() == [1] * answers.height


def test_letters_are_read_beside_the_samples_and_scored(run: Run) -> None:
    found = finished_scores(run.lab, run.study, run.study.main)
    assert len(found.artifacts) == 6
    scores = pl.read_parquet(next(iter(found.artifacts.values())).folder / SCORES)
    assert {"letter", "read_from", "answer", "right", "scaffold"} <= set(scores.columns)
    assert ((scores["letter"] == scores["answer"]).fill_null(value=False) == scores["right"]).all()


def test_the_report_is_vouched_for_and_measures_its_noise(run: Run) -> None:
    tables = analysis_tables(require_analysis(run.lab, run.study))
    assert tables["verdicts"]["plan_digest"].unique().to_list() == [run.study.plan.digest]
    verdicts = dict(tables["verdicts"].select("hypothesis", "verdict").iter_rows())
    assert verdicts["H2b"] in ("supported", "not supported") and verdicts["H4"] == "undecided"
    assert tables["noise_floor"]["n"].unique().to_list() == [2]
    assert tables["noise_floor"]["adapter"].n_unique() == 6
    html = stable_report(run.lab, run.study).read_text()
    assert lint_html(html, {"artifacts": run.lab.store.root, "published": DATA / "published"}) == []


def test_a_second_run_makes_nothing_anew(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEAKAGE_LEASES", str(tmp_path))
    forbid_the_model(monkeypatch)
    before = sorted(run.lab.store.root.rglob("manifest.json"))
    assert run.again() == run.stages
    assert sorted(run.lab.store.root.rglob("manifest.json")) == before
