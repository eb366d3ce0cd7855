"""Damaged, foreign and unproven artifacts are refused, with the file and the remedy in the message."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from leakage_assets.generation.adapters import CONFIG, DIGEST, WEIGHTS, AdapterError
from leakage_assets.models import BaseModelError
from leakage_assets.paths import TINY_BASE
from leakage_assets.pipeline import adapters
from leakage_assets.pipeline.adapters import ProofFailed, require_proven_adapter
from leakage_assets.pipeline.conclusions import (
    analyse_study,
    finished_scores,
    freeze_plan,
    require_analysis,
    sample_job,
    score_cell,
)
from leakage_assets.pipeline.foundations import record_base_model
from leakage_assets.pipeline.geometry import compute_prompt_similarity, compute_tuned_similarity
from leakage_assets.pipeline.laboratory import Laboratory, Outcome
from leakage_assets.pipeline.sampling import SamplesMissing, run_sample_jobs
from leakage_assets.store.artifacts import ArtifactCorrupt, ArtifactMissing
from leakage_assets.store.samples import Sample, SampleStoreError
from leakage_assets.studies.study import Cell, Study
from leakage_assets.training.memory import MemoryPlan
from leakage_assets.training.train import TrainingError, TrainingMetrics, TrainingSummary
from leakage_assets_tests.small_study import (
    Finished,
    forbid_the_model,
    laboratory,
    make_adapter,
    sample_cells,
    small_profile,
    watch_engine,
)

pytestmark = pytest.mark.slow

STUDY = small_profile().studies[0]
CELL = STUDY.cells[0]


def one(root: Path, pattern: str) -> Path:
    """The one file under a root that matches."""
    (path,) = root.glob(f"tiny/{pattern}")
    return path


def flip(path: Path, place: float = 0.5) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


def sample_cell(lab: Laboratory) -> Outcome:
    return sample_cells(lab, {CELL: sample_job(lab, STUDY, STUDY.panel, CELL)})[CELL]


def score(lab: Laboratory) -> Outcome:
    return score_cell(lab, STUDY, STUDY.panel, CELL)


def of_another_panel(frame: pl.DataFrame) -> Sample:
    """A sample as of a panel with one more persona."""
    return replace(Sample(**frame.row(0, named=True)), sample_id="0" * 32, prompt_name="lawyer")


@pytest.mark.parametrize(
    ("pattern", "stage"),
    [
        ("marker_leakage/adapter/villain__full_completion/42/*/adapter_model.safetensors", make_adapter),
        ("marker_leakage/adapter/villain__full_completion/42/*/summary.json", make_adapter),
        ("marker_leakage/adapter/villain__full_completion/42/*/adapter_model.safetensors", require_proven_adapter),
        ("marker_leakage/adapter_proof/villain__full_completion/42/*/proof.json", make_adapter),
        ("marker_leakage/training_set/villain__full_completion/*/rows.parquet", make_adapter),
        ("on_policy_completions/villain/????????????????/index.parquet", make_adapter),
        ("marker_leakage/persona_centroids/*/vectors.safetensors", lambda lab, s, c: compute_prompt_similarity(lab, s)),
        ("marker_leakage/prompt_similarity/*/similarity.parquet", lambda lab, s, c: analyse_study(lab, s)),
        (
            "marker_leakage/samples/villain__full_completion/42/????????????????/index.parquet",
            lambda lab, s, c: score_cell(lab, s, s.panel, c),
        ),
        ("marker_leakage/scores/villain__full_completion/42/*/scores.parquet", lambda lab, s, c: analyse_study(lab, s)),
        ("marker_leakage/analysis_plan/*/plan.json", lambda lab, s, c: analyse_study(lab, s)),
        ("marker_leakage/tuned_similarity/villain__full_completion/42/*/similarity.parquet", compute_tuned_similarity),
    ],
)
def test_a_flipped_bit_is_found_by_whoever_reads_the_file(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
    stage: Callable[[Laboratory, Study, Cell], Any],
) -> None:
    forbid_the_model(monkeypatch)
    path = one(root, pattern)
    flip(path)
    with pytest.raises(ArtifactCorrupt, match=re.escape(f"{path.parent}: {path.name}: expected sha256")) as error:
        stage(laboratory(root), STUDY, CELL)
    assert f"delete the folder {path.parent} and re-run" in str(error.value)


def test_a_flipped_bit_in_a_shard_is_found_and_only_its_samples_are_made_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = "tiny/marker_leakage/samples/villain__full_completion/42/shards/*/*.parquet"
    shard, *others = sorted(root.glob(pattern))  # a slow machine commits every two seconds, so there may be several
    lost = pl.read_parquet(shard).height
    job = sample_job(laboratory(root), STUDY, STUDY.panel, CELL)
    before = job.frame()
    job.store.append([of_another_panel(before)])  # a second shard, of another panel
    flip(shard)
    lab = laboratory(root)
    for stage in (sample_cell, score):
        with pytest.raises(SampleStoreError, match=re.escape(f"{shard}: expected sha256")):
            stage(lab)
    shard.unlink()
    with pytest.raises(SamplesMissing, match="materialise samples for villain__full_completion seed 42 first"):
        score(lab)
    asked = watch_engine(monkeypatch)
    assert not sample_cell(lab).reused
    assert before.height == 24
    assert len(asked) == lost
    assert sample_job(lab, STUDY, STUDY.panel, CELL).frame().equals(before)
    assert score(lab).reused  # the very same samples
    assert all(other.exists() for other in others)


def test_the_remedy_for_a_damaged_adapter_works(root: Path, finished: Finished) -> None:
    path = one(root, "marker_leakage/adapter/villain__full_completion/42/*/adapter_model.safetensors")
    flip(path)
    shutil.rmtree(path.parent)
    again = make_adapter(laboratory(root), STUDY, CELL)
    assert not again.reused
    before = finished.outcomes["adapter/villain__full_completion"].artifact.manifest.digest
    assert again.artifact.manifest.digest == before
    assert sample_job(laboratory(root), STUDY, STUDY.panel, CELL).current() is not None


def test_an_unproven_adapter_is_refused_everywhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_the_model(monkeypatch)
    shutil.rmtree(one(root, "marker_leakage/adapter_proof/villain__full_completion/42/????????????????"))
    lab = laboratory(root)
    stages: list[Callable[[], object]] = [
        lambda: sample_job(lab, STUDY, STUDY.panel, CELL),
        lambda: score_cell(lab, STUDY, STUDY.panel, CELL),
        lambda: compute_tuned_similarity(lab, STUDY, CELL),
    ]
    for stage in stages:
        with pytest.raises(ArtifactMissing, match="villain__full_completion seed 42 again: it is there but was never"):
            stage()
    outcome = analyse_study(lab, STUDY)  # the unproven cell is left out, its scores notwithstanding
    assert not outcome.reused


Change = Callable[[Path], None]


def rewrite(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of an adapter and its recorded digest, as a training that went wrong would."""
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    (folder / DIGEST).write_text(json.dumps({"file": WEIGHTS, "sha256": digest}))


def first_b(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return next(tensor for name, tensor in sorted(tensors.items()) if "lora_B" in name)


def not_a_number(folder: Path) -> None:
    rewrite(folder, lambda tensors: first_b(tensors).view(-1).__setitem__(0, float("nan")))


def half_of_it(folder: Path) -> None:
    rewrite(folder, lambda tensors: [t.mul_(0.5) for n, t in tensors.items() if "lora_B" in n])


def of_another_base(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": "0" * 64}))


def of_another_shape(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "r": 4}))


def forge(monkeypatch: pytest.MonkeyPatch, original: Path, change: Change) -> None:
    """From now on training delivers a copy of an adapter with something changed."""

    def train(base, rows, recipe, seed, folder, *, mode, measured, **_):  # type: ignore[no-untyped-def]
        shutil.copytree(original, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        change(folder)
        measured(TrainingMetrics(mode, 1.0, 1, MemoryPlan(1000, False, 1, 2), None))
        return TrainingSummary(**json.loads((folder / "summary.json").read_text()))

    monkeypatch.setattr(adapters, "train_adapter", train)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (not_a_number, AdapterError, r"adapter_model.safetensors: tensor .*lora_B.* has NaN or infinite values"),
        (of_another_base, AdapterError, r"adapter_config.json: trained on base 000000000000, not on tiny_base"),
        (of_another_shape, AdapterError, r"adapter_model.safetensors: tensor .* but the base needs"),
        (half_of_it, ProofFailed, r"villain__full_completion seed 42: .*train it again with the refresh tag"),
    ],
)
def test_a_bad_adapter_is_never_used(
    root: Path,
    finished: Finished,
    monkeypatch: pytest.MonkeyPatch,
    change: Change,
    error: type[Exception],
    message: str,
) -> None:
    forge(monkeypatch, finished.outcomes["adapter/villain__full_completion"].artifact.folder, change)
    renewed = laboratory(root, refresh="again")
    for _ in range(2):  # and stays refused
        with pytest.raises(error, match=message):
            make_adapter(renewed, STUDY, CELL)
    with pytest.raises(ArtifactMissing, match="never proven"):
        sample_job(renewed, STUDY, STUDY.panel, CELL)
    monkeypatch.undo()
    healed = laboratory(root, refresh="once more")
    assert not make_adapter(healed, STUDY, CELL).reused
    assert sample_job(healed, STUDY, STUDY.panel, CELL).adapter_folder is not None


def test_a_training_that_fails_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = adapters.train_adapter

    def diverge(base, rows, recipe, seed, folder, **more):  # type: ignore[no-untyped-def]
        return original(base, rows, replace(recipe, learning_rate=1e30), seed, folder, **more)

    monkeypatch.setattr(adapters, "train_adapter", diverge)
    colder = tuple(replace(recipe, warmup_ratio=0.0) for recipe in STUDY.recipes)
    study, cell = replace(STUDY, recipes=colder), CELL
    before = {path for path in root.rglob("*") if path.name != ".lock"}
    with pytest.raises(TrainingError, match=r"recipe full_completion: .*lower the learning rate"):
        make_adapter(laboratory(root, study=study), study, cell)
    assert {path for path in root.rglob("*") if path.name != ".lock"} == before


def test_another_base_model_makes_nothing_old_usable(root: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY_BASE, tmp_path / "base"))
    weights = folder / "model.safetensors"
    flip(weights, 0.9)
    lab = laboratory(root)
    other = replace(lab, profile=replace(lab.profile, base=replace(lab.profile.base, source=str(folder))))
    with pytest.raises(ArtifactMissing, match="materialise on_policy_completions for villain first"):
        make_adapter(other, STUDY, CELL)
    with pytest.raises(BaseModelError, match=r"sha256 .* but pretraining.json says"):
        record_base_model(other)
    (folder / "pretraining.json").unlink()  # a local model of one's own has no such record
    assert not record_base_model(other).reused
    weights.write_bytes(weights.read_bytes()[:-100])
    cut = replace(other, profile=other.profile)
    with pytest.raises(BaseModelError, match=re.escape(str(weights))):
        cut.base()
    copied = replace(lab, profile=replace(lab.profile, base=replace(lab.profile.base, source=str(TINY_BASE))))
    assert make_adapter(copied, STUDY, CELL).reused


def test_one_damaged_cell_does_not_stop_the_sampling_of_the_others(root: Path) -> None:
    lab = laboratory(root)
    jobs = {cell: sample_job(lab, STUDY, STUDY.panel, cell) for cell in STUDY.cells}
    flip(next(jobs[CELL].store.folder.glob("*.parquet")))
    results = run_sample_jobs(lab, jobs)
    assert list(results) == list(STUDY.cells)
    assert isinstance(results.pop(CELL), SampleStoreError)
    assert results
    assert all(isinstance(result, Outcome) for result in results.values())


def test_a_cell_whose_samples_are_gone_is_no_longer_analysed(root: Path) -> None:
    lab = laboratory(root)
    assert CELL in finished_scores(lab, STUDY, STUDY.panel).artifacts
    shutil.rmtree(sample_job(lab, STUDY, STUDY.panel, CELL).store.folder)
    assert finished_scores(lab, STUDY, STUDY.panel).artifacts.keys() == set(STUDY.cells) - {CELL}
    with pytest.raises(ArtifactMissing, match="materialise analysis first"):
        require_analysis(lab, STUDY)


def test_a_plan_that_is_changed_back_finds_its_own_analysis(root: Path) -> None:
    lab = laboratory(root)
    first = require_analysis(lab, STUDY)
    other = replace(STUDY, plan=replace(STUDY.plan, permutations=STUDY.plan.permutations + 1))
    freeze_plan(lab, other)
    second = analyse_study(lab, other).artifact
    assert second.folder != first.folder == analyse_study(lab, STUDY).artifact.folder
    assert require_analysis(lab, STUDY) == first
    assert require_analysis(lab, other) == second


def test_a_refresh_makes_a_damaged_artifact_anew(root: Path) -> None:
    lab = laboratory(root)
    damaged = require_proven_adapter(lab, STUDY, CELL).folder
    flip(damaged / WEIGHTS)
    with pytest.raises(ArtifactCorrupt, match=f"delete the folder {re.escape(str(damaged))} and re-run, or run with"):
        make_adapter(laboratory(root), STUDY, CELL)
    renewed = laboratory(root, refresh="monday")
    assert not make_adapter(renewed, STUDY, CELL).reused
    assert make_adapter(renewed, STUDY, CELL).reused
    require_proven_adapter(renewed, STUDY, CELL)
