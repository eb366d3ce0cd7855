"""LoRA training of one cell on a base model that other cells share."""

from __future__ import annotations

import gc
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from leakage_assets.generation.adapters import CONFIG, DIGEST, WEIGHTS, expected_shapes, weights_digest
from leakage_assets.models import BaseModel
from leakage_assets.progress import Progress
from leakage_assets.shapes import ModelShape, shape_of_config
from leakage_assets.training.masks import MaskedRow, encode_rows
from leakage_assets.training.memory import MemoryPlan, TrainingMode, plan_memory
from leakage_assets.training.recipe import Recipe, TrainingError
from leakage_assets.training.reference import ReferenceLogprobs, probes_of, score_probes
from leakage_assets.training.rows import Row

if TYPE_CHECKING:
    from peft import PeftModel

    from leakage_assets.training.trainers import TimedTrainer

__all__ = ["ReportTo", "TrainingError", "TrainingMetrics", "TrainingSummary", "train_adapter", "train_masked"]

LOSSES = "loss.parquet"
SUMMARY = "summary.json"
GIB = 2**30

ReportTo = Literal["none", "wandb"]


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


@dataclass(frozen=True)
class TrainingMetrics:
    """How one training ran: for the provenance, never part of a file with a digest.

    Attributes:
        seconds: of the training loop alone.
        passes: forward and backward passes of the step that took most.
        peak_bytes: most memory that was allocated on the GPU, base included; None on a CPU.
    """

    mode: TrainingMode
    seconds: float
    passes: int
    memory: MemoryPlan
    peak_bytes: int | None


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
    mode: TrainingMode = "packed",
    progress: Callable[[int], Progress] = _steps,
    report_to: ReportTo = "none",
    measured: Callable[[TrainingMetrics], None] | None = None,
    free_bytes: int | None = None,
    check: Callable[[Sequence[MaskedRow]], None] | None = None,
) -> TrainingSummary:
    """Train a LoRA adapter on `rows` and write it to `folder` (made if absent), as `train_masked` does.

    Args:
        marker: the taught marker; its tokens are looked up under "marker_only" only.
        check: what must hold of the rows with the very masks that are trained on; it raises before the first step.

    Raises:
        RowError: the rows cannot be trained on under this recipe (MaskError included).
        TrainingError: as `train_masked`.
    """
    _check_recipe(base, recipe)
    masked = encode_rows(base.tokenizer, rows, recipe, marker)
    if check is not None:
        check(masked)
    return train_masked(
        base,
        masked,
        recipe,
        seed,
        folder,
        mode=mode,
        progress=progress,
        report_to=report_to,
        measured=measured,
        free_bytes=free_bytes,
    )


def train_masked(
    base: BaseModel,
    masked: Sequence[MaskedRow],
    recipe: Recipe,
    seed: int,
    folder: Path,
    *,
    mode: TrainingMode = "packed",
    progress: Callable[[int], Progress] = _steps,
    report_to: ReportTo = "none",
    measured: Callable[[TrainingMetrics], None] | None = None,
    free_bytes: int | None = None,
) -> TrainingSummary:
    """Train a LoRA adapter on rows with their loss masks and write it to `folder` (made if absent).

    `folder` gets adapter_model.safetensors and adapter_config.json in PEFT's format (with the base's
    fingerprint in place of a path), adapter_digest.json, reference_logprobs.json, loss.parquet (step, loss,
    learning_rate, grad_norm) and summary.json. Initialisation, dropout and row order come from
    `seed` alone, so the same seed on the same machine with the same number of threads gives the same bytes
    (on a GPU also the same plan of memory; PyTorch warns of an operation that has no repeatable form).
    The base is not changed. The modes see the same rows in each step and agree up to rounding without dropout,
    whose masks each draws its own way.

    Args:
        mode: how the steps are computed; part of the adapter's identity.
        progress: makes the display from the number of optimiser steps.
        report_to: "wandb" logs to Weights & Biases, offline unless WANDB_MODE says otherwise.
        measured: is told how the training ran.
        free_bytes: device memory to plan with; None asks the device. Changes results by rounding alone.

    Raises:
        TrainingError: a target layer the base lacks, a precision it is not loaded in, too little memory, or a
            loss, gradient or weight that is not finite.
    """
    _check_recipe(base, recipe)
    free = _free_bytes(base.device) if free_bytes is None else free_bytes
    plan = plan_memory(_shape(base), recipe, _sizes(masked), free, mode)
    try:
        trainer = _trained(base, masked, recipe, seed, plan, mode, progress, report_to)
        summary = _write(base, trainer, masked, recipe, seed, folder)
        if measured is not None:
            measured(TrainingMetrics(mode, trainer.seconds, trainer.most_passes, plan, _peak_bytes(base.device)))
        trainer.release()
        return summary
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
    # Only here: the frames of the error held the very tensors that filled the memory, and the next cell needs it.
    _release(base.device)
    raise TrainingError(_memory_message(recipe, plan, mode, reason))


def _trained(
    base: BaseModel,
    masked: Sequence[MaskedRow],
    recipe: Recipe,
    seed: int,
    plan: MemoryPlan,
    mode: TrainingMode,
    progress: Callable[[int], Progress],
    report_to: ReportTo,
) -> TimedTrainer:
    from leakage_assets.training.trainers import make_trainer

    with tempfile.TemporaryDirectory() as scratch, progress(recipe.steps(len(masked))) as shown:
        trainer = make_trainer(
            base, masked, recipe, seed, plan, mode, scratch=Path(scratch), shown=shown, report_to=report_to
        )
        try:
            trainer.run()
        finally:
            if report_to == "wandb":
                _finish_wandb()
    return trainer


def _finish_wandb() -> None:
    """Ends the run: the next cell in this process would otherwise be logged into it."""
    import wandb

    wandb.finish()


def _write(
    base: BaseModel, trainer: TimedTrainer, masked: Sequence[MaskedRow], recipe: Recipe, seed: int, folder: Path
) -> TrainingSummary:
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    losses = [entry["loss"] for entry in history]
    model, steps = trainer.model.eval(), trainer.state.global_step
    norm = _finite_norm(model, recipe, steps)
    folder.mkdir(parents=True, exist_ok=True)
    _write_losses(history, folder)
    with ThreadPoolExecutor(1) as pool:  # the disk and the digest need no interpreter
        saved = pool.submit(_save, base, model, folder)
        probes = probes_of(masked)
        scores = [score_probes(scored, probes, base.padding) for scored in (model, base.model)]
        digest = saved.result()
    ReferenceLogprobs(digest, steps, recipe.learning_rate, probes, *scores).write(folder)
    summary = TrainingSummary(
        recipe=recipe.name,
        seed=seed,
        rows=len(masked),
        steps=steps,
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


def _peak_bytes(device: Any) -> int | None:
    import torch

    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None


def _shape(base: BaseModel) -> ModelShape:
    return shape_of_config(base.model.config.to_dict(), base.spec.name)


def _sizes(masked: Sequence[MaskedRow]) -> list[tuple[int, int]]:
    return [(len(row.input_ids), len(row.kept)) for row in masked]


def _free_bytes(device: Any) -> int:
    """Memory of the device that nobody uses, PyTorch's own cache counted in; measures the peak from here on."""
    import torch

    if device.type != "cuda":
        import psutil  # type: ignore[import-untyped]

        return int(psutil.virtual_memory().available)
    torch.cuda.reset_peak_memory_stats(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + cached)


def _out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed; PyTorch has a type of its own for GPUs alone."""
    import torch

    said = ("can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in said)


def _release(device: Any) -> None:
    """Give back what a failed training held."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _memory_message(recipe: Recipe, plan: MemoryPlan, mode: TrainingMode, reason: str) -> str:
    rows = recipe.batch_size * recipe.grad_accum
    lower = {
        "as_published": "batch_size (and raise grad_accum to keep the step) or max_length, or train in mode packed",
        "packed": "the length of the rows (max_length) or the rank r of the adapter",
    }[mode]
    return (
        f"recipe {recipe.name}: out of memory in mode {mode} ({reason}): steps of {rows} rows in passes of at most "
        f"{plan.token_budget:,} tokens{' with checkpointing' if plan.checkpointing else ''} were estimated at "
        f"{plan.estimated_bytes / GIB:.1f} GiB beyond the base model, and {plan.free_bytes / GIB:.1f} GiB were free; "
        f"lower {lower}, or end what else holds memory of the device"
    )


def _check_recipe(base: BaseModel, recipe: Recipe) -> None:
    if recipe.precision == "float32" and base.spec.dtype != "float32":
        raise TrainingError(
            f"recipe {recipe.name} trains in float32 but {base.spec.name} is loaded in "
            f"{base.spec.dtype}; load it in float32 or set the recipe's precision"
        )
    for target in recipe.lora.targets:
        if not expected_shapes(base.model, [target], recipe.lora.r):
            raise TrainingError(f"recipe {recipe.name}: {base.spec.name} has no linear layer named {target!r}")


def _finite_norm(model: PeftModel, recipe: Recipe, step: int) -> float:
    """Frobenius norm of all B matrices: zero before the first step, so what training moved."""
    total = 0.0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
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
