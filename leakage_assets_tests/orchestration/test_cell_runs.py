"""Ranged runs in process: many cells in one run, failed cells named, finished ones kept and never redone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest

from leakage_assets.checks import PROOF
from leakage_assets.pipeline import adapters
from leakage_assets.resources import REFRESH_TAG, LaboratoryResource
from leakage_assets.training.train import TrainingError
from leakage_assets_tests.orchestration.small_location import NAME, defs
from leakage_assets_tests.orchestration.workshop import Workshop

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("orchestration")]

SEED, OTHER_SEED = 42, 137
STAGES = ("adapter", "samples", "scores")
BROKEN = "comedian__full_completion"


def watch_training(monkeypatch: pytest.MonkeyPatch, breaks: Callable[[str], bool] = lambda _: False) -> Counter[str]:
    """From now on trainings are counted by condition, and those that ``breaks`` picks fail."""
    trained: Counter[str] = Counter()
    original = adapters.train_adapter

    def train_adapter(base: Any, rows: Any, recipe: Any, seed: int, draft: Any, **kwargs: Any) -> Any:
        condition = draft.parts[-3]
        trained[condition] += 1
        if breaks(condition):
            raise TrainingError(f"{condition}: the loss is not finite")
        return original(base, rows, recipe, seed, draft, **kwargs)

    monkeypatch.setattr(adapters, "train_adapter", train_adapter)
    return trained


def materialisations(result: dg.ExecuteInProcessResult, key: dg.AssetKey) -> dict[str, dict[str, Any]]:
    """Metadata by partition; every partition is told once."""
    events = [event for event in result.get_asset_materialization_events() if event.asset_key == key]
    told = {
        str(event.partition): {name: value.value for name, value in event.materialization.metadata.items()}
        for event in events
    }
    assert len(told) == len(events)
    return told


def failure_text(result: dg.ExecuteInProcessResult) -> str:
    """What the one failed step said."""
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    data = failed.step_failure_data.user_failure_data
    assert data is not None and data.description is not None
    return data.description


def proofs(workshop: Workshop, run_id: str) -> dict[str | None, bool]:
    """Stored evaluations of the adapter proof by partition; None is the aggregate. A planned one is no evaluation."""
    records = workshop.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(workshop.key("adapter"), PROOF), limit=100
    )
    events = [record.event for record in records if record.run_id == run_id and record.event is not None]
    evaluations = [
        event.dagster_event.asset_check_evaluation_data
        for event in events
        if event.dagster_event and event.dagster_event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]
    return {e.partition: e.passed for e in evaluations}


def test_one_run_finishes_every_cell_of_a_seed(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = watch_training(monkeypatch)
    keys = {str(key) for key in workshop.keys(SEED)}
    result = workshop.run_seed(STAGES, SEED)
    assert result.success
    assert trained == Counter(condition.key for condition in workshop.study.conditions)
    for stage, metric in (("adapter", "final_loss"), ("samples", "mean_tokens"), ("scores", "source_rate")):
        told = materialisations(result, workshop.key(stage))
        assert set(told) == workshop.materialised(stage) == keys
        assert all(isinstance(told[key][metric], float) and not told[key]["reused"] for key in keys)
    # Adapters and samples share a process, and with it the base and the engine.
    steps = {event.step_key for event in result.all_events if event.is_step_success}
    assert {(step or "").rpartition("__")[2] for step in steps} == {"adapter_and_samples", "scores"}
    assert len({told["path"] for told in materialisations(result, workshop.key("scores")).values()}) == len(keys)
    assert proofs(workshop, result.run_id) == {**dict.fromkeys(keys, True), None: True}
    proof = dg.AssetCheckKey(workshop.key("adapter"), PROOF)
    told = workshop.instance.event_log_storage.get_asset_check_partition_info([proof], partition_keys=sorted(keys))
    assert {info.partition_key for info in told} == keys
    assert all(info.is_current for info in told)  # else the UI calls the proof of a proven cell missing

    again = workshop.run_seed(STAGES, SEED)
    assert again.success and sum(trained.values()) == len(keys)
    for stage in STAGES:
        assert all(metadata["reused"] for metadata in materialisations(again, workshop.key(stage)).values())


def test_a_failed_cell_is_named_and_alone_redone(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, broken = {str(key) for key in workshop.keys(SEED)}, f"{BROKEN}|{SEED}"
    with monkeypatch.context() as patch:
        watch_training(patch, breaks=lambda condition: condition == BROKEN)
        result = workshop.run_seed(STAGES, SEED)
    assert not result.success
    said = failure_text(result)
    assert "1 of 4 partitions failed" in said and f"{broken}: {BROKEN}: the loss is not finite" in said
    assert workshop.materialised("adapter") == workshop.materialised("samples") == keys - {broken}
    assert workshop.materialised("scores") == set()
    assert proofs(workshop, result.run_id) == dict.fromkeys(keys - {broken}, True)  # the broken one was never proven

    trained = watch_training(monkeypatch)
    again = workshop.run_seed(STAGES, SEED)
    assert again.success and trained == Counter([BROKEN])
    told = materialisations(again, workshop.key("adapter"))
    assert {key for key, metadata in told.items() if not metadata["reused"]} == {broken}
    told = materialisations(again, workshop.key("samples"))
    assert {key for key, metadata in told.items() if not metadata["reused"]} == {broken}
    assert workshop.materialised("scores") == keys


def test_an_unproven_adapter_is_not_sampled(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, broken = {str(key) for key in workshop.keys(SEED)}, f"{BROKEN}|{SEED}"
    original = adapters.prove_adapter

    def prove_adapter(engine: Any, base: Any, folder: Any) -> Any:
        proof = original(engine, base, folder)
        if folder.parts[-3] != BROKEN:
            return proof
        first, *others = proof.checks
        return replace(proof, checks=(replace(first, passed=False), *others))

    with monkeypatch.context() as patch:
        patch.setattr(adapters, "prove_adapter", prove_adapter)
        unproven = workshop.run_seed(STAGES, SEED)
    assert not unproven.success and broken in failure_text(unproven)
    assert proofs(workshop, unproven.run_id) == {key: key != broken for key in keys}
    assert workshop.materialised("samples") == keys - {broken}

    sampled = workshop.run_seed(["samples"], SEED)
    assert not sampled.success
    said = failure_text(sampled)
    assert "1 of 4 partitions failed" in said and broken in said and "was never proven" in said
    assert workshop.materialised("samples") == keys - {broken}


def test_a_cell_without_adapter_says_what_to_materialise(workshop: Workshop) -> None:
    result = workshop.run_seed(["samples"], OTHER_SEED)
    said = failure_text(result)
    assert "4 of 4 partitions failed" in said
    assert f"materialise adapter for {BROKEN} seed {OTHER_SEED} first" in said


def test_a_weekly_tick_redoes_the_finished_cells_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    job = defs.get_repository_def().get_job("marker_leakage_cells")

    def tick() -> dict[str, str]:
        at = datetime(2026, 3, 2, 3, tzinfo=UTC)
        context = dg.build_schedule_context(scheduled_execution_time=at, repository_def=defs.get_repository_def())
        schedule = defs.get_repository_def().get_schedule_def("marker_leakage_weekly_rerun")
        (request,) = schedule.evaluate_tick(context).run_requests
        return dict(request.tags)

    def run(tags: dict[str, str]) -> dg.ExecuteInProcessResult:
        laboratory = LaboratoryResource(profile=NAME, artifacts=str(workshop.root))
        return job.execute_in_process(instance=workshop.instance, tags=tags, resources={"laboratory": laboratory})

    def reused(result: dg.ExecuteInProcessResult) -> set[bool]:
        told = [materialisations(result, workshop.key(stage)) for stage in STAGES]
        assert all(len(metadata) == len(workshop.study.conditions) for metadata in told)
        return {cell["reused"] for metadata in told for cell in metadata.values()}

    once = Counter(condition.key for condition in workshop.study.conditions)
    trained = watch_training(monkeypatch)
    ordinary = {name: value for name, value in tick().items() if name != REFRESH_TAG}
    assert reused(run(ordinary)) == {False} and trained == once
    assert reused(run(tick())) == {False} and trained == once + once
    assert reused(run(tick())) == {True} and trained == once + once
