"""The base model and the stimuli as artifacts: what everything else is made of, by digest."""

from __future__ import annotations

import json
from dataclasses import asdict

from leakage_assets.models import verify_base_model
from leakage_assets.pipeline.laboratory import Laboratory, Outcome
from leakage_assets.stimuli import stimuli_digest, stimuli_snapshot


def record_base_model(lab: Laboratory) -> Outcome:
    """Verify the base model's files and store its identity; the weights stay where they are.

    A hub commit that is not cached is fetched here, so that what is green is there. First step of every run, so it also
    clears what killed runs left half-written. Raises ``BaseModelError``.
    """
    lab.store.sweep()
    verified = {name: value for name, value in asdict(verify_base_model(lab.profile.base)).items() if value is not None}
    address, identity = lab.address(None, "base_model"), {"stage": "base_model", **lab.base_identity}
    metrics = {"model": lab.profile.base.name, **verified}
    found = lab.current(address, identity)
    if found is not None:
        return Outcome(found, True, metrics)
    with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
        (draft.folder / "identity.json").write_text(json.dumps(lab.base_identity, indent=2))
        draft.note(verified=verified)
    return Outcome(draft.artifact, False, metrics)


def record_stimuli(lab: Laboratory) -> Outcome:
    """Store one snapshot of every prompt and question of the profile."""
    stimuli = lab.profile.stimuli
    identity = {"stage": "stimuli", "digest": stimuli_digest(stimuli)}
    metrics = {
        "personas": len(stimuli.personas),
        "triggers": len(stimuli.triggers),
        "questions": sum(len(s.questions) for s in stimuli.question_sets.values()),
    }
    address = lab.address(None, "stimuli")
    found = lab.current(address, identity)
    if found is not None:
        return Outcome(found, True, metrics)
    with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
        (draft.folder / "stimuli.json").write_text(json.dumps(stimuli_snapshot(stimuli), indent=2, ensure_ascii=False))
    return Outcome(draft.artifact, False, metrics)
