"""Adapters: trained per cell on the shared base model, and proven before anything is asked of them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from leakage_assets.pipeline.accounting import achieved, spent, training_work
from leakage_assets.pipeline.laboratory import Laboratory, Outcome, library_versions
from leakage_assets.pipeline.training_data import read_rows, require_training_set
from leakage_assets.planning.efficiency import training_kind
from leakage_assets.progress import Progress
from leakage_assets.store.artifacts import Artifact, ArtifactError
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.studies.study import Cell, Study
from leakage_assets.training.proof import AdapterProof, prove_adapter
from leakage_assets.training.train import TrainingMetrics, train_adapter

VERSION = 4
"""Raise it when the code of training or of the proof changes what it makes."""


class ProofFailed(ArtifactError):
    """An adapter did not pass its proof; the message lists the checks that failed and their values."""


def adapter_address(lab: Laboratory, study: Study, cell: Cell) -> tuple[str, ...]:
    return lab.address(study, "adapter", cell.condition.key, str(cell.seed))


def adapter_identity(lab: Laboratory, study: Study, cell: Cell) -> dict[str, Any]:
    """Everything that makes an adapter what it is; its training set by content."""
    return {
        "stage": "adapter",
        "version": VERSION,
        "study": study.name,
        "cell": cell,
        "recipe": study.recipe(cell.condition.recipe),
        "mode": lab.profile.training_mode,
        "training_set": require_training_set(lab, study, cell.condition).manifest.digest,
        "base": lab.base_fingerprint,
        "libraries": library_versions(),
    }


def train_cell(lab: Laboratory, study: Study, cell: Cell) -> Outcome:
    """Train the cell's adapter unless it is there; it is not proven yet."""
    address, identity = adapter_address(lab, study, cell), adapter_identity(lab, study, cell)
    found = lab.current(address, identity)
    artifact = found or _train(lab, study, cell, address, identity)
    summary = json.loads((artifact.folder / "summary.json").read_text())
    shown = ("final_loss", "steps", "trainable_parameters")
    return Outcome(artifact, found is not None, {**{name: summary[name] for name in shown}, **achieved(artifact)})


def prove_cell(lab: Laboratory, study: Study, cell: Cell, trained: Outcome) -> Outcome:
    """The trained adapter with its proof. Raises ``ProofFailed``."""
    proof = prove(lab, study, cell, trained.artifact)
    proven = {f"proof_{check.name}": check.value for check in proof.checks}
    return replace(trained, metrics={**trained.metrics, **proven})


def _train(lab: Laboratory, study: Study, cell: Cell, address: tuple[str, ...], identity: dict[str, Any]) -> Artifact:
    recipe = study.recipe(cell.condition.recipe)
    rows = read_rows(require_training_set(lab, study, cell.condition))
    seed = derive_seed("train", study.name, cell.condition.key, cell.seed)
    with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
        told: list[TrainingMetrics] = []
        summary = train_adapter(
            lab.base(),
            rows,
            recipe,
            seed,
            draft.folder,
            marker=study.marker,
            mode=lab.profile.training_mode,
            progress=lambda total: Progress(total, f"train {cell}", lab.emit),
            report_to=lab.report_to,
            measured=told.append,
            check=partial(study.check_rows, study, cell.condition) if study.check_rows else None,
        )
        (metrics,) = told
        # Where, how and how fast go to the provenance: in a file they would give equal adapters unequal digests,
        # and everything downstream would be made again.
        draft.note(
            seed=seed,
            device=str(lab.base().device),
            training=metrics,
            **spent(training_kind(metrics.mode), [training_work(lab, recipe, summary)], metrics.seconds),
        )
    return draft.artifact


def proof_identity(lab: Laboratory, adapter: Artifact) -> dict[str, Any]:
    return {
        "stage": "adapter_proof",
        "version": VERSION,
        "adapter": adapter.manifest.digest,
        "engine": lab.engine_identity,
        "libraries": library_versions(),
    }


def prove(lab: Laboratory, study: Study, cell: Cell, adapter: Artifact) -> AdapterProof:
    """Prove an adapter on the engine that will serve it; the verdict is an artifact of its own."""
    address = lab.address(study, "adapter_proof", cell.condition.key, str(cell.seed))
    identity = proof_identity(lab, adapter)
    found = lab.current(address, identity)
    if found is not None:
        return AdapterProof.from_json((found.folder / "proof.json").read_text())
    proof = prove_adapter(lab.engine(), lab.base(), adapter.folder)
    if not proof.passed:
        raise ProofFailed(f"{cell}: {proof.failure_text()}: train it again with the refresh tag")
    with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
        (draft.folder / "proof.json").write_text(json.dumps(asdict(proof), indent=2))
    return proof


def require_proven_adapter(lab: Laboratory, study: Study, cell: Cell) -> Artifact:
    """The cell's adapter, refused unless its proof is stored and passed."""
    adapter = lab.require(
        adapter_address(lab, study, cell),
        adapter_identity(lab, study, cell),
        remedy=f"materialise adapter for {cell} first",
    )
    lab.require(
        lab.address(study, "adapter_proof", cell.condition.key, str(cell.seed)),
        proof_identity(lab, adapter),
        remedy=f"materialise adapter for {cell} again: it is there but was never proven",
    )
    return adapter
