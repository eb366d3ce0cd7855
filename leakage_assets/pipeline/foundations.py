"""The base model and the stimuli as artifacts: what everything else is made of, by digest."""

from __future__ import annotations

import json

from leakage_assets.pipeline.laboratory import Laboratory, Outcome
from leakage_assets.stimuli import stimuli_digest, stimuli_snapshot


def record_base_model(lab: Laboratory) -> Outcome:
    """Verify the base model and store its identity; the weights stay where they are."""
    address, identity = lab.address(None, "base_model"), {"stage": "base_model", **lab.base_identity}
    metrics = {"model": lab.profile.base.name}
    found = lab.current(address, identity)
    if found is not None:
        return Outcome(found, True, metrics)
    with lab.store.draft(address, identity, refresh=lab.refresh) as draft:
        (draft.folder / "identity.json").write_text(json.dumps(lab.base_identity, indent=2))
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
