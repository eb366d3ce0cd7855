"""LoRA training of one cell with TRL's SFTTrainer on a base model that other cells share."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from leakage_assets.exceptions import PartitionError
from leakage_assets.generation.adapters import CONFIG, DIGEST, WEIGHTS, expected_shapes, weights_digest
from leakage_assets.models import BaseModel, shared_copy
from leakage_assets.progress import Progress
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.training.masks import MaskedRow, encode_rows
from leakage_assets.training.recipe import Recipe
from leakage_assets.training.reference import ReferenceLogprobs, probes_of, score_probes
from leakage_assets.training.rows import Row

if TYPE_CHECKING:
    from peft import PeftModel
    from trl import SFTTrainer

LOSSES = "loss.parquet"
SUMMARY = "summary.json"
SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}

ReportTo = Literal["none", "wandb"]


class TrainingError(PartitionError):
    """Training could not start, or it diverged; the message names the recipe and the step."""


@dataclass(frozen=True)
class TrainingSummary:
    """What one training did. `tokens` counts all epochs without padding; losses are means over loss-bearing
    tokens. Where and how long is not in it: equal adapters must have equal files.
    """

    recipe: str
    seed: int
    rows: int
    steps: int
    tokens: int
    loss_tokens: int
    trainable_parameters: int
    first_loss: float
    final_loss: float
    mean_loss: float
    adapter_norm: float
    adapter_digest: str


def _steps(total: int) -> Progress:
    return Progress(total, "training steps")


def train_adapter(
    base: BaseModel,
    rows: Sequence[Row],
    recipe: Recipe,
    seed: int,
    folder: Path,
    *,
    marker: str,
    progress: Callable[[int], Progress] = _steps,
    report_to: ReportTo = "none",
    gradient_checkpointing: bool = False,
) -> TrainingSummary:
    """Train a LoRA adapter on `rows` and write it to `folder` (made if absent).

    `folder` gets adapter_model.safetensors and adapter_config.json in PEFT's format (with the base's
    fingerprint in place of a path), adapter_digest.json, reference_logprobs.json, loss.parquet (step, loss,
    learning_rate, grad_norm) and summary.json. Initialisation, dropout and row order come from
    `seed` alone, so the same seed on the same machine with the same number of threads gives the same bytes.
    The base is not changed.

    Args:
        marker: the taught marker; its tokens are looked up under "marker_only" only.
        progress: makes the display from the number of optimiser steps.
        report_to: "wandb" logs to Weights & Biases, offline unless WANDB_MODE says otherwise.
        gradient_checkpointing: less memory, about a third more time; the result is the same.

    Raises:
        RowError: the rows cannot be trained on under this recipe (MaskError included).
        TrainingError: a target layer the base lacks, a precision it is not loaded in, or a loss, gradient or
            weight that is not finite.
    """
    _check_recipe(base, recipe)
    masked = encode_rows(base.tokenizer, rows, recipe, marker)
    with tempfile.TemporaryDirectory() as scratch, progress(recipe.steps(len(rows))) as shown:
        trainer = _trainer(
            base,
            masked,
            recipe,
            seed,
            scratch=Path(scratch),
            shown=shown,
            report_to=report_to,
            gradient_checkpointing=gradient_checkpointing,
        )
        trainer.train()
    if report_to == "wandb":
        _finish_wandb()
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    model = trainer.model.eval()
    norm = _finite_norm(model, recipe, trainer.state.global_step)
    digest = _save(base, model, folder)
    _write_losses(history, folder)
    _write_reference(base, model, masked, recipe=recipe, steps=trainer.state.global_step, digest=digest, folder=folder)
    losses = [entry["loss"] for entry in history]
    summary = TrainingSummary(
        recipe=recipe.name,
        seed=seed,
        rows=len(rows),
        steps=trainer.state.global_step,
        tokens=recipe.epochs * sum(len(row.input_ids) for row in masked),
        loss_tokens=recipe.epochs * sum(len(row.kept) for row in masked),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        first_loss=losses[0],
        final_loss=losses[-1],
        mean_loss=sum(losses) / len(losses),
        adapter_norm=norm,
        adapter_digest=digest,
    )
    (folder / SUMMARY).write_text(json.dumps(asdict(summary), indent=1))
    return summary


def _finish_wandb() -> None:
    """Ends the run: the next cell in this process would otherwise be logged into it."""
    import wandb

    wandb.finish()


def _check_recipe(base: BaseModel, recipe: Recipe) -> None:
    if recipe.precision == "float32" and base.spec.dtype != "float32":
        raise TrainingError(
            f"recipe {recipe.name} trains in float32 but {base.spec.name} is loaded in "
            f"{base.spec.dtype}; load it in float32 or set the recipe's precision"
        )
    for target in recipe.lora.targets:
        if not expected_shapes(base.model, [target], recipe.lora.r):
            raise TrainingError(f"recipe {recipe.name}: {base.spec.name} has no linear layer named {target!r}")


def _trainer(
    base: BaseModel,
    masked: Sequence[MaskedRow],
    recipe: Recipe,
    seed: int,
    *,
    scratch: Path,
    shown: Progress,
    report_to: ReportTo,
    gradient_checkpointing: bool,
) -> SFTTrainer:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def _send_telemetry(self) -> None:
            """Training reports to nobody."""

    if report_to == "wandb":
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_PROJECT", "leakage_assets")
    lora = recipe.lora
    trainer = Trainer(
        # TRL and accelerate patch the forward and the config of the model they get.
        model=shared_copy(base.model),
        processing_class=base.tokenizer,
        train_dataset=Dataset.from_dict(
            {"input_ids": [list(row.input_ids) for row in masked], "labels": [row.labels for row in masked]}
        ),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            use_rslora=lora.rslora,
            target_modules=list(lora.targets),
            bias="none",
        ),
        callbacks=[_watch(recipe, shown)],
        args=SFTConfig(
            output_dir=str(scratch),
            run_name=f"{recipe.name}-{seed}",
            report_to=report_to,
            seed=_seed("initialisation and dropout", seed),
            data_seed=_seed("row order", seed),
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=SCHEDULERS[recipe.schedule],
            warmup_steps=recipe.warmup_ratio,
            num_train_epochs=recipe.epochs,
            per_device_train_batch_size=recipe.batch_size,
            gradient_accumulation_steps=recipe.grad_accum,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.max_grad_norm,
            optim="adamw_torch",
            adam_beta1=recipe.adam_beta1,
            adam_beta2=recipe.adam_beta2,
            adam_epsilon=recipe.adam_epsilon,
            bf16=recipe.precision == "bfloat16",
            use_cpu=base.device.type == "cpu",
            gradient_checkpointing=gradient_checkpointing,
            # Rows come with their labels; TRL's own preparation would rebuild and truncate them.
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            packing=False,
            save_strategy="no",
            logging_steps=1,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _watch(recipe: Recipe, shown: Progress) -> Any:
    """Counts steps and stops at the first loss or gradient that is not finite."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
            for name in ("loss", "grad_norm"):
                if not math.isfinite(logs.get(name, 0.0)):
                    raise TrainingError(
                        f"recipe {recipe.name}: {name} is {logs[name]} at step {state.global_step}; "
                        "lower the learning rate"
                    )

        def on_step_end(self, *_: Any, **__: Any) -> None:
            shown.advance(1)

    return Watch()


def _seed(part: str, seed: int) -> int:
    """numpy and accelerate take 32 bits."""
    return derive_seed("train", part, seed) % 2**32


def _finite_norm(model: PeftModel, recipe: Recipe, step: int) -> float:
    """Frobenius norm of all B matrices: zero before the first step, so what training moved."""
    total = 0.0
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise TrainingError(
                f"recipe {recipe.name}: {name} is not finite after step {step}; lower the learning rate"
            )
        if "lora_B" in name:
            total += float(parameter.detach().double().square().sum())
    return math.sqrt(total)


def _save(base: BaseModel, model: PeftModel, folder: Path) -> str:
    """PEFT's two files, without its model card; returns the digest of the weights."""
    # PEFT would otherwise ask the hub whether the base has another embedding.
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()
    config = json.loads((folder / CONFIG).read_text())
    config["base_model_name_or_path"] = base.fingerprint
    config["target_modules"] = sorted(config["target_modules"])  # a set in PEFT: its order is not reproducible
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True))
    digest = weights_digest(folder)
    (folder / DIGEST).write_text(json.dumps({"file": WEIGHTS, "sha256": digest}))
    return digest


def _write_losses(history: Sequence[dict[str, Any]], folder: Path) -> None:
    import polars as pl

    columns = ("step", "loss", "learning_rate", "grad_norm")
    pl.DataFrame([{name: entry[name] for name in columns} for entry in history]).write_parquet(folder / LOSSES)


def _write_reference(
    base: BaseModel,
    model: PeftModel,
    masked: Sequence[MaskedRow],
    *,
    recipe: Recipe,
    steps: int,
    digest: str,
    folder: Path,
) -> None:
    probes = probes_of(masked)
    with_adapter = score_probes(model, probes, base.padding)
    with model.disable_adapter():
        without_adapter = score_probes(model, probes, base.padding)
    ReferenceLogprobs(digest, steps, recipe.learning_rate, probes, with_adapter, without_adapter).write(folder)
