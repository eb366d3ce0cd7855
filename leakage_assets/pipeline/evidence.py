"""What a report cites beside its analysis: coverage, set-up, drawn completions and one masked training row."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import polars as pl

from leakage_assets.paths import TINY_BASE
from leakage_assets.pipeline.conclusions import SCORES, finished_scores, plan_key, sample_job
from leakage_assets.pipeline.laboratory import Laboratory, library_versions
from leakage_assets.pipeline.training_data import read_rows, require_training_set, training_set_metrics
from leakage_assets.reporting.report import ArtifactFile, CodeBlock, ProvenanceRow, SampleRow, sample_rows
from leakage_assets.store.artifacts import Artifact
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.studies.context import STORE, ReportContext
from leakage_assets.studies.study import Cell, Chained, Condition, Panel, Study

SAMPLES_PER_KIND = 5
"""Completions drawn for each of source or bystander, with or without the marker."""

FACTS = "facts.json"
SECONDS = len("2026-01-01T00:00:00")
LINE = 66
"""Characters per line of the training row shown."""


@dataclass(frozen=True)
class AnalysedCells:
    """Scores of the cells that the current analysis read."""

    scores: Mapping[Cell, Artifact]

    def of_recipe(self, recipe: str) -> list[Cell]:
        return [cell for cell in self.scores if cell.condition.recipe == recipe]

    def frame(self, cell: Cell) -> pl.DataFrame:
        return pl.read_parquet(self.scores[cell].folder / SCORES)


def gather_evidence(lab: Laboratory, study: Study, analysis: Artifact, figures: Artifact) -> ReportContext:
    """Everything a report needs besides the tables; the facts are stored as an artifact of their own, so that the
    report can cite them."""
    plan = lab.require(*plan_key(lab, study), remedy="materialise analysis_plan first")
    analysed = AnalysedCells(finished_scores(lab, study, study.main).artifacts)
    shown = (analysed.of_recipe(study.plan.headline_recipe) or list(analysed.scores))[0]
    training_set = require_training_set(lab, study, shown.condition)
    facts = _facts(lab, study, analysed) | {
        "training_set": training_set_metrics(read_rows(training_set)),
        "plan": _plan_times(lab, study, plan),
    }
    stored = _store_facts(lab, study, analysis, facts)
    folders = {
        "analysis": analysis,
        "analysis plan": plan,
        "figures": figures,
        "facts": stored,
        "training row": training_set,
    }
    relative = {name: relative_folder(lab, artifact) for name, artifact in folders.items()}
    return ReportContext(
        analysis=relative["analysis"],
        plan=relative["analysis plan"],
        facts_folder=relative["facts"],
        facts=facts,
        samples=draw_samples(lab, study, _shown(lab, study, analysed), shown.condition.recipe),
        training_row=training_row(training_set, shown.condition),
        provenance=_provenance(lab, study, analysis, analysed, relative),
    )


def relative_folder(lab: Laboratory, artifact: Artifact) -> str:
    """An artifact's folder as addresses of cells name it."""
    return artifact.folder.relative_to(lab.store.root).as_posix()


def _facts(lab: Laboratory, study: Study, analysed: AnalysedCells) -> dict[str, Any]:
    panel, data, stimuli = study.main, study.data, lab.profile.stimuli
    prompts = panel.prompts if isinstance(panel, Panel | Chained) else study.panel.prompts
    return {
        "base": {"name": lab.profile.base.name, "bundled": lab.profile.base.name == TINY_BASE.name},
        "coverage": {
            "cells": len(analysed.scores),
            "cells_planned": len(study.cells),
            "completions": sum(map(_height, analysed.scores.values())),
            "sources_planned": len(study.sources),
            "seeds_planned": len(study.seeds),
            "seed_names": ", ".join(map(str, study.seeds)),
        },
        "recipes": {
            recipe.name: {
                "loss": recipe.loss,
                "tail_target": recipe.tail_target,
                "teaches_marker": recipe.teaches_marker,
                "learning_rate": recipe.learning_rate,
                "epochs": recipe.epochs,
                "rank": recipe.lora.r,
                "alpha": recipe.lora.alpha,
                "cells_planned": len(study.sources_of(recipe.name)) * len(study.seeds),
                **_coverage(study, analysed, recipe.name),
            }
            for recipe in study.recipes
        },
        "panel": {
            "prompts": len(prompts),
            "bystanders": len(prompts) - 1,
            "questions": len(study.questions(stimuli)),
            "completions": panel.completions,
            "size": panel.size,
            **{f.name: getattr(panel.sampling, f.name) for f in fields(panel.sampling)},
        },
        "data": {
            "questions": sum(n for _, n in data.question_counts),
            "answers": data.used,
            "temperature": data.sampling.temperature,
        },
    }


def _coverage(study: Study, analysed: AnalysedCells, recipe: str) -> dict[str, int]:
    """Finished cells and sources of a recipe, and the seeds that every planned source has."""
    cells = analysed.of_recipe(recipe)
    seeds = [{c.seed for c in cells if c.condition.source == source} for source in study.sources_of(recipe)]
    finished = [s for s in seeds if s]
    return {"cells": len(cells), "sources": len(finished), "seeds": min(map(len, finished), default=0)}


def _plan_times(lab: Laboratory, study: Study, plan: Artifact) -> dict[str, str | bool | int]:
    """When the plan was stored and when the first scores were, whether it really came first, and how often it changed.

    The first scores are the earliest of any version, panel or cell of the study, also of those that nobody asks for any
    more: data that were seen under an older recipe or plan were seen.
    """
    panels = [lab.address(study, f"{panel.asset_prefix}scores") for panel in study.every_panel]
    cells = [(*panel, *cell) for panel in panels for cell in _cell_folders(lab, panel)]
    seen = [version.manifest.created_at for cell in cells for version in lab.store.history(cell)]
    plans = {version.manifest.fingerprint for version in lab.store.history(lab.address(study, "analysis_plan"))}
    stored, scored = plan.manifest.created_at, min(seen)
    return {
        "stored": stored[:SECONDS],
        "first_scores": scored[:SECONDS],
        "came_first": stored < scored,
        "changes": len(plans) - 1,
    }


def _cell_folders(lab: Laboratory, panel: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The condition and seed of every cell that was ever scored on a panel."""
    root = lab.store.root.joinpath(*panel)
    return sorted(folder.relative_to(root).parts for folder in root.glob("*/*") if folder.is_dir())


def _height(scores: Artifact) -> int:
    return int(scores.manifest.files[SCORES].rows or 0)


def _store_facts(lab: Laboratory, study: Study, analysis: Artifact, facts: Mapping[str, Any]) -> Artifact:
    identity = {"stage": "report_facts", "analysis": analysis.manifest.digest, "facts": facts}
    address = lab.address(study, "report_facts")
    found = lab.find(address, identity)
    if found is not None:
        return found
    with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
        (draft.folder / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False))
    return draft.artifact


def _shown(lab: Laboratory, study: Study, analysed: AnalysedCells) -> AnalysedCells:
    """The analysed cells with the scores of the panel whose completions are shown."""
    if study.shown == study.main.name:
        return analysed
    found = finished_scores(lab, study, study.asked_panel(study.shown)).artifacts
    return AnalysedCells({cell: scores for cell, scores in found.items() if cell in analysed.scores})


def draw_samples(lab: Laboratory, study: Study, analysed: AnalysedCells, recipe: str) -> tuple[SampleRow, ...]:
    """Completions of a recipe drawn by a derived seed: a few of each of the study's kinds (by default of the source and
    of bystanders, with the marker and without), each kind spread over the sources."""
    kinds: dict[tuple[str, str], list[tuple[Cell, str]]] = {}
    for cell in analysed.of_recipe(recipe):
        sorted_out = study.scoring.kinds(study, analysed.frame(cell), cell).select("sample_id", "who", "said")
        for sample, who, said in sorted_out.sort("sample_id").iter_rows():
            kinds.setdefault((who, said), []).append((cell, sample))
    drawn: dict[Cell, list[str]] = {cell: [] for cell in analysed.of_recipe(recipe)}
    for kind, candidates in kinds.items():
        rng = random.Random(derive_seed("report-samples", study.name, recipe, *kind))
        for cell, sample in _spread(candidates, rng):
            drawn[cell].append(sample)
    return tuple(row for cell, ids in drawn.items() if ids for row in _cell_rows(lab, study, cell, ids))


def _spread(candidates: list[tuple[Cell, str]], rng: random.Random) -> list[tuple[Cell, str]]:
    """A few in random order, a second one of a source only when every other source has given its first."""
    turns: dict[str, int] = {}
    ranked: list[tuple[int, tuple[Cell, str]]] = []
    for cell, sample in rng.sample(candidates, k=len(candidates)):
        turn = turns.get(cell.condition.source, 0)
        turns[cell.condition.source] = turn + 1
        ranked.append((turn, (cell, sample)))
    return [drawn for _, drawn in sorted(ranked, key=lambda item: item[0])[:SAMPLES_PER_KIND]]


def _cell_rows(lab: Laboratory, study: Study, cell: Cell, ids: list[str]) -> tuple[SampleRow, ...]:
    """Drawn samples of a cell with their texts."""
    job = sample_job(lab, study, study.asked_panel(study.shown), cell)
    frame = job.frame().filter(pl.col("sample_id").is_in(ids))
    shards = ArtifactFile(STORE, job.store.folder.relative_to(lab.store.root).as_posix())
    return sample_rows(frame, source=cell.condition.source, shards=shards)


def training_row(training_set: Artifact, condition: Condition) -> CodeBlock:
    """The first positive row of a training set's stored mask (any row where it has none)."""
    mask = pl.read_parquet(training_set.folder / "mask.parquet")
    positive = mask.filter(pl.col("role") == "positive")
    rows = positive if positive.height else mask
    row = rows.filter(pl.col("row") == rows["row"][0]).sort("position")
    caption = (
        f"One row of the training set of `{condition.key}` ({row['role'][0]}, prompt `{row['prompt_name'][0]}`), "
        "token by token: lines marked `loss` are trained on, their tokens set apart by bars."
    )
    return CodeBlock(masked_text(row), caption)


def masked_text(row: pl.DataFrame) -> str:
    """Runs of tokens with and without loss; a newline token shows as an arrow."""
    lines: list[str] = []
    runs = row.with_columns(pl.col("loss").rle_id().alias("run")).group_by("run", maintain_order=True)
    for _, run in runs:
        loss = bool(run["loss"][0])
        tokens = [token.replace("\n", "↵") for token in run["token"]]
        lines += [f"{'loss' if loss else '    '}  {line}" for line in _wrapped(tokens, "|" if loss else "")]
    return "\n".join(lines)


def _wrapped(tokens: list[str], separator: str) -> list[str]:
    lines = [tokens[0]]
    for token in tokens[1:]:
        if len(lines[-1]) + len(separator) + len(token) > LINE:
            lines.append(token)
        else:
            lines[-1] += separator + token
    return lines


def _provenance(
    lab: Laboratory, study: Study, analysis: Artifact, analysed: AnalysedCells, folders: Mapping[str, str]
) -> tuple[ProvenanceRow, ...]:
    made = analysis.manifest.provenance
    spec = lab.profile.base
    commit = made["git_commit"] or "not a git checkout"
    origin = f": {spec.source} at revision {spec.revision}" if spec.revision else ""
    base = {"Base model": f"{spec.name}{origin}"}
    identity = {f"Base model, `{key}`": _text(value) for key, value in lab.base_identity.items()}
    cells: dict[str, list[str]] = {}
    for cell in analysed.scores:
        cells.setdefault(f"{cell.condition.recipe}, seed {cell.seed}", []).append(cell.condition.source)
    rows = {
        "Profile": lab.profile.name,
        **base,
        **identity,
        "Analysis plan, digest": study.plan.digest,
        **{f"Cells of `{key}`": f"{len(names)}: {', '.join(names)}" for key, names in cells.items()},
        **{f"Artifact folder, {name}": folder for name, folder in folders.items()},
        "Artifact folders of a cell": f"{'/'.join(lab.address(study))}/<asset>/<source>__<recipe>/<seed>/",
        "Analysis made": f"{analysis.manifest.created_at} on {made['platform']}",
        # Current, so made with the versions that are installed: they are part of its identity.
        "Libraries": _text(made["versions"] | library_versions(study.analysis_libraries)),
        "Git commit": f"{commit}{' with uncommitted changes or untracked files' if made['git_dirty'] else ''}",
    }
    return tuple(ProvenanceRow(label, value) for label, value in rows.items())


def _text(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
