"""Geometry of the base model and of the tuned ones: hidden vectors, centroids, and similarities to each source."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from leakage_assets.geometry.centroids import (
    centred_cosine,
    hidden_vectors,
    system_turn_vectors,
    vectors_and_distributions,
)
from leakage_assets.geometry.divergence import js_divergence
from leakage_assets.geometry.prompt_axes import SYSTEM_TURN_COSINE, semantic_cosines
from leakage_assets.pipeline.accounting import achieved, geometry_work, spent
from leakage_assets.pipeline.adapters import require_proven_adapter
from leakage_assets.pipeline.laboratory import Laboratory, Outcome, library_versions
from leakage_assets.progress import Progress
from leakage_assets.store.artifacts import Artifact
from leakage_assets.studies.study import Cell, Study

VECTORS = "vectors.safetensors"
DIVERGENCE = "js_divergence"
SIMILARITY = "similarity.parquet"


def geometry_identity(lab: Laboratory, study: Study, model_digest: str) -> dict[str, Any]:
    """What hidden vectors and divergences depend on: prompts, questions, layers, sources and the model asked."""
    stimuli = lab.profile.stimuli
    return {
        "stage": "geometry",
        # Pairs, not a mapping: the vectors are stored in panel order, so another order is another result.
        "prompts": [(name, stimuli.prompt(name)) for name in study.panel.prompts],
        "questions": [q.text for q in study.questions(stimuli)],
        "layers": study.plan.layers,
        "sources": study.sources,
        "model": model_digest,
        "base": lab.base_fingerprint,
        "libraries": library_versions(),
        # Only where a study asks for it: what the others have measured stays what it is.
        **({"system_turns": True} if study.compares_system_turns else {}),
        **({"anchors": dict(study.anchors)} if study.anchors else {}),
    }


def measure_persona_centroids(lab: Laboratory, study: Study) -> Outcome:
    """Hidden vectors of the base model, (prompts, questions, dimension) per layer, and JS divergences to sources.

    Where the study asks for it, also what the base makes of each prompt by itself, (prompts, dimension) per layer.
    """
    from safetensors.numpy import save_file

    address, identity = lab.address(study, "persona_centroids"), geometry_identity(lab, study, lab.base_fingerprint)
    found = lab.current(address, identity)
    if found is not None:
        return Outcome(found, True, _geometry_metrics(study, found))
    prompts, questions = _asked(lab, study)
    base, layers, batch = lab.base(), study.plan.layers, lab.profile.forward_tokens
    with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
        started = time.monotonic()
        with _progress(lab, study, "base model") as progress:
            hidden, log_probs = vectors_and_distributions(
                base, prompts, questions, layers, batch_tokens=batch, progress=progress
            )
        seconds = time.monotonic() - started
        draft.note(**spent("reading", [geometry_work(lab, prompts, questions, layers, head=True)], seconds))
        divergence = js_divergence(log_probs, _source_places(study), base.device)
        arrays = {f"block_{layer}": hidden[:, :, i].copy() for i, layer in enumerate(layers)}
        if study.compares_system_turns:
            turns = system_turn_vectors(base, prompts, layers, batch_tokens=batch)
            arrays |= {_system_turn(layer): turns[:, i].copy() for i, layer in enumerate(layers)}
        save_file({**arrays, DIVERGENCE: divergence}, draft.folder / VECTORS)
    return Outcome(draft.artifact, False, _geometry_metrics(study, draft.artifact))


def compute_prompt_similarity(lab: Laboratory, study: Study) -> Outcome:
    """Cosine per layer and JS divergence of every panel prompt to every source, in the base model."""
    geometry = require_persona_centroids(lab, study)
    address, identity = prompt_similarity_key(lab, study, geometry)
    found = lab.current(address, identity)
    if found is not None:
        return Outcome(found, True, {"similarities": pl.read_parquet(found.folder / SIMILARITY).height})
    layers = [load_vectors(geometry, layer) for layer in study.plan.layers]
    table = similarity_table(study, np.stack(layers, axis=2), load_divergence(geometry))
    if study.compares_system_turns:
        turns = {layer: load_system_turns(geometry, layer) for layer in study.plan.layers}
        table = pl.concat([table, system_turn_table(study, turns)])
    with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
        table.write_parquet(draft.folder / SIMILARITY)
        draft.rows(SIMILARITY, table.height)
    return Outcome(draft.artifact, False, {"similarities": table.height})


def compute_tuned_similarity(lab: Laboratory, study: Study, cell: Cell) -> Outcome:
    """Cosine per layer of every panel prompt to every source, in the tuned model of a cell."""
    adapter = require_proven_adapter(lab, study, cell)
    address, identity = tuned_similarity_key(lab, study, cell, adapter)
    found = lab.current(address, identity)
    if found is not None:
        return Outcome(found, True, {"similarities": pl.read_parquet(found.folder / SIMILARITY).height})
    prompts, questions = _asked(lab, study)
    layers, batch = study.plan.layers, lab.profile.forward_tokens
    with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
        with _progress(lab, study, str(cell)) as progress:
            hidden = hidden_vectors(
                lab.base(), prompts, questions, layers, adapter=adapter.folder, batch_tokens=batch, progress=progress
            )
        table = similarity_table(study, hidden)
        table.write_parquet(draft.folder / SIMILARITY)
        draft.rows(SIMILARITY, table.height)
    return Outcome(draft.artifact, False, {"similarities": table.height})


def _asked(lab: Laboratory, study: Study) -> tuple[list[str], list[str]]:
    """Prompts and questions of the panel, as texts."""
    stimuli = lab.profile.stimuli
    return [stimuli.prompt(name) for name in study.panel.prompts], [q.text for q in study.questions(stimuli)]


def _progress(lab: Laboratory, study: Study, model: str) -> Progress:
    rows = len(study.panel.prompts) * len(study.questions(lab.profile.stimuli))
    return Progress(rows, f"geometry of {model}", lab.emit)


def _geometry_metrics(study: Study, geometry: Artifact) -> dict[str, int | float]:
    return {"prompts": len(study.panel.prompts), "layers": len(study.plan.layers), **achieved(geometry)}


def similarity_table(study: Study, hidden: np.ndarray, divergence: np.ndarray | None = None) -> pl.DataFrame:
    """Cosine (per layer, centred on the panel) of every prompt to every source, and JS divergence where it is given as
    (prompts, sources).

    Columns: measure, layer (null for divergence), source, prompt_name, value.
    """
    names = list(study.panel.prompts)
    own = _source_places(study)
    # Each measure as one column of values per source.
    blocks: list[tuple[str, int | None, np.ndarray]] = [
        ("cosine", layer, _symmetric(centred_cosine(hidden[:, :, i].mean(axis=1), names))[:, own])
        for i, layer in enumerate(study.plan.layers)
    ]
    if divergence is not None:
        blocks.append((DIVERGENCE, None, divergence))
    return pl.concat([_measured(study, measure, layer, values) for measure, layer, values in blocks])


def system_turn_table(study: Study, turns: Mapping[int, np.ndarray]) -> pl.DataFrame:
    """Cosine of every prompt by itself to every source, by layer; columns as ``similarity_table``.

    ``turns``: what the model makes of each prompt, (prompts, dimension) by layer.
    """
    names, own = list(study.panel.prompts), _source_places(study)
    frames = [
        _measured(
            study,
            SYSTEM_TURN_COSINE,
            layer,
            semantic_cosines(vectors, names, repeated=study.counted_twice)[:, own],
        )
        for layer, vectors in turns.items()
    ]
    return pl.concat(frames)


def _source_places(study: Study) -> list[int]:
    """Where the sources, or what stands for them, are in the panel."""
    return [study.panel.prompts.index(study.anchor(source)) for source in study.sources]


def _measured(study: Study, measure: str, layer: int | None, values: np.ndarray) -> pl.DataFrame:
    """A measure of every prompt (rows) to every source (columns) as rows of a table."""
    names = list(study.panel.prompts)
    return pl.concat(
        [
            pl.DataFrame(
                {
                    "measure": measure,
                    "layer": pl.Series([layer] * len(names), dtype=pl.Int64),
                    "source": source,
                    "prompt_name": names,
                    "value": values[:, column].astype(float),
                }
            )
            for column, source in enumerate(study.sources)
        ]
    )


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    """Two sources meet twice with one cosine: rounding must not break that tie, or their ranks would differ."""
    return (matrix + matrix.T) / 2  # type: ignore[no-any-return]


def require_persona_centroids(lab: Laboratory, study: Study) -> Artifact:
    """The current base geometry. Raises ``ArtifactMissing``."""
    return lab.require(
        lab.address(study, "persona_centroids"),
        geometry_identity(lab, study, lab.base_fingerprint),
        remedy="materialise persona_centroids first",
    )


def load_vectors(geometry: Artifact, layer: int) -> np.ndarray:
    """Hidden vectors of one layer, (prompts, questions, dimension) float32."""
    return _load(geometry, f"block_{layer}")


def load_divergence(geometry: Artifact) -> np.ndarray:
    """JS divergences in bits, (prompts, sources)."""
    return _load(geometry, DIVERGENCE)


def load_system_turns(geometry: Artifact, layer: int) -> np.ndarray:
    """Vectors of the prompts by themselves at one layer, (prompts, dimension) float32."""
    return _load(geometry, _system_turn(layer))


def _system_turn(layer: int) -> str:
    return f"system_turn_{layer}"


def _load(geometry: Artifact, name: str) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(geometry.folder / VECTORS, framework="numpy") as file:
        return file.get_tensor(name)  # type: ignore[no-any-return]


def prompt_similarity_key(lab: Laboratory, study: Study, geometry: Artifact) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Address and identity of the similarities of the base model."""
    identity = {
        "stage": "prompt_similarity",
        "geometry": geometry.manifest.digest,
        "sources": study.sources,
        **({"counted_twice": study.counted_twice} if study.compares_system_turns else {}),
    }
    return lab.address(study, "prompt_similarity"), identity


def require_prompt_similarity(lab: Laboratory, study: Study) -> Artifact:
    """The current similarities. Raises ``ArtifactMissing``."""
    address, identity = prompt_similarity_key(lab, study, require_persona_centroids(lab, study))
    return lab.require(address, identity, remedy="materialise prompt_similarity first")


def tuned_similarity_key(
    lab: Laboratory, study: Study, cell: Cell, adapter: Artifact
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Address and identity of the similarities of a tuned model."""
    identity = geometry_identity(lab, study, adapter.manifest.digest) | {"measures": ["cosine"]}
    return lab.address(study, "tuned_similarity", cell.condition.key, str(cell.seed)), identity


def find_tuned_similarity(lab: Laboratory, study: Study, cell: Cell) -> Artifact | None:
    """The tuned similarities of a cell if they are current, else None: the analysis can do without them."""
    adapter = require_proven_adapter(lab, study, cell)
    return lab.find(*tuned_similarity_key(lab, study, cell, adapter))
