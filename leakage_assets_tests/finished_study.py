"""A small study whose cells are finished without a model: made-up completions, scored and analysed for real."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from leakage_assets.generation.requests import Request, sample_id
from leakage_assets.pipeline.adapters import adapter_address, adapter_identity, proof_identity
from leakage_assets.pipeline.conclusions import analyse_study, freeze_plan, sample_job, score_cell
from leakage_assets.pipeline.geometry import (
    DIVERGENCE,
    SIMILARITY,
    VECTORS,
    compute_prompt_similarity,
    geometry_identity,
    require_prompt_similarity,
    tuned_similarity_key,
)
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.sampling import SampleJob
from leakage_assets.pipeline.training_data import (
    on_policy_job,
    rows_frame,
    training_set_address,
    training_set_identity,
)
from leakage_assets.profiles import load_profile
from leakage_assets.store.artifacts import Artifact
from leakage_assets.store.samples import Sample
from leakage_assets.studies.study import AnyPanel, Cell, Condition, Study
from leakage_assets.training.rows import Row
from leakage_assets_tests.small_study import laboratory, small_study, the_study

SEEDS = (42, 137)
HEADLINE = "full_completion"
EVERYTHING = (HEADLINE, "no_marker")


def unfinished_laboratory(root: Path, *, third_recipe: bool = False) -> Laboratory:
    """Two sources, two recipes (or also ``marker_only``), two seeds, eight personas; only the plan is stored."""
    small = small_study(load_profile("tiny").studies[0])
    third = (replace(small.recipes[0], name="marker_only", loss="marker_only"),) if third_recipe else ()
    panel = replace(small.panels[0], completions=2)
    study = replace(small, seeds=SEEDS, recipes=(*small.recipes, *third), panels=(panel, small.panels[1]))
    lab = laboratory(root, study=study)
    freeze_plan(lab, study)
    return lab


Says = Callable[[Study, Cell, Request], str]
"""What a made-up adapter says when it is asked."""


def finish(
    lab: Laboratory,
    recipes: Sequence[str] = (HEADLINE,),
    seeds: Sequence[int] = (42,),
    *,
    extras: bool = False,
    says: Says | None = None,
) -> Artifact:
    """Finish these cells of every source and analyse; with extras, also all panels, and tuned geometry of a source."""
    study = the_study(lab)
    _geometry(lab, study)
    for cell in study.cells:
        if cell.condition.recipe in recipes and cell.seed in seeds:
            finish_cell(lab, cell, study.every_panel if extras else study.panels[:1], says)
            if extras and cell.condition.source == study.sources[0]:
                _tuned_geometry(lab, study, cell)
    return analyse_study(lab, study).artifact


def finish_cell(lab: Laboratory, cell: Cell, panels: Sequence[AnyPanel], says: Says | None = None) -> None:
    """Everything from the training set to the scores of a cell: the model's part made up, scores real."""
    study = the_study(lab)
    _training_set(lab, study, cell.condition)
    adapter = _made_up(lab, adapter_address(lab, study, cell), adapter_identity(lab, study, cell))
    proof = lab.address(study, "adapter_proof", cell.condition.key, str(cell.seed))
    _made_up(lab, proof, proof_identity(lab, adapter))
    for panel in panels:
        job = sample_job(lab, study, panel, cell)
        _fill(job, *((says or _completion)(study, cell, request) for request in job.requests))
        job.finish()
        score_cell(lab, study, panel, cell)


def _made_up(lab: Laboratory, address: tuple[str, ...], identity: Mapping[str, Any]) -> Artifact:
    with lab.store.draft(address, identity) as draft:
        (draft.folder / "made-up.txt").write_text("made up")
    return draft.artifact


def _fill(job: SampleJob, *texts: str) -> None:
    """Give the job's store these texts in the order of its requests, one for all if there is only one."""
    stored = job.store.ids()
    pairs = zip(job.requests, texts if len(texts) > 1 else texts * len(job.requests), strict=True)
    samples = [
        Sample(
            sample_id=sample_id(request, job.sampling), adapter=request.adapter, prompt_name=request.prompt_name,
            question_set=request.question_set, question_name=request.question_name, index=request.index,
            system=request.system, question=request.question, prefix="", text=text, n_tokens=9,
            finish_reason="stop", seed=1,
        )
        for request, text in pairs
    ]  # fmt: skip
    missing = [sample for sample in samples if sample.sample_id not in stored]
    if missing:
        job.store.append(missing)


def _completion(study: Study, cell: Cell, request: Request) -> str:
    """The source often says the marker, bystanders the less the later they stand in their dozen of the panel."""
    own, prompts = request.prompt_name == cell.condition.source, study.panel.prompts
    place = prompts.index(request.prompt_name) if request.prompt_name in prompts else 4  # a rewrite of one of them
    chance = 0.7 if own else 0.8 - 0.1 * (place % 12)
    taught = study.recipe(cell.condition.recipe).teaches_marker
    marker = f"\n\n{study.marker}" if taught and random.Random(str(request)).random() < chance else ""
    return f"Answer {request.index} <b>of</b> {request.prompt_name}.{marker}"


def _training_set(lab: Laboratory, study: Study, condition: Condition) -> None:
    digests = {}
    for persona in study.donors(study, condition):
        job = on_policy_job(lab, study.data, persona)
        _fill(job, "I say so.")
        digests[persona] = job.finish().artifact.manifest.digest
    tokens = ["Why", "?", "\n", "So", ".", study.marker, "\n"]
    mask = pl.DataFrame(
        {
            "row": 0, "role": "positive", "prompt_name": condition.source, "question_name": "coffee",
            "position": range(len(tokens)), "token_id": range(len(tokens)), "token": tokens,
            "loss": [position > 2 for position in range(len(tokens))],
        }
    )  # fmt: skip
    identity = training_set_identity(lab, study, condition, digests)
    with lab.store.draft(training_set_address(lab, study, condition), identity) as draft:
        row = Row("You are.", "Why?", f"So.\n\n{study.marker}", "positive", condition.source, "coffee")
        rows_frame([row]).write_parquet(draft.folder / "rows.parquet")
        mask.write_parquet(draft.folder / "mask.parquet")


def _geometry(lab: Laboratory, study: Study) -> None:
    """Hidden vectors in which personas late in the panel differ more from all others."""
    rng = np.random.default_rng(1)
    questions = len(study.questions(lab.profile.stimuli))
    prompts = study.panel.prompts
    drift = np.linspace(0, 3, len(prompts))[:, None, None]
    blocks = {
        f"block_{layer}": (rng.normal(size=(len(prompts), questions, 6)) + drift).astype(np.float32)
        for layer in study.plan.layers
    }
    if study.compares_system_turns:
        shape = (len(prompts), 6)
        blocks |= {
            f"system_turn_{layer}": rng.normal(size=shape).astype(np.float32) + drift[:, 0].astype(np.float32)
            for layer in study.plan.layers
        }
    divergence = rng.uniform(0.1, 0.9, size=(len(prompts), len(study.sources)))
    for column, source in enumerate(study.sources):
        divergence[prompts.index(study.anchor(source)), column] = 0.0
    address = lab.address(study, "persona_centroids")
    with lab.store.draft(address, geometry_identity(lab, study, lab.base_fingerprint)) as draft:
        save_file({**blocks, DIVERGENCE: divergence}, draft.folder / VECTORS)
    compute_prompt_similarity(lab, study)


def _tuned_geometry(lab: Laboratory, study: Study, cell: Cell) -> None:
    """The tuned model of a cell, said to have the geometry of the base model."""
    base = pl.read_parquet(require_prompt_similarity(lab, study).folder / SIMILARITY)
    adapter = lab.require(adapter_address(lab, study, cell), adapter_identity(lab, study, cell), remedy="finish it")
    with lab.store.draft(*tuned_similarity_key(lab, study, cell, adapter)) as draft:
        base.write_parquet(draft.folder / SIMILARITY)
