"""A stage without what it is made from says what to materialise first; no model is needed for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from leakage_assets.pipeline.conclusions import (
    NothingToAnalyse,
    analyse_study,
    freeze_plan,
    require_analysis,
    sample_job,
    score_cell,
)
from leakage_assets.pipeline.foundations import record_base_model, record_stimuli
from leakage_assets.pipeline.geometry import compute_prompt_similarity, compute_tuned_similarity, geometry_identity
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.sampling import panel_requests
from leakage_assets.pipeline.training_data import build_training_set
from leakage_assets.profiles import load_profile
from leakage_assets.store.artifacts import ArtifactMissing
from leakage_assets.store.fingerprint import fingerprint
from leakage_assets_tests.small_study import PERSONAS, SOURCES, forbid_the_model, laboratory, make_adapter, the_study

Stage = Callable[[Laboratory], object]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    forbid_the_model(monkeypatch)
    return laboratory(tmp_path)


@pytest.mark.parametrize(
    ("stage", "first"),
    [
        (
            lambda lab: build_training_set(lab, the_study(lab), the_study(lab).conditions[0]),
            "on_policy_completions for villain",
        ),
        (lambda lab: make_adapter(lab, the_study(lab), the_study(lab).cells[0]), "on_policy_completions for villain"),
        (
            lambda lab: sample_job(lab, the_study(lab), the_study(lab).panel, the_study(lab).cells[1]),
            "on_policy_completions for comedian",
        ),
        (
            lambda lab: score_cell(lab, the_study(lab), the_study(lab).panel, the_study(lab).cells[0]),
            "on_policy_completions for villain",
        ),
        (lambda lab: compute_prompt_similarity(lab, the_study(lab)), "persona_centroids"),
        (
            lambda lab: compute_tuned_similarity(lab, the_study(lab), the_study(lab).cells[0]),
            "on_policy_completions for villain",
        ),
        (lambda lab: analyse_study(lab, the_study(lab)), "analysis_plan"),
        (lambda lab: require_analysis(lab, the_study(lab)), "analysis"),
    ],
)
def test_what_is_missing_is_named(empty: Laboratory, stage: Stage, first: str) -> None:
    with pytest.raises(ArtifactMissing, match=f"materialise {first}.* first"):
        stage(empty)


def test_an_analysis_needs_a_finished_cell(empty: Laboratory) -> None:
    freeze_plan(empty, the_study(empty))
    with pytest.raises(NothingToAnalyse, match="marker_leakage: no cell has scores yet: materialise scores"):
        analyse_study(empty, the_study(empty))


def test_foundations_are_recorded_once(empty: Laboratory) -> None:
    study = the_study(empty)
    stages: list[Stage] = [record_base_model, record_stimuli, lambda lab: freeze_plan(lab, study)]
    first, second = [stage(empty) for stage in stages], [stage(empty) for stage in stages]
    assert [outcome.reused for outcome in first] == [False] * 3
    assert [outcome.reused for outcome in second] == [True] * 3
    assert [o.artifact.manifest.digest for o in first] == [o.artifact.manifest.digest for o in second]
    assert second[2].metrics["plan_digest"] == study.plan.digest
    renewed = replace(empty, refresh="again")
    assert [stage(renewed).reused for stage in stages] == [False] * 3
    assert [stage(renewed).reused for stage in stages] == [True] * 3


def test_requests_are_the_panel_in_its_order(empty: Laboratory) -> None:
    study, stimuli = the_study(empty), empty.profile.stimuli
    panel = replace(study.panel, completions=2)
    requests = panel_requests(stimuli, panel, "marker_leakage/villain__no_marker/42")
    assert len(requests) == panel.size == 8 * 3 * 2
    assert [r.prompt_name for r in requests[::6]] == list(PERSONAS)
    assert [(r.question_name, r.index) for r in requests[:4]] == [
        (question.name, index) for question in stimuli.questions("eval")[:2] for index in range(2)
    ]
    assert {r.system for r in requests if r.prompt_name == "villain"} == {stimuli.persona("villain").prompt}


def test_the_order_of_the_panel_is_part_of_the_geometry(empty: Laboratory) -> None:
    """Vectors are stored in panel order: those of another order must not be taken for them."""
    study = the_study(empty)
    swapped = replace(study, panels=(replace(study.panel, prompts=PERSONAS[::-1]), *study.panels[1:]))
    assert swapped.panel.prompts[:-3:-1] == SOURCES
    digests = {fingerprint(geometry_identity(empty, s, "model")) for s in (study, swapped)}
    assert len(digests) == 2


@pytest.mark.parametrize("name", ["marker_leakage", "source_rate", "trigger_leakage"])
def test_prompts_by_themselves_are_in_the_identity_of_a_study_that_asks_for_them_alone(
    empty: Laboratory, name: str
) -> None:
    """A study without them keeps the geometry that it had before there were any."""
    study = load_profile("tiny").study(name)
    known = {"stage", "prompts", "questions", "layers", "sources", "model", "base", "libraries"}
    identity = geometry_identity(empty, study, "model")
    assert set(identity) - known == ({"system_turns"} if name == "trigger_leakage" else set())
    without = replace(study, compares_system_turns=False)
    assert (fingerprint(geometry_identity(empty, without, "model")) == fingerprint(identity)) == (
        not study.compares_system_turns
    )
    turns = replace(study, compares_system_turns=True)
    assert fingerprint(geometry_identity(empty, turns, "model")) != fingerprint(
        geometry_identity(empty, without, "model")
    )
