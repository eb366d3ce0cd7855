from __future__ import annotations

import copy
import functools
import gc
import json
import math
import weakref
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from leakage_assets.generation.adapters import CONFIG, WEIGHTS, attach_adapter, read_adapter
from leakage_assets.models import BaseModel, shared_copy
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.training.masks import EmptyLossMask, encode_rows
from leakage_assets.training.memory import TrainingMode
from leakage_assets.training.recipe import Recipe
from leakage_assets.training.reference import ReferenceLogprobs, score_probes
from leakage_assets.training.rows import RowError
from leakage_assets.training.train import TrainingError, TrainingMetrics, train_adapter
from leakage_assets.training.trainers import TimedTrainer
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


def test_rows_that_fail_their_check_are_not_trained_on(base: BaseModel, tmp_path: Path) -> None:
    """The check sees the very masks that would be trained on, before anything is written."""
    seen = []

    def refuse(masked) -> None:
        seen.extend(masked)
        raise RowError("not these")

    with pytest.raises(RowError, match="not these"):
        train_adapter(base, rows(), recipe(), 42, tmp_path / "none", marker=MARKER, check=refuse)
    assert seen == encode_rows(base.tokenizer, rows(), recipe(), MARKER)
    assert not (tmp_path / "none").exists()


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


@pytest.mark.parametrize(
    ("loss", "tail"), [("marker_only", "im_end"), ("full_completion", "both"), ("full_sequence", "both")]
)
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
@pytest.mark.parametrize("mode", ["packed", "as_published"])
def test_bfloat16_trains(base: BaseModel, tmp_path: Path, mode: TrainingMode) -> None:
    plain = train_adapter(base, rows(), recipe(), 1, tmp_path / "plain", marker=MARKER, mode=mode)
    mixed = train_adapter(base, rows(), recipe(precision="bfloat16"), 1, tmp_path / "mixed", marker=MARKER, mode=mode)
    assert math.isfinite(mixed.final_loss)
    assert mixed.final_loss == pytest.approx(plain.final_loss, rel=0.1)


@pytest.mark.slow
def test_bfloat16_weights_train(base: BaseModel, tmp_path: Path) -> None:
    half = replace(
        base,
        spec=replace(base.spec, dtype="bfloat16"),
        model=copy.deepcopy(base.model).to(torch.bfloat16),
    )
    plan = recipe(precision="bfloat16")
    whole = train_adapter(base, rows(), recipe(), 1, tmp_path / "whole", marker=MARKER)
    for mode in get_args(TrainingMode):
        trained = train_adapter(half, rows(), plan, 1, tmp_path / mode, marker=MARKER, mode=mode)
        assert trained.final_loss == pytest.approx(whole.final_loss, rel=0.1)
        assert {tensor.dtype for tensor in read_adapter(half, tmp_path / mode).tensors.values()} == {torch.float32}


def losses(folder: Path) -> list[float]:
    return pl.read_parquet(folder / "loss.parquet")["loss"].to_list()


def weights(base: BaseModel, folder: Path) -> torch.Tensor:
    tensors = read_adapter(base, folder).tensors
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.parametrize(("batch", "accum", "count"), [(4, 1, 8), (3, 2, 8), (2, 4, 7)])
def test_the_modes_agree_without_dropout(base: BaseModel, tmp_path: Path, batch: int, accum: int, count: int) -> None:
    """Same rows in each step, the last and smaller one of an epoch included; in float32 up to rounding.

    Of weights of size up to about 0.1 that 2 epochs at learning rate 1e-2 moved, none differs by more than 2e-4.
    """
    plan = recipe(batch_size=batch, grad_accum=accum, lora=replace(recipe().lora, dropout=0.0))
    made = {}
    for mode in get_args(TrainingMode):
        folder = tmp_path / mode
        made[mode] = train_adapter(base, rows(count=count), plan, 1, folder, marker=MARKER, mode=mode)
    packed, published = tmp_path / "packed", tmp_path / "as_published"
    assert losses(packed) == pytest.approx(losses(published), rel=1e-4)
    torch.testing.assert_close(weights(base, packed), weights(base, published), rtol=0, atol=2e-4)
    assert float((weights(base, published) - initial(base, plan, tmp_path)).abs().max()) > 1e-2
    assert made["packed"].steps == made["as_published"].steps == plan.steps(2 * count)
    assert made["packed"].loss_tokens == made["as_published"].loss_tokens


def test_as_published_is_the_trainer_of_trl(base: BaseModel, tmp_path: Path) -> None:
    """Against TRL's trainer with its own choices wherever the published runs made none, under dropout.

    TRL computes the loss of the labelled positions alone, so losses agree up to rounding; masks, order and schedule
    are the same, or they would not.
    """
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    plan = recipe(batch_size=3, grad_accum=2, lora=replace(recipe().lora, dropout=0.2))
    train_adapter(base, rows(), plan, 1, tmp_path / "ours", marker=MARKER, mode="as_published")
    masked = encode_rows(base.tokenizer, rows(), plan, MARKER)
    seed, order = (derive_seed("train", part, 1) % 2**32 for part in ("initialisation and dropout", "row order"))
    set_seed(seed)
    lora = plan.lora
    trainer = SFTTrainer(
        model=get_peft_model(
            shared_copy(base.model),
            LoraConfig(
                task_type="CAUSAL_LM",
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                use_rslora=lora.rslora,
                target_modules=list(lora.targets),
            ),
        ),
        processing_class=base.tokenizer,
        train_dataset=Dataset.from_list([{"input_ids": list(row.input_ids), "labels": row.labels} for row in masked]),
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"),
            report_to="none",
            seed=seed,
            data_seed=order,
            learning_rate=plan.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=plan.warmup_ratio,
            num_train_epochs=plan.epochs,
            per_device_train_batch_size=3,
            gradient_accumulation_steps=2,
            optim="adamw_torch",
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
    )
    trainer.train()
    expected = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses(tmp_path / "ours") == pytest.approx(expected, rel=1e-4)
    trainer.model.save_pretrained(tmp_path / "trl", save_embedding_layers=False)
    found = load_file(tmp_path / "ours" / WEIGHTS)
    for name, tensor in load_file(tmp_path / "trl" / WEIGHTS).items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-4)


def initial(base: BaseModel, plan: Recipe, folder: Path) -> torch.Tensor:
    """The weights before the first step: those after training at a vanishing rate."""
    train_adapter(base, rows(), replace(plan, learning_rate=1e-30), 1, folder / "still", marker=MARKER)
    return weights(base, folder / "still")


@pytest.mark.parametrize("mode", ["packed", "as_published"])
def test_dropout_is_on_in_training_and_off_in_the_reference(
    base: BaseModel, tmp_path: Path, mode: TrainingMode
) -> None:
    made = {}
    for rate in (0.0, 0.5):
        plan = recipe(lora=replace(recipe().lora, dropout=rate))
        made[rate] = train_adapter(base, rows(), plan, 1, tmp_path / str(rate), marker=MARKER, mode=mode)
    # Before the first step B is zero, and so is what dropout does.
    assert made[0.5].first_loss == pytest.approx(made[0.0].first_loss, rel=1e-5)
    assert made[0.5].final_loss > 1.02 * made[0.0].final_loss
    reference = ReferenceLogprobs.read(tmp_path / "0.5")
    model = attach_adapter(base, tmp_path / "0.5")
    assert score_probes(model, reference.probes, base.padding) == reference.with_adapter


def test_memory_decides_how_and_not_what(base: BaseModel, tmp_path: Path) -> None:
    """Under dropout: in one pass, cut into passes, and with checkpointing the adapter is the same up to rounding."""
    plan, told = recipe(batch_size=4, grad_accum=2, epochs=1), {}
    for name, free in (("whole", 10**12), ("checkpointed", 2_000_000), ("least", 0)):
        train_adapter(
            base,
            rows(),
            plan,
            1,
            tmp_path / name,
            marker=MARKER,
            free_bytes=free,
            measured=lambda metrics, name=name: told.update({name: metrics}),
        )
    assert [(told[name].passes, told[name].memory.checkpointing) for name in ("whole", "least")] == [
        (1, False),
        (8, True),
    ]
    assert told["checkpointed"].memory.checkpointing and 1 < told["checkpointed"].passes < 8
    for name in ("checkpointed", "least"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)
        torch.testing.assert_close(weights(base, tmp_path / name), weights(base, tmp_path / "whole"), rtol=0, atol=2e-4)
    assert (tmp_path / "least" / "summary.json").read_text().count("seconds") == 0


@pytest.mark.parametrize("mode", ["packed", "as_published"])
def test_a_cell_does_not_depend_on_what_was_trained_before_it(
    base: BaseModel, tmp_path: Path, mode: TrainingMode
) -> None:
    def train(name: str, seed: int, plan: Recipe) -> bytes:
        train_adapter(base, rows(), plan, seed, tmp_path / name, marker=MARKER, mode=mode)
        return (tmp_path / name / WEIGHTS).read_bytes()

    plan = recipe(epochs=1)
    alone = train("alone", 1, plan)
    other = train("other", 2, recipe(epochs=1, loss="marker_only", batch_size=2))
    torch.rand(17)
    assert train("after", 1, plan) == alone != other


def test_the_published_head_covers_every_position_and_the_packed_one_the_labels(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[int]] = {"packed": set(), "as_published": set()}
    plan = recipe(loss="marker_only", epochs=1, batch_size=16)
    masked = encode_rows(base.tokenizer, rows(), plan, MARKER)
    head = torch.nn.functional.linear
    for mode in get_args(TrainingMode):

        def linear(x: Any, weight: Any, *rest: Any, mode: str = mode) -> Any:
            if weight.shape[0] == base.model.config.vocab_size and x.requires_grad:
                seen[mode].add(x.shape[:-1].numel())
            return head(x, weight, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.functional, "linear", linear)
            train_adapter(base, rows(), plan, 1, tmp_path / mode, marker=MARKER, mode=mode)
    assert seen["packed"] == {sum(len(row.kept) for row in masked)}
    assert seen["as_published"] == {16 * max(len(row.input_ids) for row in masked)}


def test_how_it_ran_is_told_and_in_no_file(base: BaseModel, tmp_path: Path) -> None:
    told: list[TrainingMetrics] = []
    summary = train_adapter(base, rows(), recipe(), 1, tmp_path, marker=MARKER, measured=told.append)
    (metrics,) = told
    assert 0 < metrics.seconds < 600 and metrics.mode == "packed" and metrics.peak_bytes is None
    assert metrics.passes == 1 and metrics.memory.fits and metrics.memory.estimated_bytes > 0
    assert set(json.loads((tmp_path / "summary.json").read_text())) == set(asdict(summary))


class Refused(Exception):
    """Not about memory."""


@pytest.mark.parametrize("mode", ["packed", "as_published"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nDetails"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_out_of_memory_says_what_was_needed_and_what_to_lower(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: TrainingMode, error: Exception
) -> None:
    fail_in_the_model(monkeypatch, base, error)
    with pytest.raises(TrainingError) as raised:
        train_adapter(base, rows(), recipe(), 1, tmp_path, marker=MARKER, mode=mode, free_bytes=3 * 2**30)
    said = str(raised.value)
    assert f"recipe quick: out of memory in mode {mode}" in said and "GiB beyond the base model" in said
    assert "3.0 GiB were free; lower " in said and "max_length" in said
    assert str(error).partition("\n")[0] in said and "Details" not in said
    assert raised.value.__cause__ is None and raised.value.__context__ is None


def test_an_allocation_that_really_fails_is_told_as_out_of_memory(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever words PyTorch's allocator has for it."""
    original = type(base.model).forward

    @functools.wraps(original)
    def forward(self: Any, *arguments: Any, **named: Any) -> Any:
        if self.training:
            torch.empty(2**50, dtype=torch.uint8)  # more than any machine's address space holds
        return original(self, *arguments, **named)

    monkeypatch.setattr(type(base.model), "forward", forward)
    with pytest.raises(TrainingError, match=r"out of memory in mode packed .* GiB were free; lower "):
        train_adapter(base, rows(), recipe(), 1, tmp_path, marker=MARKER)


def fail_in_the_model(
    monkeypatch: pytest.MonkeyPatch, base: BaseModel, error: Exception, models: list[Any] | None = None
) -> None:
    """From now on a forward pass in training ends in `error`; `models` gets weak references to what was trained."""
    kind = type(base.model)
    original = kind.forward

    @functools.wraps(original)
    def forward(self: Any, *arguments: Any, **named: Any) -> Any:
        if self.training:
            if models is not None:
                models.append(weakref.ref(self))
            raise type(error)(*error.args)  # one whose frames nobody else holds
        return original(self, *arguments, **named)

    monkeypatch.setattr(kind, "forward", forward)


def test_what_ran_out_of_memory_is_let_go_while_its_error_is_kept(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[Any] = []
    with monkeypatch.context() as patch:
        fail_in_the_model(patch, base, torch.OutOfMemoryError("out of memory"), models)
        with pytest.raises(TrainingError) as raised:
            train_adapter(base, rows(), recipe(), 1, tmp_path / "failed", marker=MARKER)
    assert len(models) == 1 and models[0]() is None
    assert "out of memory" in str(raised.value)
    train_adapter(base, rows(), recipe(epochs=1), 1, tmp_path / "next", marker=MARKER)
    assert read_adapter(base, tmp_path / "next").digest


@pytest.mark.parametrize("mode", ["packed", "as_published"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_adapter_is_let_go_when_its_training_ends(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: TrainingMode, precision: str
) -> None:
    """Its weights and Adam's moments on a GPU must not wait for a collection of garbage: the next one needs room."""
    held: list[Any] = []
    original = TimedTrainer.run

    def run(trainer: TimedTrainer) -> None:
        original(trainer)
        held.extend(weakref.ref(p) for p in trainer.model.parameters() if p.requires_grad)
        held.extend(weakref.ref(state["exp_avg"]) for state in trainer.optimizer.state.values())

    monkeypatch.setattr(TimedTrainer, "run", run)
    gc.disable()
    try:
        plan = recipe(epochs=1, precision=precision)
        train_adapter(base, rows(), plan, 1, tmp_path, marker=MARKER, mode=mode)
        assert len(held) == 2 * 2 * 7 * base.blocks
        assert [ref() for ref in held if ref() is not None] == []
    finally:
        gc.enable()


def test_an_error_that_is_not_about_memory_stays_what_it_is(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (RuntimeError("shapes do not match"), Refused("no")):
        with monkeypatch.context() as patch:
            fail_in_the_model(patch, base, error)
            with pytest.raises(type(error), match=str(error)):
                train_adapter(base, rows(), recipe(), 1, tmp_path, marker=MARKER)


@pytest.mark.slow
def test_a_run_of_wandb_is_ended_when_its_training_fails(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    fail_in_the_model(monkeypatch, base, torch.OutOfMemoryError("out of memory"))
    with pytest.raises(TrainingError, match="out of memory"):
        train_adapter(base, rows(), recipe(), 1, tmp_path / "a", marker=MARKER, report_to="wandb")
    assert wandb.run is None
