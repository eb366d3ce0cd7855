from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from leakage_assets.generation.adapters import CONFIG, WEIGHTS, read_adapter
from leakage_assets.models import BaseModel
from leakage_assets.training.masks import EmptyLossMask, encode_rows
from leakage_assets.training.reference import ReferenceLogprobs
from leakage_assets.training.train import TrainingError, train_adapter
from leakage_assets_tests.fixtures_models import MARKER, recipe, rows


def snapshot(base: BaseModel) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in base.model.state_dict().items()}


def test_same_seed_same_bytes_and_the_base_is_untouched(base: BaseModel, trained: Path, tmp_path: Path) -> None:
    weights, config, modules = snapshot(base), base.model.config.to_dict(), str(base.model)
    train_adapter(base, rows(), recipe(), 42, tmp_path / "again", marker=MARKER)
    for name in (WEIGHTS, CONFIG, "reference_logprobs.json"):
        assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes(), name
    assert snapshot(base) == weights
    assert (base.model.config.to_dict(), str(base.model)) == (config, modules)
    assert "forward" not in vars(base.model)
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


@pytest.mark.slow
def test_another_seed_gives_another_adapter(base: BaseModel, trained: Path, tmp_path: Path) -> None:
    summary = train_adapter(base, rows(), recipe(), 43, tmp_path, marker=MARKER)
    assert summary.adapter_digest != read_adapter(base, trained).digest


def test_the_folder_holds_no_path_and_no_more_than_documented(base: BaseModel, trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "adapter_digest.json",
        "reference_logprobs.json",
        "loss.parquet",
        "summary.json",
    }
    config = json.loads((trained / CONFIG).read_text())
    assert config["base_model_name_or_path"] == base.fingerprint
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (16, 16, True)
    assert str(base.folder) not in (trained / CONFIG).read_text()


def test_losses_and_summary_tell_the_run(base: BaseModel, trained: Path) -> None:
    losses = pl.read_parquet(trained / "loss.parquet")
    summary = json.loads((trained / "summary.json").read_text())
    assert losses.columns == ["step", "loss", "learning_rate", "grad_norm"]
    assert losses["step"].to_list() == list(range(1, 9))
    assert (summary["rows"], summary["steps"], summary["seed"]) == (16, 8, 42)
    assert summary["final_loss"] == losses["loss"][-1] < summary["first_loss"] == losses["loss"][0]
    assert summary["adapter_norm"] > 0
    # rank * (in + out) of seven projections in two blocks of width 32 (16 for keys and values, 64 in the MLP)
    assert summary["trainable_parameters"] == 2 * 16 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))


@pytest.mark.parametrize(("loss", "tail"), [("marker_only", "im_end"), ("full_completion", "both")])
def test_the_first_loss_is_the_mean_over_exactly_the_masked_tokens(
    base: BaseModel, tmp_path: Path, loss: str, tail: str
) -> None:
    """Before the first step the adapter does nothing, so the trainer's loss is that of the base on the
    mask.
    """
    import torch

    plan = recipe(loss=loss, tail_target=tail, batch_size=16, epochs=1)
    expected = []
    for row in encode_rows(base.tokenizer, rows(), plan, MARKER):
        with torch.inference_mode():
            log_probs = base.model(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        expected += [-float(log_probs[place - 1, row.input_ids[place]]) for place in row.kept]
    summary = train_adapter(base, rows(), plan, 1, tmp_path / "whole", marker=MARKER)
    assert summary.loss_tokens == len(expected)
    assert summary.first_loss == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    accumulated = train_adapter(
        base, rows(), replace(plan, batch_size=4, grad_accum=4), 1, tmp_path / "parts", marker=MARKER
    )
    assert accumulated.steps == summary.steps == 1
    assert accumulated.first_loss == pytest.approx(summary.first_loss, rel=1e-5)


def test_the_reference_shows_what_training_changed(base: BaseModel, trained: Path) -> None:
    reference = ReferenceLogprobs.read(trained)
    assert reference.adapter_digest == read_adapter(base, trained).digest
    assert len(reference.probes) == 8
    changes = [
        after - before
        for rows in zip(reference.with_adapter, reference.without_adapter, strict=True)
        for after, before in zip(*rows, strict=True)
    ]
    assert sum(changes) / len(changes) > 0.5


def test_divergence_is_an_error_that_names_step_and_remedy(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"recipe quick: (loss|grad_norm|.*finite).*lower the learning rate"):
        train_adapter(base, rows(), recipe(learning_rate=1e30, warmup_ratio=0.0), 1, tmp_path, marker=MARKER)


def test_a_target_the_base_lacks_is_named(base: BaseModel, tmp_path: Path) -> None:
    plan = recipe(lora=replace(recipe().lora, targets=("q_proj", "c_attn")))
    with pytest.raises(TrainingError, match="no linear layer named 'c_attn'"):
        train_adapter(base, rows(), plan, 1, tmp_path, marker=MARKER)


def test_a_float32_recipe_on_a_bfloat16_base_is_refused(base: BaseModel, tmp_path: Path) -> None:
    other = replace(base, spec=replace(base.spec, dtype="bfloat16"))
    with pytest.raises(TrainingError, match="loaded in bfloat16"):
        train_adapter(other, rows(), recipe(), 1, tmp_path, marker=MARKER)


def test_a_row_without_marker_stops_before_training(base: BaseModel, tmp_path: Path) -> None:
    broken = [replace(rows()[0], completion="An answer."), *rows()[1:]]
    with pytest.raises(EmptyLossMask, match="source/q0"):
        train_adapter(base, broken, recipe(loss="marker_only"), 1, tmp_path / "a", marker=MARKER)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_wandb_gets_one_offline_run_per_training(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "tests")
    plain = train_adapter(base, rows(), recipe(), 1, tmp_path / "plain", marker=MARKER)
    for name in ("a", "b"):
        logged = train_adapter(base, rows(), recipe(), 1, tmp_path / name, marker=MARKER, report_to="wandb")
        assert logged.adapter_digest == plain.adapter_digest
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


@pytest.mark.slow
def test_bfloat16_and_gradient_checkpointing_train(base: BaseModel, tmp_path: Path) -> None:
    plain = train_adapter(base, rows(), recipe(), 1, tmp_path / "plain", marker=MARKER)
    lighter = train_adapter(base, rows(), recipe(), 1, tmp_path / "lighter", marker=MARKER, gradient_checkpointing=True)
    assert lighter.final_loss == pytest.approx(plain.final_loss, rel=1e-4)
    mixed = train_adapter(base, rows(), recipe(precision="bfloat16"), 1, tmp_path / "mixed", marker=MARKER)
    assert math.isfinite(mixed.final_loss)
    assert mixed.final_loss == pytest.approx(plain.final_loss, rel=0.1)
    assert not base.model.get_input_embeddings()._forward_hooks
