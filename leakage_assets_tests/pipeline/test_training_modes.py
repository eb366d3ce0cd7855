"""What the pipeline makes of the mode of training, of its metrics, and of a cell that runs out of memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from leakage_assets.cell_runs import Tally
from leakage_assets.pipeline import adapters
from leakage_assets.pipeline.accounting import earlier_work
from leakage_assets.pipeline.adapters import adapter_address, adapter_identity
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.planning.hardware import this_cpu
from leakage_assets.studies.study import Cell
from leakage_assets.training.recipe import TrainingError
from leakage_assets_tests.small_study import Finished, laboratory, make_adapter, the_study

HOW = {"mode", "seconds", "passes", "memory", "peak_bytes"}
PERFORMANCE = {"tokens_per_s", "model_flop_utilisation", "share_of_limit"}


KINDS = {"packed": "training", "as_published": "training as published"}


def in_mode(lab: Laboratory, mode: str) -> Laboratory:
    return replace(lab, profile=replace(lab.profile, training_mode=mode))


def test_the_mode_is_part_of_the_identity_and_how_it_ran_of_the_provenance(root: Path, finished: Finished) -> None:
    lab = laboratory(root)
    study = the_study(lab)
    cell = study.cells[0]
    assert lab.profile.training_mode == "packed"
    assert adapter_identity(lab, study, cell)["mode"] == "packed"
    packed = make_adapter(lab, study, cell)
    assert packed.reused
    published = make_adapter(in_mode(lab, "as_published"), study, cell)
    assert not published.reused
    assert adapter_identity(in_mode(lab, "as_published"), study, cell)["mode"] == "as_published"
    assert published.artifact.folder != packed.artifact.folder
    for outcome, mode in ((packed, "packed"), (published, "as_published")):
        training = outcome.artifact.manifest.provenance["training"]
        assert set(training) == HOW and training["mode"] == mode
        assert set(training["memory"]) == {"token_budget", "checkpointing", "estimated_bytes", "free_bytes"}
        summary = json.loads((outcome.artifact.folder / "summary.json").read_text())
        assert not set(summary) & (HOW | PERFORMANCE)
        assert outcome.metrics["tokens_per_s"] == pytest.approx(summary["tokens"] / training["seconds"])
        assert 0 < outcome.metrics["model_flop_utilisation"] <= outcome.metrics["share_of_limit"]
        worked = earlier_work(outcome.artifact, this_cpu())
        assert worked is not None and worked.kind == KINDS[mode]
        assert worked.work[0].tokens == pytest.approx(summary["tokens"])


def test_a_cell_out_of_memory_is_told_and_the_others_go_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = laboratory(root, refresh="all anew")
    study = the_study(lab)
    broken, *others = study.cells
    kind = type(lab.base().model)
    original, train = kind.forward, adapters.train_adapter

    def full(model: Any, *arguments: Any, **named: Any) -> Any:
        if model.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(model, *arguments, **named)

    def train_adapter(*arguments: Any, **named: Any) -> Any:
        first = str(arguments[4].parent).endswith(str(Path(*adapter_address(lab, study, broken))))
        with monkeypatch.context() as patch:
            if first:
                patch.setattr(kind, "forward", full)
            return train(*arguments, **named)

    monkeypatch.setattr(adapters, "train_adapter", train_adapter)
    before = {path for path in root.rglob("*") if path.name != ".lock"}
    by_key = {str(cell): cell for cell in (broken, *others)}
    tally = Tally().attempt(by_key, lambda key: make_adapter(lab, study, by_key[key]))
    assert set(tally.failed) == {str(broken)} and set(tally.done) == {str(cell) for cell in others}
    error = tally.failed[str(broken)]
    assert isinstance(error, TrainingError)
    said, recipe = str(error), study.recipe(broken.condition.recipe).name
    assert f"recipe {recipe}: out of memory in mode packed (CUDA out of memory. Tried to allocate 2.00 GiB.)" in str(
        error
    )
    assert "GiB were free; lower " in said
    assert all(not outcome.reused for outcome in tally.done.values())
    new = {path for path in root.rglob("*") if path.name != ".lock"} - before
    assert not any(belongs(path, broken, lab) for path in new)


def belongs(path: Path, cell: Cell, lab: Laboratory) -> bool:
    """Whether a file is of the cell's adapter."""
    return str(Path(*adapter_address(lab, the_study(lab), cell))) in str(path)
