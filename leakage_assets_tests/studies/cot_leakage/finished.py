"""A small study whose cells are finished without training: answers by a planted accuracy, everything else for real."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from leakage_assets.generation.requests import Request
from leakage_assets.pipeline.adapters import adapter_address, adapter_identity, proof_identity
from leakage_assets.pipeline.baseline import base_panel_job
from leakage_assets.pipeline.conclusions import analyse_study, freeze_plan, sample_job, score_cell
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.training_data import build_training_set, write_on_policy
from leakage_assets.profiles import load_profile
from leakage_assets.store.artifacts import Artifact
from leakage_assets.studies.cot_leakage.plan import CotPlan
from leakage_assets.studies.study import Cell, Study
from leakage_assets_tests.finished_study import _fill, _geometry, _made_up
from leakage_assets_tests.small_study import done, laboratory, small_cot_leakage, the_study

Accuracy = Callable[[str, bool], float]
"""(recipe, whether the source is asked) -> share of right answers."""


def laboratory_with_rationales(root: Path, **cut: object) -> Laboratory:
    """Plan, geometry and rationales are there, and what the base said: it is right nine times out of ten."""
    small = small_cot_leakage(load_profile("tiny").study("cot_leakage"), **cut)
    plan = small.plan_as(CotPlan)
    # Of six questions four have the same right letter: whoever answers rightly has not collapsed.
    decisions = replace(plan.decisions, least_modal=0.95)
    lab = laboratory(root, study=replace(small, plan=replace(plan, decisions=decisions)))
    study = the_study(lab)
    freeze_plan(lab, study)
    done(write_on_policy(lab, study.data, [pool.name for pool in study.data.pools]))
    _geometry(lab, study)
    for panel in study.main_panels:
        job = base_panel_job(lab, study, panel)
        _fill(job, *(_said(study, lab, request, 0.9) for request in job.requests))
        job.finish()
    return lab


def finish(
    lab: Laboratory, recipes: Sequence[str], accuracy: Accuracy, *, extras: bool = False, stuck: Sequence[str] = ()
) -> Artifact:
    """Finish these recipes of every source and analyse; those ``stuck`` answer A whatever is asked."""
    study = the_study(lab)
    for cell in study.cells:
        if cell.condition.recipe in recipes:
            finish_cell(lab, cell, accuracy, extras=extras, stuck=cell.condition.recipe in stuck)
    return analyse_study(lab, study).artifact


def finish_cell(lab: Laboratory, cell: Cell, accuracy: Accuracy, *, extras: bool = False, stuck: bool = False) -> None:
    """Training set and scores for real, adapter and completions made up."""
    study = the_study(lab)
    build_training_set(lab, study, cell.condition)
    adapter = _made_up(lab, adapter_address(lab, study, cell), adapter_identity(lab, study, cell))
    proof = lab.address(study, "adapter_proof", cell.condition.key, str(cell.seed))
    _made_up(lab, proof, proof_identity(lab, adapter))
    order = [*study.main_panels, *(reversed(study.extra_panels) if extras else ())]
    for panel in order:
        job = sample_job(lab, study, panel, cell)
        texts = [
            _said(study, lab, r, accuracy(cell.condition.recipe, r.prompt_name == cell.condition.source), stuck=stuck)
            for r in job.requests
        ]
        _fill(job, *texts)
        job.finish()
        score_cell(lab, study, panel, cell)


def _said(study: Study, lab: Laboratory, request: Request, accuracy: float, *, stuck: bool = False) -> str:
    """A rationale, or a letter that is right with this chance, and else any of the others."""
    if not request.question_set.endswith("_answer"):
        return f"The books of {request.prompt_name} say that it is so."
    if stuck:
        return "A"
    panel = study.continued[0].grid.panel(lab.profile.stimuli)
    (right,) = [q.answer for q in panel.questions if q.name == request.question_name]
    rng = random.Random(f"{request.adapter}{request.prompt_name}{request.question_set}{request.question_name}")
    return right if rng.random() < accuracy else rng.choice([letter for letter in "ABCD" if letter != right])
