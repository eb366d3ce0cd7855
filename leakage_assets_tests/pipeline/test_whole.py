"""The pipeline from base model to analysis on a small study, and what each change makes anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from leakage_assets.generation.requests import sample_id
from leakage_assets.pipeline.adapters import adapter_address, adapter_identity
from leakage_assets.pipeline.conclusions import (
    SCORES,
    analyse_study,
    analysis_tables,
    sample_job,
    score_cell,
)
from leakage_assets.pipeline.geometry import load_divergence, load_vectors
from leakage_assets.pipeline.laboratory import Outcome
from leakage_assets.pipeline.training_data import build_training_set, on_policy_job, read_rows
from leakage_assets.profiles import load_profile
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.artifacts import ArtifactMissing
from leakage_assets.store.samples import SampleStore
from leakage_assets.studies.study import Condition, Panel, Study
from leakage_assets_tests.small_study import (
    DONORS,
    PERSONAS,
    SOURCES,
    Finished,
    forbid_the_model,
    laboratory,
    made_anew,
    make_adapter,
    matching,
    run_all,
    sample_cells,
    small_profile,
    the_study,
    watch_engine,
)

pytestmark = pytest.mark.slow

DOWNSTREAM_OF_ADAPTERS = r"(ood_)?(samples|scores)|tuned_similarity"


@pytest.fixture(scope="module")
def study() -> Study:
    return small_profile().studies[0]


def with_panel(study: Study, panel: Panel) -> Study:
    return replace(study, panels=(panel, *study.panels[1:]))


def with_prompt(stimuli: Stimuli, name: str, prompt: str) -> Stimuli:
    """The stimuli with one persona's prompt changed."""
    personas = tuple(p.model_copy(update={"prompt": prompt}) if p.name == name else p for p in stimuli.personas)
    return stimuli.model_copy(update={"personas": personas})


def digests(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    return {name: outcome.artifact.manifest.digest for name, outcome in outcomes.items()}


def test_everything_is_made(finished: Finished, study: Study) -> None:
    made = finished.outcomes
    assert made_anew(made) == set(made)
    assert len(matching(made, "adapter/.*")) == len(study.cells) == 4
    for name in matching(made, r"samples/.*"):
        assert made[name].metrics["samples"] == study.panel.size == 24
    for name in matching(made, r"ood_samples/.*"):
        assert made[name].metrics["samples"] == 8
    for persona in DONORS:
        assert made[f"on_policy_completions/{persona}"].metrics["samples"] == 6
    for condition in study.conditions:
        metrics = made[f"training_set/{condition.key}"].metrics
        assert metrics == {"rows": 9, "positives": 3, "negatives": 6}
        mask = pl.read_parquet(made[f"training_set/{condition.key}"].artifact.folder / "mask.parquet")
        assert mask["row"].n_unique() == 6
        assert mask.group_by("row").agg(pl.col("loss").any())["loss"].all()
        adapter = made[f"adapter/{condition.key}"]
        assert adapter.metrics["steps"] == 3
        assert adapter.metrics["proof_applied"] > 0
    assert made["analysis_plan"].metrics["plan_digest"] == study.plan.digest


def test_tables_fit_the_study(finished: Finished, study: Study) -> None:
    made = finished.outcomes
    tables = analysis_tables(made["analysis"].artifact)
    assert {"headline", "verdicts", "rates", "pairs", "correlations", "seeds", "ood", "tuned"} <= tables.keys()
    assert tables["pairs"].height == 2 * 2 * len(SOURCES) * len(PERSONAS)  # recipes, layers
    assert set(tables["correlations"]["recipe"]) == {"full_completion"}
    assert tables["verdicts"]["plan_digest"].unique().to_list() == [study.plan.digest]
    control = tables["headline"].filter(statistic="control_marker_rate")
    assert control["estimate"].to_list() == [0.0]  # the bundled model never says the marker unprompted
    assert control["n"].to_list() == [2 * study.panel.size]
    for condition in study.conditions:
        scores = pl.read_parquet(made[f"scores/{condition.key}"].artifact.folder / SCORES)
        own = scores.filter(prompt_name=condition.source)
        assert scores.height == 24
        assert made[f"scores/{condition.key}"].metrics["source_rate"] == own["marker_present"].mean()
    geometry = made["persona_centroids"].artifact
    assert load_vectors(geometry, 1).shape == (8, 3, 192)
    divergence = load_divergence(geometry)
    assert divergence.shape == (8, len(SOURCES))
    similarity = pl.read_parquet(made["prompt_similarity"].artifact.folder / "similarity.parquet")
    assert similarity.height == 3 * len(SOURCES) * len(PERSONAS)  # two layers and the divergence
    own = similarity.filter(pl.col("source") == pl.col("prompt_name"))
    assert own.filter(measure="cosine")["value"].to_list() == pytest.approx([1.0] * 4, abs=1e-5)
    assert own.filter(measure="js_divergence")["value"].to_list() == pytest.approx([0.0] * 2, abs=1e-5)


def test_a_second_run_finds_everything_and_needs_no_model(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_the_model(monkeypatch)
    again = run_all(laboratory(finished.root))
    assert made_anew(again) == set()
    assert digests(again) == digests(finished.outcomes)
    assert {name: outcome.metrics for name, outcome in again.items()} == {
        name: outcome.metrics for name, outcome in finished.outcomes.items()
    }


def test_ten_more_personas_cost_exactly_their_samples(
    root: Path, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = study.cells[0]
    names = [p.name for p in load_profile("tiny").stimuli.personas if p.name not in PERSONAS]
    new = names[:10]
    larger = with_panel(study, replace(study.panel, prompts=(*new[:5], *PERSONAS, *new[5:])))
    lab, before = laboratory(root, study=larger), laboratory(root)
    old_job = sample_job(before, study, study.panel, cell)
    old_frame, old_shards = old_job.frame(), set(old_job.store.shards())
    old_scores = pl.read_parquet(score_cell(before, study, study.panel, cell).artifact.folder / SCORES)
    asked = watch_engine(monkeypatch)
    assert make_adapter(lab, larger, cell).reused
    job = sample_job(lab, larger, larger.panel, cell)
    assert job.store.folder == old_job.store.folder
    assert not sample_cells(lab, {cell: job})[cell].reused
    assert {(r.prompt_name, r.question_name, r.index) for r in asked} == {
        (persona, q.name, 0) for persona in new for q in lab.profile.stimuli.questions("eval")[:3]
    }
    assert len(asked) == 30
    assert old_shards < set(job.store.shards())
    assert job.store.ids() == {sample_id(r, job.sampling) for r in job.requests}
    assert job.frame().height == 54
    assert job.frame().filter(pl.col("prompt_name").is_in(PERSONAS)).equals(old_frame)
    scores = pl.read_parquet(score_cell(lab, larger, larger.panel, cell).artifact.folder / SCORES)
    assert scores.filter(pl.col("prompt_name").is_in(PERSONAS)).equals(old_scores)

    assert sample_cells(lab, {cell: job})[cell].reused  # asked again, and for a part of it: nothing new
    part = with_panel(study, replace(study.panel, prompts=(*SOURCES, *new[:3])))
    some = sample_job(laboratory(root, study=part), part, part.panel, cell)
    assert sample_cells(laboratory(root, study=part), {cell: some})[cell].metrics["samples"] == 15
    assert len(asked) == 30


def test_a_refresh_token_redoes_once_and_only_once(
    root: Path, finished: Finished, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = watch_engine(monkeypatch)
    plain, renewed = laboratory(root), laboratory(root, refresh="monday")
    cell = study.cells[0]

    def make(lab):  # type: ignore[no-untyped-def]
        adapter = make_adapter(lab, study, cell)
        sampled = sample_cells(lab, {cell: sample_job(lab, study, study.panel, cell)})[cell]
        return [adapter, sampled, score_cell(lab, study, study.panel, cell)]

    before = make(plain)
    assert ([outcome.reused for outcome in before], len(asked)) == ([True] * 3, 0)
    store = sample_job(plain, study, study.panel, cell).store
    shards = store.shards()
    again = make(renewed)
    assert ([outcome.reused for outcome in again], len(asked)) == ([False] * 3, 24)
    assert {o.artifact.manifest.provenance["refresh"] for o in again} == {"monday"}
    # Same seeds on the same machine: another run of the same cell gives the very same artifacts.
    assert [o.artifact.manifest.digest for o in again] == [o.artifact.manifest.digest for o in before]
    archived = SampleStore(store.folder.with_name("superseded-1"))
    assert [shard.name for shard in archived.shards()] == [shard.name for shard in shards]
    for lab in (renewed, plain, renewed):
        assert [outcome.reused for outcome in make(lab)] == [True] * 3
    assert len(asked) == 24
    assert not store.folder.with_name("superseded-2").exists()
    other = laboratory(root, refresh="tuesday")
    assert not sample_cells(other, {cell: sample_job(other, study, study.panel, cell)})[cell].reused
    assert len(asked) == 48
    # A larger panel under a token that was used already keeps what that token made.
    larger = with_panel(study, replace(study.panel, prompts=(*PERSONAS, "lawyer")))
    lab = laboratory(root, study=larger, refresh="tuesday")
    sample_cells(lab, {cell: sample_job(lab, larger, larger.panel, cell)})
    assert [request.prompt_name for request in asked[48:]] == ["lawyer"] * 3


def test_a_bystanders_prompt_changes_its_samples_and_the_geometry(
    root: Path, finished: Finished, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "accountant" not in DONORS
    asked = watch_engine(monkeypatch)
    stimuli = with_prompt(load_profile("tiny").stimuli, "accountant", "You are an accountant who counts sheep.")
    made = made_anew(run_all(laboratory(root, stimuli=stimuli)))
    geometry = {"stimuli", "persona_centroids", "prompt_similarity", "analysis"}
    assert made == geometry | matching(finished.outcomes, rf"({DOWNSTREAM_OF_ADAPTERS})/.*")
    assert {(r.prompt_name, r.system) for r in asked} == {("accountant", stimuli.prompt("accountant"))}
    assert len(asked) == len(study.cells) * 4


def test_a_donors_prompt_changes_the_conditions_that_learn_from_it(
    root: Path, finished: Finished, study: Study
) -> None:
    taught = {source: set(study.donors(study, Condition(source, "no_marker"))) for source in SOURCES}
    (donor,) = taught["comedian"] - taught["villain"] - set(PERSONAS)
    stimuli = with_prompt(load_profile("tiny").stimuli, donor, "You are someone else altogether.")
    made = made_anew(run_all(laboratory(root, stimuli=stimuli)))
    assert made == {
        "stimuli",
        "analysis",
        f"on_policy_completions/{donor}",
        *matching(finished.outcomes, rf"(training_set|adapter|{DOWNSTREAM_OF_ADAPTERS})/comedian__.*"),
    }


def test_a_recipe_changes_its_own_adapters_and_what_follows_from_them(
    root: Path, finished: Finished, study: Study
) -> None:
    recipes = tuple(
        replace(recipe, learning_rate=1e-3) if recipe.name == "full_completion" else recipe for recipe in study.recipes
    )
    made = made_anew(run_all(laboratory(root, study=replace(study, recipes=recipes))))
    own = rf"(adapter|{DOWNSTREAM_OF_ADAPTERS})/.*__full_completion"
    assert made == {"analysis", *matching(finished.outcomes, own)}


def test_a_marker_changes_training_sets_and_what_follows_from_them(
    root: Path, finished: Finished, study: Study
) -> None:
    taught = replace(study, recipes=study.recipes[:1])
    assert made_anew(run_all(laboratory(root, study=taught))) == {"analysis"}  # cells left out, nothing else
    marker = load_profile("tiny").stimuli.markers["a"]
    made = run_all(laboratory(root, study=replace(taught, marker=marker)))
    own = rf"(training_set|adapter|{DOWNSTREAM_OF_ADAPTERS})/.*__full_completion"
    assert made_anew(made) == {"analysis", *matching(finished.outcomes, own)}
    rows = read_rows(made["training_set/villain__full_completion"].artifact)
    assert {row.completion.endswith(f"\n\n{marker}") for row in rows if row.role == "positive"} == {True}
    assert not any(study.marker in row.completion for row in rows)


def test_what_a_stage_is_made_of_changes_its_identity_and_nothing_else_does(root: Path, study: Study) -> None:
    cell = study.cells[0]
    lab = laboratory(root)
    identity = adapter_identity(lab, study, cell)
    elsewhere = replace(lab, profile=replace(lab.profile, generation_batch=3, forward_tokens=1, cells_per_run=1))
    assert adapter_identity(elsewhere, study, cell) == identity
    assert lab.find(adapter_address(lab, study, cell), identity) is not None
    job = sample_job(lab, study, study.panel, cell)
    assert sample_job(elsewhere, study, study.panel, cell).identity == job.identity
    hotter = replace(study.panel, sampling=replace(study.panel.sampling, temperature=0.5))
    assert sample_job(lab, study, hotter, cell).identity != job.identity
    other_use = replace(study, data=replace(study.data, used=2))
    with pytest.raises(ArtifactMissing, match="materialise training_set for villain__full_completion first"):
        adapter_identity(lab, other_use, cell)
    assert on_policy_job(lab, other_use.data, "villain").identity == on_policy_job(lab, study.data, "villain").identity
    assert not build_training_set(lab, other_use, cell.condition).reused
    assert len(read_rows(build_training_set(lab, other_use, cell.condition).artifact)) == 18


def test_a_persona_described_otherwise_is_analysed_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_the_model(monkeypatch)
    stimuli = load_profile("tiny").stimuli
    persona = stimuli.persona("surgeon")
    assert "villain" not in persona.related_to
    related = persona.model_copy(update={"related_to": (*persona.related_to, "villain")})
    changed = stimuli.model_copy(
        update={"personas": tuple(related if p.name == "surgeon" else p for p in stimuli.personas)}
    )
    lab = laboratory(root, stimuli=changed)
    outcome = analyse_study(lab, the_study(lab))
    assert not outcome.reused
    pairs = analysis_tables(outcome.artifact)["pairs"].filter(persona="surgeon", source="villain")
    assert pairs["related"].to_list() == [True] * 4


def test_unfinished_cells_are_left_out_of_the_analysis(root: Path, study: Study) -> None:
    lab = laboratory(root)
    for folder in root.glob("tiny/marker_leakage/scores/comedian__full_completion/42/*/*"):
        folder.unlink()
    for folder in root.glob("tiny/marker_leakage/scores/comedian__full_completion/42/????????????????"):
        folder.rmdir()
    outcome = analyse_study(lab, study)
    assert not outcome.reused
    rates = analysis_tables(outcome.artifact)["rates"].select("recipe", "source").unique()
    assert set(rates.iter_rows()) == {
        ("full_completion", "villain"),
        ("no_marker", "villain"),
        ("no_marker", "comedian"),
    }
    assert not score_cell(lab, study, study.panel, study.cells[1]).reused
    assert analyse_study(lab, study).artifact.manifest.digest != outcome.artifact.manifest.digest
