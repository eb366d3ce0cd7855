"""The checks of a study before anything is trained: run, stored, and asked for by the training sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from leakage_assets.exceptions import ExpectedError
from leakage_assets.generation.requests import BASE
from leakage_assets.geometry.centroids import hidden_vectors
from leakage_assets.models import chat_text, load_tokenizer
from leakage_assets.pipeline.baseline import ask_base, finished_base
from leakage_assets.pipeline.geometry import (
    SIMILARITY,
    load_system_turns,
    require_persona_centroids,
    require_prompt_similarity,
)
from leakage_assets.pipeline.laboratory import Laboratory, Outcome
from leakage_assets.pipeline.sampling import SampleJob, panel_requests, run_sample_jobs
from leakage_assets.pipeline.training_data import pool_answers, pool_digests
from leakage_assets.store.artifacts import Artifact
from leakage_assets.studies.prechecks import Precheck, PrecheckInputs
from leakage_assets.studies.scoring import ONE_MARKER
from leakage_assets.studies.study import Study

CHECKS = "prechecks.parquet"
VERSION = 2
"""Raise it when the code of a study's checks changes what they find."""
SCHEMA = {"name": pl.String, "value": pl.Float64, "limit": pl.Float64, "outcome": pl.String, "detail": pl.String}


class PrecheckBlocked(ExpectedError):
    """A check found what forbids to train; the message lists what."""


def base_job(lab: Laboratory, study: Study) -> SampleJob:
    """The main panel asked of the base model under the prompts that must not draw the marker from it."""
    panel = replace(study.panel, prompts=study.silent_prompts)
    requests = panel_requests(lab.profile.stimuli, panel, BASE)
    return SampleJob(lab, lab.address(study, "base_samples"), lab.base_fingerprint, requests, panel.sampling)


def run_prechecks(lab: Laboratory, study: Study) -> Outcome:
    """Run the checks of a study. Raises ``ArtifactMissing`` before the similarities, or before the training
    answers where the study audits them; ``PrecheckBlocked`` where the base need not be asked to know that one blocks.
    """
    require_prompt_similarity(lab, study)
    _refuse(study, _token_prechecks(lab, study))
    if study.silent_prompts:
        (sampled,) = run_sample_jobs(lab, {"base": base_job(lab, study)}).values()
        if not isinstance(sampled, Outcome):
            raise sampled
    ask_base(lab, study)
    address, identity, inputs = _made_of(lab, study)
    found = lab.current(address, identity)
    if found is None:
        checks = _frame(study.prechecks(study, inputs) if study.prechecks else ())
        with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
            checks.write_parquet(draft.folder / CHECKS)
            draft.rows(CHECKS, checks.height)
    artifact = found or draft.artifact
    outcomes = read_prechecks(artifact)["outcome"]
    counts = {kind: int((outcomes == kind).sum()) for kind in ("ok", "warn", "block")}
    return Outcome(artifact, found is not None, counts)


def _token_prechecks(lab: Laboratory, study: Study) -> pl.DataFrame:
    if study.token_prechecks is None:
        return _frame(())
    tokenizer = load_tokenizer(lab.profile.base)
    encode = partial(tokenizer.encode, add_special_tokens=False)
    return _frame(study.token_prechecks(study, encode, tokenizer.eos_token_id))


def _frame(checks: Sequence[Precheck]) -> pl.DataFrame:
    return pl.DataFrame([asdict(check) for check in checks], schema=SCHEMA)


def _made_of(lab: Laboratory, study: Study) -> tuple[tuple[str, ...], dict[str, Any], PrecheckInputs]:
    """Address, identity and inputs of the checks of what is there now. Raises ``ArtifactMissing``."""
    similarity, scores, samples = require_prompt_similarity(lab, study), pl.DataFrame(), None
    geometry = require_persona_centroids(lab, study)
    if study.silent_prompts:
        samples, frame = base_job(lab, study).require(remedy="materialise prechecks first")
        scores = study.scoring.score(study, frame)
    asked = finished_base(lab, study)
    if asked:
        scores = asked[-1].scores(study)
    identity = {
        "stage": "prechecks",
        "version": VERSION,
        "plan": study.plan.digest,
        "base": lab.base_fingerprint,
        "similarity": similarity.manifest.digest,
        "base_samples": samples and samples.manifest.digest,
        # Only where a study reads them: the checks of the others stay what they are.
        **({"answers": pool_digests(lab, study)} if study.audits_answers else {}),
        **({"baseline": [b.samples.manifest.digest for b in asked]} if study.baseline else {}),
        **({} if study.scoring is ONE_MARKER else {"scoring": study.scoring.identity(study)}),
    }
    tokenizer = load_tokenizer(lab.profile.base)
    inputs = PrecheckInputs(
        stimuli=lab.profile.stimuli,
        similarity=pl.read_parquet(similarity.folder / SIMILARITY),
        base_scores=scores,
        rendered=partial(chat_text, tokenizer),
        encode=partial(tokenizer.encode, add_special_tokens=False),
        end_of_turn=tokenizer.eos_token_id,
        system_turns=partial(load_system_turns, geometry),
        question_vectors=partial(_question_vectors, lab),
        answers=partial(pool_answers, lab, study),
    )
    return lab.address(study, "prechecks"), identity, inputs


def _question_vectors(lab: Laboratory, system: str, questions: Sequence[str], layer: int) -> np.ndarray:
    """Hidden vectors of questions under one prompt in the base model, (questions, dimension)."""
    vectors = hidden_vectors(lab.base(), [system], questions, [layer], batch_tokens=lab.profile.forward_tokens)
    found: np.ndarray = vectors[0, :, 0]
    return found


def read_prechecks(artifact: Artifact) -> pl.DataFrame:
    """One row per check: name, value, limit, outcome, detail."""
    return pl.read_parquet(artifact.folder / CHECKS)


def require_prechecks(lab: Laboratory, study: Study) -> None:
    """Refuse to go on where a check of the study blocks.

    Raises ``PrecheckBlocked`` naming it; ``ArtifactMissing`` before the checks.
    """
    if study.prechecks is None:
        return
    address, identity, _ = _made_of(lab, study)
    _refuse(study, read_prechecks(lab.require(address, identity, remedy="materialise prechecks first")))


def _refuse(study: Study, checks: pl.DataFrame) -> None:
    if blocked := what_blocks(study, checks):
        raise PrecheckBlocked(blocked)


def what_blocks(study: Study, checks: pl.DataFrame) -> str | None:
    """The sentence that forbids to train, with every check that blocks; None where none does."""
    blocked = [f"{row['name']}: {row['detail']}" for row in checks.filter(outcome="block").iter_rows(named=True)]
    if not blocked:
        return None
    return (
        f"{study.name}: nothing may be trained: {'; '.join(blocked)}; mend what they are about (markers, prompts and "
        "questions are in data/stimuli) and run again"
    )
