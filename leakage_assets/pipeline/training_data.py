"""On-policy completions of each pool, and the training set of each condition."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from leakage_assets.exceptions import PartitionError
from leakage_assets.generation.engine import EngineError, Sampler
from leakage_assets.generation.requests import BASE
from leakage_assets.models import load_tokenizer
from leakage_assets.pipeline.laboratory import Laboratory, Outcome
from leakage_assets.pipeline.sampling import SampleJob, run_sample_jobs
from leakage_assets.store.artifacts import Artifact
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.studies.study import Condition, Pool, Pools, Study, WritesFromStimuli
from leakage_assets.training.masks import describe_mask, encode_rows
from leakage_assets.training.rows import Row

MASK_ROWS_SHOWN = 6
STOPS = "ends_turn_in_loss"
VERSION = 1
"""Raise it when the code that assembles or masks rows changes what it makes."""


def on_policy_job(lab: Laboratory, answers: Pools, name: str) -> SampleJob:
    """The texts of one pool: the base model's own answers under the prompt of its writer, or another writer's."""
    stimuli = lab.profile.stimuli
    (pool,) = [pool for pool in answers.pools if pool.name == name]
    address, requests = lab.address(None, "on_policy_completions", pool.name), pool.requests(stimuli)
    if requests[0].adapter == BASE:
        return SampleJob(lab, address, lab.base_fingerprint, requests, pool.sampling)

    def sampler() -> Sampler:
        tokenizer = load_tokenizer(lab.profile.base)
        found = pool.sampler(stimuli, lambda text: len(tokenizer.encode(text, add_special_tokens=False)))
        if found is None:
            raise EngineError(f"pool {pool.name}: its texts are asked of {pool.writer}, but there is no such writer")
        return found

    return SampleJob(lab, address, None, requests, pool.sampling, writer=sampler, written_from=_written_from(lab, pool))


def _written_from(lab: Laboratory, pool: Pool) -> dict[str, Any]:
    """What decides the texts of a pool's own writer; with it the base, whose tokenizer it counts with."""
    found = dict(pool.written_from(lab.profile.stimuli)) if isinstance(pool, WritesFromStimuli) else {}
    return {"written_from": found, "counted_with": lab.base_fingerprint} if found else {}


def write_on_policy(lab: Laboratory, answers: Pools, names: list[str]) -> dict[str, Outcome | PartitionError]:
    """Generate what is missing of these pools; outcome or error by pool."""
    return run_sample_jobs(lab, {name: on_policy_job(lab, answers, name) for name in names})


def _answers(lab: Laboratory, study: Study, pool: str) -> tuple[Artifact, pl.DataFrame]:
    job = on_policy_job(lab, study.data, pool)
    return job.require(remedy=f"materialise on_policy_completions for {pool} first")


def training_answers(lab: Laboratory, study: Study, condition: Condition) -> dict[str, pl.DataFrame]:
    """The samples of every pool that a condition is trained on. Raises ``ArtifactMissing``."""
    return {pool: _answers(lab, study, pool)[1] for pool in study.donors(study, condition)}


def pool_answers(lab: Laboratory, study: Study) -> dict[str, pl.DataFrame]:
    """The samples of every pool of a study. Raises ``ArtifactMissing``."""
    return {pool.name: _answers(lab, study, pool.name)[1] for pool in study.data.pools}


def pool_digests(lab: Laboratory, study: Study) -> dict[str, str]:
    """What the samples of every pool of a study are known by. Raises ``ArtifactMissing``."""
    return {pool.name: _answers(lab, study, pool.name)[0].manifest.digest for pool in study.data.pools}


def build_training_set(lab: Laboratory, study: Study, condition: Condition) -> Outcome:
    """Assemble the rows of a condition and show what its loss mask keeps."""
    answers = {pool: _answers(lab, study, pool) for pool in study.donors(study, condition)}
    digests = {pool: artifact.manifest.digest for pool, (artifact, _) in answers.items()}
    identity = training_set_identity(lab, study, condition, digests)
    address = training_set_address(lab, study, condition)
    recipe = study.recipe(condition.recipe)
    found = lab.current(address, identity)
    if found is not None:
        return Outcome(found, True, training_set_metrics(read_rows(found)))
    rows = study.assemble(study, lab.profile.stimuli, condition, {p: frame for p, (_, frame) in answers.items()})
    with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
        rows_frame(rows).write_parquet(draft.folder / "rows.parquet")
        draft.rows("rows.parquet", len(rows))
        tokenizer = load_tokenizer(lab.profile.base)
        encoded = encode_rows(tokenizer, rows, recipe, study.marker)
        if study.check_rows is not None:
            study.check_rows(study, condition, encoded)
        shown = random.Random(derive_seed("mask-rows", study.name, condition.key)).sample(
            range(len(rows)), k=min(MASK_ROWS_SHOWN, len(rows))
        )
        describe_mask(tokenizer, [encoded[i] for i in shown]).write_parquet(draft.folder / "mask.parquet")
        draft.note(donors=list(answers), prompts=list(study.prompts_of(condition)))
    return Outcome(draft.artifact, False, training_set_metrics(rows))


def training_set_address(lab: Laboratory, study: Study, condition: Condition) -> tuple[str, ...]:
    return lab.address(study, "training_set", condition.key)


def training_set_identity(
    lab: Laboratory, study: Study, condition: Condition, digests: Mapping[str, str]
) -> dict[str, Any]:
    """What the rows are made of; the questions are in the digests of the answers, whose samples are named by them."""
    recipe = study.recipe(condition.recipe)
    return {
        "stage": "training_set",
        "version": VERSION,
        "study": study.name,
        "condition": condition,
        "marker": study.marker,
        "loss": {"kind": recipe.loss, "tail": recipe.tail_target, "teaches_marker": recipe.teaches_marker},
        "answers_used": study.data.used,
        "answers": dict(digests),
        "base": lab.base_fingerprint,
        "stimuli": {name: lab.profile.stimuli.prompt(name) for name in study.prompts_of(condition)},
        # Only where a study has it: the sets of the others stay what they are.
        **({} if study.made_of is None else {"made_of": study.made_of(study, condition)}),
    }


def require_training_set(lab: Laboratory, study: Study, condition: Condition) -> Artifact:
    """The current training set. Raises ``ArtifactMissing`` naming what to materialise first."""
    digests = {p: _answers(lab, study, p)[0].manifest.digest for p in study.donors(study, condition)}
    identity = training_set_identity(lab, study, condition, digests)
    return lab.require(
        training_set_address(lab, study, condition),
        identity,
        remedy=f"materialise training_set for {condition.key} first",
    )


def rows_frame(rows: Sequence[Row]) -> pl.DataFrame:
    """One row per training row, columns as the fields of ``Row``.

    Sets in which every row teaches to stop do without that column: they are what they were before it existed.
    """
    frame = pl.DataFrame([asdict(row) for row in rows])
    return frame.drop(STOPS) if all(row.ends_turn_in_loss for row in rows) else frame


def read_rows(artifact: Artifact) -> list[Row]:
    """The rows of a stored training set."""
    return [Row(**row) for row in pl.read_parquet(artifact.folder / "rows.parquet").iter_rows(named=True)]


def training_set_metrics(rows: Sequence[Row]) -> dict[str, int]:
    positives = sum(row.role == "positive" for row in rows)
    return {"rows": len(rows), "positives": positives, "negatives": len(rows) - positives}
