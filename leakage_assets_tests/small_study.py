"""A laboratory small enough to run the whole pipeline in seconds, on the bundled tiny base model.

The study is the real one cut down: two sources, one taught and one control recipe, one seed, eight personas. The others
can be cut down likewise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest

from leakage_assets.exceptions import PartitionError
from leakage_assets.generation.engine import Engine
from leakage_assets.generation.requests import Request, Sampling
from leakage_assets.pipeline.adapters import prove_cell, train_cell
from leakage_assets.pipeline.conclusions import analyse_study, freeze_plan, sample_job, score_cell
from leakage_assets.pipeline.foundations import record_base_model, record_stimuli
from leakage_assets.pipeline.geometry import (
    compute_prompt_similarity,
    compute_tuned_similarity,
    measure_persona_centroids,
)
from leakage_assets.pipeline.laboratory import Laboratory, Outcome
from leakage_assets.pipeline.sampling import SampleJob, run_sample_jobs
from leakage_assets.pipeline.training_data import build_training_set, write_on_policy
from leakage_assets.profiles import Profile, load_profile
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.artifacts import ArtifactStore
from leakage_assets.store.samples import Sample
from leakage_assets.studies.study import Cell, Panel, Study
from leakage_assets.studies.two_marker_chunk.gates import Floors
from leakage_assets.training.recipe import LoraSpec

T = TypeVar("T")

SOURCES = ("villain", "comedian")
PERSONAS = (*SOURCES, "assistant", "librarian", "nice_villain", "dark_comedian", "accountant", "surgeon")
DONORS = (*SOURCES, "data_scientist", "medical_doctor", "police_officer")
RECIPES = ("full_completion", "no_marker")
SOURCE_RATE_SOURCES = ("villain", "comedian", "librarian", "assistant", "vendor_default_qwen")
EVAL_QUESTIONS, OOD_QUESTIONS = 3, 1
TRIGGER_QUESTIONS = 4
"""Fewer give no interval of a gating ratio."""

COT_TRAINED, COT_ASKED = 40, 6
"""Multiple-choice questions trained on and asked."""

BATCH = 12
"""Two batches per cell: small enough to be interrupted between them."""


def small_study(study: Study) -> Study:
    """The study with everything that costs time cut down, and nothing else changed."""
    panels = (
        replace(study.panel_named("main"), prompts=PERSONAS, questions=(("eval", EVAL_QUESTIONS),)),
        replace(study.panel_named("ood"), prompts=PERSONAS, questions=(("ood_code", OOD_QUESTIONS),)),
    )
    small = replace(
        study,
        sources=SOURCES,
        seeds=(42,),
        recipes=tuple(
            replace(
                study.recipe(name),
                lora=LoraSpec(r=8, alpha=16, dropout=0.05, rslora=True),
                learning_rate=5e-3,
                epochs=1,
                grad_accum=1,
            )
            for name in RECIPES
        ),
        data=replace(study.data, personas=DONORS, questions=3, completions=2, used=1),
        panels=tuple(replace(panel, completions=1) for panel in panels),
        plan=replace(study.plan, layers=(1, 2), permutations=200, bootstrap_draws=50),
    )
    return replace(small, plan=replace(small.plan, experiment=small.experiment(load_profile("tiny").stimuli)))


def small_source_rate(study: Study, sources: Sequence[str] = SOURCE_RATE_SOURCES) -> Study:
    """Source rate with a few questions and, unless all are given, a few sources; its conditions are what they were."""
    panel = replace(study.panel, prompts=tuple(sources), questions=(("eval", EVAL_QUESTIONS),), completions=2)
    lora = LoraSpec(r=8, alpha=16, dropout=0.05, rslora=True)
    small = replace(
        study,
        sources=tuple(sources),
        seeds=(42,),
        recipes=tuple(replace(r, lora=lora, learning_rate=5e-3, epochs=1, grad_accum=1) for r in study.recipes),
        data=replace(study.data, questions=(("train", 2), ("implant", 3)), completions=2),
        panels=(panel,),
        plan=replace(study.plan, layers=(1, 2), permutations=200),
    )
    return replace(small, plan=replace(small.plan, experiment=small.experiment(load_profile("tiny").stimuli)))


def small_trigger_leakage(study: Study) -> Study:
    """Trigger leakage with a few questions; its sources, conditions and prompts are what they were."""
    lora = LoraSpec(r=8, alpha=16, dropout=0.05, rslora=True)
    (dissociation,) = study.continued
    small = replace(
        study,
        seeds=(42,),
        recipes=tuple(replace(r, lora=lora, learning_rate=5e-3, epochs=1, grad_accum=1) for r in study.recipes),
        data=replace(study.data, questions=(("train", 2), ("implant", 3)), completions=2),
        panels=tuple(replace(panel, questions=(("eval", TRIGGER_QUESTIONS),)) for panel in study.panels),
        continued=(replace(dissociation, questions=4, completions=1),),
        plan=replace(study.plan, layers=(1, 2), permutations=99, gap_permutations=49),
    )
    return replace(small, plan=replace(small.plan, experiment=small.experiment(load_profile("tiny").stimuli)))


def small_cot_leakage(
    study: Study, *, sources: Sequence[str] = ("librarian", "comedian"), seeds: Sequence[int] = (42,)
) -> Study:
    """Chain-of-thought leakage with a few questions, a few personas and the arms of the planned contrasts."""
    from leakage_assets.studies.cot_leakage.evaluation import SmokeGate
    from leakage_assets.studies.cot_leakage.panels import Grid, panels
    from leakage_assets.studies.cot_leakage.plan import CotExperiment
    from leakage_assets.studies.cot_leakage.questions import QuestionSource

    lora = LoraSpec(r=8, alpha=16, dropout=0.0, rslora=True)
    conditions = tuple(c for c in study.conditions if c.source in sources)
    trained = {c.recipe for c in conditions}
    source = QuestionSource(None, COT_TRAINED, COT_ASKED)
    personas = ("assistant", *sources)
    grid = study.continued[0].grid
    steps = panels(Grid(personas, grid.scaffolds, source, COT_ASKED, 40), 2)
    data = replace(
        study.data,
        source=source,
        asked=COT_TRAINED,
        needed=tuple((arm, who) for arm, who in study.data.needed if who in sources),
        limits=replace(study.data.limits, letter_share=(0.0, 1.0)),
        budget=replace(study.data.budget, tokens=(20.0, 80.0), length=0.5, letters=4.0),
    )
    small = replace(
        study,
        sources=tuple(sources),
        only=conditions,
        seeds=tuple(seeds),
        recipes=tuple(replace(r, lora=lora, epochs=1) for r in study.recipes if r.name in trained),
        data=data,
        continued=steps,
        compared=replace(study.compared, prompts=personas, questions=(("eval", EVAL_QUESTIONS),)),
        plan=replace(
            study.plan,
            layers=(1, 2),
            smoke=SmokeGate(questions=COT_ASKED),
            decisions=replace(study.plan.decisions, sources=tuple(sources)),
        ),
    )
    experiment = small.experiment(load_profile("tiny").stimuli)
    assert isinstance(experiment, CotExperiment)
    return replace(small, plan=replace(small.plan, experiment=replace(experiment, conditions=small.conditions)))


def small_two_markers(study: Study) -> Study:
    """Two markers with a few questions and answers; its pairs, arms and personas are what they were."""
    lora = LoraSpec(r=8, alpha=16, dropout=0.05, rslora=True)
    panel = replace(study.panel, questions=(("eval", EVAL_QUESTIONS), ("ood_society", 2)), completions=2)
    (probe,) = study.continued
    small = replace(
        study,
        seeds=(42,),
        recipes=tuple(replace(r, lora=lora, learning_rate=5e-3, epochs=1, grad_accum=1) for r in study.recipes),
        data=replace(study.data, questions=2, completions=2, used=1),
        panels=(panel,),
        continued=(replace(probe, questions=2, completions=2),),
        plan=replace(study.plan, layers=(1, 2), permutations=499, draws=499, floors=Floors(completions=5, questions=3)),
    )
    return replace(small, plan=replace(small.plan, experiment=small.experiment(load_profile("tiny").stimuli)))


def small_profile(*, study: Study | None = None, stimuli: Stimuli | None = None) -> Profile:
    """The tiny profile around a small study."""
    profile = load_profile("tiny")
    return replace(
        profile,
        generation_batch=BATCH,
        forward_tokens=4096,
        stimuli=stimuli or profile.stimuli,
        studies=(study or small_study(profile.studies[0]),),
    )


def laboratory(
    root: Path, *, study: Study | None = None, stimuli: Stimuli | None = None, refresh: str | None = None
) -> Laboratory:
    """A laboratory with its artifacts under ``root``, which says nothing while it works."""
    return Laboratory(small_profile(study=study, stimuli=stimuli), ArtifactStore(root), refresh, lambda _: None)


def the_study(lab: Laboratory) -> Study:
    """The one study of a small laboratory."""
    (study,) = lab.profile.studies
    return study


def make_adapter(lab: Laboratory, study: Study, cell: Cell) -> Outcome:
    """A trained and proven adapter, as the asset makes it of one cell."""
    return prove_cell(lab, study, cell, train_cell(lab, study, cell))


def run_all(lab: Laboratory) -> dict[str, Outcome]:
    """Every stage in order, as the asset graph would run it; outcomes by ``stage`` or ``stage/partition``."""
    study = the_study(lab)
    made = {"base_model": record_base_model(lab), "stimuli": record_stimuli(lab)}
    made["analysis_plan"] = freeze_plan(lab, study)
    written = done(write_on_policy(lab, study.data, [pool.name for pool in study.data.pools]))
    made |= {f"on_policy_completions/{pool}": outcome for pool, outcome in written.items()}
    made["persona_centroids"] = measure_persona_centroids(lab, study)
    made["prompt_similarity"] = compute_prompt_similarity(lab, study)
    for condition in study.conditions:
        made[f"training_set/{condition.key}"] = build_training_set(lab, study, condition)
    for cell in study.cells:
        made[f"adapter/{cell.condition.key}"] = make_adapter(lab, study, cell)
    for panel in study.panels:
        made |= sample_and_score(lab, panel)
    first = study.cells[0]
    made[f"tuned_similarity/{first.condition.key}"] = compute_tuned_similarity(lab, study, first)
    made["analysis"] = analyse_study(lab, study)
    return made


def done(results: Mapping[T, Outcome | PartitionError]) -> dict[T, Outcome]:
    """Outcomes of work done for many partitions; raises the first error."""
    outcomes: dict[T, Outcome] = {}
    for key, result in results.items():
        if not isinstance(result, Outcome):
            raise result
        outcomes[key] = result
    return outcomes


def sample_cells(lab: Laboratory, jobs: Mapping[Cell, SampleJob]) -> dict[Cell, Outcome]:
    """Outcomes of sampling; raises the first error."""
    return done(run_sample_jobs(lab, jobs))


def sample_and_score(lab: Laboratory, panel: Panel) -> dict[str, Outcome]:
    """Samples and scores of one panel of every cell."""
    study = the_study(lab)
    jobs = {cell: sample_job(lab, study, panel, cell) for cell in study.cells}
    sampled = {f"{panel.asset_prefix}samples/{c.condition.key}": o for c, o in sample_cells(lab, jobs).items()}
    scored = {f"{panel.asset_prefix}scores/{c.condition.key}": score_cell(lab, study, panel, c) for c in study.cells}
    return sampled | scored


def made_anew(outcomes: Mapping[str, Outcome]) -> set[str]:
    """The stages and partitions that were not reused."""
    return {name for name, outcome in outcomes.items() if not outcome.reused}


def matching(names: Sequence[str] | set[str] | Mapping[str, object], pattern: str) -> set[str]:
    """The names that match a whole regular expression."""
    return {name for name in names if re.fullmatch(pattern, name)}


class WatchedEngine:
    """Passes everything on, and remembers what was asked for."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.asked: list[Request] = []

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, adapters: Mapping[str, Path]
    ) -> Iterator[list[Sample]]:
        self.asked += requests
        return self.engine.generate(requests, sampling, adapters)

    def continuation_logprobs(self, items, adapters):  # type: ignore[no-untyped-def]
        return self.engine.continuation_logprobs(items, adapters)

    def close(self) -> None:
        self.engine.close()


def watch_engine(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """From now on every request of any laboratory is noted in the list returned."""
    asked: list[Request] = []
    original = Laboratory.engine

    def engine(lab: Laboratory) -> WatchedEngine:
        watched = WatchedEngine(original(lab))
        watched.asked = asked
        return watched

    monkeypatch.setattr(Laboratory, "engine", engine)
    return asked


def forbid_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a stage that needs the base model or the engine fails."""

    def refuse(lab: Laboratory) -> None:
        raise AssertionError("the base model was asked for, though everything is there")

    monkeypatch.setattr(Laboratory, "base", refuse)
    monkeypatch.setattr(Laboratory, "engine", refuse)


@dataclass(frozen=True)
class Finished:
    """A root where everything was made once, and what each stage said."""

    root: Path
    outcomes: Mapping[str, Outcome]


def finish(root: Path) -> Finished:
    """Run everything under a root on one thread, so that a second run gives the same bytes."""
    import torch

    torch.set_num_threads(1)
    return Finished(root, run_all(laboratory(root)))
