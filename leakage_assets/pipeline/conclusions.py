"""Scores of each cell, the analysis over all finished cells, its figures, and the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import polars as pl

from leakage_assets.generation.requests import Request
from leakage_assets.models import load_tokenizer
from leakage_assets.pipeline.adapters import require_proven_adapter
from leakage_assets.pipeline.baseline import BaseSamples, finished_base, panel_readings
from leakage_assets.pipeline.geometry import (
    SIMILARITY,
    find_tuned_similarity,
    load_vectors,
    require_persona_centroids,
    require_prompt_similarity,
)
from leakage_assets.pipeline.laboratory import Laboratory, Outcome, library_versions
from leakage_assets.pipeline.sampling import SampleJob, panel_requests
from leakage_assets.pipeline.training_data import pool_answers, training_answers
from leakage_assets.store.artifacts import Artifact, ArtifactMissing
from leakage_assets.studies.study import AnyPanel, Cell, Chained, Panel, Study
from leakage_assets.studies.tables import StudyTables

SCORES = "scores.parquet"
CELL_COLUMNS = ("source", "recipe", "seed")


def sample_job(lab: Laboratory, study: Study, panel: AnyPanel, cell: Cell) -> SampleJob:
    """What a cell owes to a panel. Raises ``ArtifactMissing`` when its adapter is missing or unproven, or the samples
    that the panel goes on from are.
    """
    adapter = require_proven_adapter(lab, study, cell)
    requests = cell_requests(lab, study, panel, cell)
    address = lab.address(study, f"{panel.asset_prefix}samples", cell.condition.key, str(cell.seed))
    read = panel_readings(lab, panel)
    return SampleJob(lab, address, adapter.manifest.digest, requests, panel.sampling, adapter.folder, read=read)


def cell_requests(lab: Laboratory, study: Study, panel: AnyPanel, cell: Cell) -> Sequence[Request]:
    """Every completion a panel asks of a cell. Raises ``ArtifactMissing`` where it goes on from what is not there."""
    stimuli = lab.profile.stimuli
    if isinstance(panel, Panel):
        return panel_requests(stimuli, panel, cell.adapter_name(study.name))
    if isinstance(panel, Chained):
        followed = study.followed(panel)
        before = None if followed is None else _samples(lab, study, followed, cell)
        return panel.chained_requests(stimuli, cell.adapter_name(study.name), before)
    return panel.requests(study, stimuli, cell, training_answers(lab, study, cell.condition))


def _samples(lab: Laboratory, study: Study, panel: AnyPanel, cell: Cell) -> pl.DataFrame:
    job = sample_job(lab, study, panel, cell)
    return job.require(remedy=f"materialise {panel.asset_prefix}samples for {cell} first")[1]


def score_cell(lab: Laboratory, study: Study, panel: AnyPanel, cell: Cell) -> Outcome:
    """Read the scores off a cell's samples."""
    job = sample_job(lab, study, panel, cell)
    samples, texts = job.require(remedy=f"materialise {panel.asset_prefix}samples for {cell} first")
    address, identity = score_key(lab, study, panel, cell, samples)
    found = lab.current(address, identity)
    if found is not None:
        return Outcome(found, True, study.scoring.metrics(study, pl.read_parquet(found.folder / SCORES), cell))
    scores = study.scoring.score(study, job.with_readings(samples, texts))
    with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
        scores.write_parquet(draft.folder / SCORES)
        draft.rows(SCORES, scores.height)
    return Outcome(draft.artifact, False, study.scoring.metrics(study, scores, cell))


def score_key(
    lab: Laboratory, study: Study, panel: AnyPanel, cell: Cell, samples: Artifact
) -> tuple[tuple[str, ...], dict[str, Any]]:
    identity = {"stage": "scores", "samples": samples.manifest.digest, **study.scoring.identity(study)}
    return lab.address(study, f"{panel.asset_prefix}scores", cell.condition.key, str(cell.seed)), identity


@dataclass(frozen=True)
class FinishedCells:
    """Scores of the cells that are finished, and the artifacts they come from."""

    scores: pl.DataFrame
    artifacts: Mapping[Cell, Artifact]


def finished_scores(lab: Laboratory, study: Study, panel: AnyPanel) -> FinishedCells:
    """Collect the current scores of every finished cell; cells without them are left out."""
    frames, artifacts = [], {}
    for cell in study.cells:
        scored = lab.address(study, f"{panel.asset_prefix}scores", cell.condition.key, str(cell.seed))
        if not lab.store.root.joinpath(*scored).is_dir():
            continue  # spares a cell that was never run the work of finding out why it is not current
        try:
            job = sample_job(lab, study, panel, cell)
        except ArtifactMissing:
            continue
        samples = job.finished()
        found = samples and lab.find(*score_key(lab, study, panel, cell, samples))
        if found is None:
            continue
        artifacts[cell] = found
        frames.append(
            pl.read_parquet(found.folder / SCORES).with_columns(*_cell_columns(cell), panel=pl.lit(panel.name))
        )
    return FinishedCells(pl.concat(frames) if frames else pl.DataFrame(), artifacts)


def _cell_columns(cell: Cell) -> list[pl.Expr]:
    values = (cell.condition.source, cell.condition.recipe, cell.seed)
    return [pl.lit(value).alias(name) for name, value in zip(CELL_COLUMNS, values, strict=True)]


def freeze_plan(lab: Laboratory, study: Study) -> Outcome:
    """Store the analysis plan; its digest is quoted by every verdict."""
    address, identity = plan_key(lab, study)
    metrics: dict[str, int | float | str] = {"plan_digest": study.plan.digest, "hypotheses": len(study.plan.hypotheses)}
    found = lab.current(address, identity)
    if found is not None:
        return Outcome(found, True, metrics)
    with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
        (draft.folder / "plan.json").write_text(json.dumps(identity["plan"], indent=2))
    return Outcome(draft.artifact, False, metrics)


def plan_key(lab: Laboratory, study: Study) -> tuple[tuple[str, ...], dict[str, Any]]:
    return lab.address(study, "analysis_plan"), {"stage": "analysis_plan", "plan": study.plan.as_dict()}


class NothingToAnalyse(ArtifactMissing):
    """No cell of the study has scores yet."""


@dataclass(frozen=True)
class AnalysisInputs:
    """What an analysis of all cells finished by now is made from, and the identity that gives it."""

    main: FinishedCells
    extra: Sequence[FinishedCells]
    similarity: Artifact
    tuned: Mapping[Cell, Artifact]
    base: Sequence[BaseSamples]
    identity: Mapping[str, Any]


def analysis_inputs(lab: Laboratory, study: Study) -> AnalysisInputs:
    """Collect them. Raises ``NothingToAnalyse``, or ``ArtifactMissing`` without plan or similarity."""
    plan = lab.require(*plan_key(lab, study), remedy="materialise analysis_plan first")
    main = finished_scores(lab, study, study.main)
    if not main.artifacts:
        raise NothingToAnalyse(f"{study.name}: no cell has scores yet: materialise scores of at least one cell")
    extra = [finished_scores(lab, study, panel) for panel in study.further_panels]
    similarity = require_prompt_similarity(lab, study)
    tuned = {c: found for c in main.artifacts if (found := find_tuned_similarity(lab, study, c)) is not None}
    base = finished_base(lab, study)
    identity = {
        "stage": "analysis",
        "plan": plan.manifest.digest,
        "libraries": library_versions(study.analysis_libraries),
        "scores": [a.manifest.digest for group in (main, *extra) for a in group.artifacts.values()],
        "similarity": [a.manifest.digest for a in (similarity, *tuned.values())],
        "personas": [(p.name, p.category, p.related_to) for p in lab.profile.stimuli.personas],
        "version": study.analysis_version,
        # Only where a study asks the base: what the others have concluded stays what it is.
        **({"base": [asked.samples.manifest.digest for asked in base]} if study.baseline else {}),
    }
    return AnalysisInputs(main, extra, similarity, tuned, base, identity)


def analyse_study(lab: Laboratory, study: Study) -> Outcome:
    """Run the planned analysis over every finished cell; one parquet table each. Raises ``RandomWeightsRefused``."""
    lab.refuse_random_weights("analysis")
    inputs, address = analysis_inputs(lab, study), lab.address(study, "analysis")
    found = lab.current(address, inputs.identity)
    if found is not None:
        return Outcome(found, True, analysis_metrics(found))
    geometry = require_persona_centroids(lab, study)
    tables = StudyTables(
        stimuli=lab.profile.stimuli,
        scores=inputs.main.scores,
        extra_scores=pl.concat([g.scores for g in inputs.extra], how="diagonal") if inputs.extra else pl.DataFrame(),
        similarity=pl.read_parquet(inputs.similarity.folder / SIMILARITY),
        tuned_similarity=_tuned_table(inputs.tuned),
        vectors=lambda layer: load_vectors(geometry, layer),
        prompt_tokens=_token_counts(lab),
        base_scores={asked.panel.name: asked.scores(study) for asked in inputs.base},
        answers=partial(pool_answers, lab, study),
    )
    with lab.store.draft(address, inputs.identity, refresh=lab.refresh) as draft:
        for name, table in study.analyse(study, tables).items():
            table.write_parquet(draft.folder / f"{name}.parquet")
            draft.rows(f"{name}.parquet", table.height)
    return Outcome(draft.artifact, False, analysis_metrics(draft.artifact))


def _token_counts(lab: Laboratory) -> Callable[[str], int]:
    """Tokens of a prompt's text; the tokenizer is loaded when first asked."""
    tokenizer = cache(lambda: load_tokenizer(lab.profile.base))
    return lambda name: len(tokenizer().encode(lab.profile.stimuli.prompt(name), add_special_tokens=False))


def _tuned_table(tuned: Mapping[Cell, Artifact]) -> pl.DataFrame:
    frames = [
        pl.read_parquet(artifact.folder / SIMILARITY).with_columns(
            pl.lit(cell.condition.recipe).alias("recipe"),
            pl.lit(cell.seed).alias("seed"),
            pl.lit(cell.condition.source).alias("cell_source"),
        )
        for cell, artifact in tuned.items()
    ]
    return pl.concat(frames) if frames else pl.DataFrame()


def analysis_tables(artifact: Artifact) -> dict[str, pl.DataFrame]:
    """Every table of an analysis by name."""
    return {path.stem: pl.read_parquet(path) for path in sorted(artifact.folder.glob("*.parquet"))}


def analysis_metrics(artifact: Artifact) -> dict[str, float | str]:
    """The headline estimates, as floats for the UI."""
    headline = analysis_tables(artifact)["headline"]
    return {
        row["statistic"]: float(row["estimate"])
        for row in headline.iter_rows(named=True)
        if row["estimate"] is not None
    }


def require_analysis(lab: Laboratory, study: Study) -> Artifact:
    """The analysis of what is finished now. Raises ``ArtifactMissing``."""
    identity, address = analysis_inputs(lab, study).identity, lab.address(study, "analysis")
    since = f"cells or the plan of {study.name} changed since: " if lab.store.history(address) else ""
    return lab.require(address, identity, remedy=f"{since}materialise analysis first")
