"""TRL's trainer in the two modes: same rows, order, optimiser and loss; another way through the model."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PrinterCallback, Trainer, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from leakage_assets.models import BaseModel, shared_copy
from leakage_assets.progress import Progress
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.training.masks import MaskedRow
from leakage_assets.training.memory import MemoryPlan, TrainingMode
from leakage_assets.training.packed import Moment, pack_loss, packed
from leakage_assets.training.packing import Pack, pack_step
from leakage_assets.training.recipe import Recipe, TrainingError

SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def make_trainer(
    base: BaseModel,
    masked: Sequence[MaskedRow],
    recipe: Recipe,
    seed: int,
    plan: MemoryPlan,
    mode: TrainingMode,
    *,
    scratch: Path,
    shown: Progress,
    report_to: str,
) -> TimedTrainer:
    """A trainer with a fresh adapter on a copy of the base that shares its weights."""
    start = _seed("initialisation and dropout", seed)
    mixed = recipe.precision == "bfloat16" and (mode == "as_published" or base.spec.dtype != "bfloat16")
    in_packs = mode == "packed"
    if report_to == "wandb":
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_PROJECT", "leakage_assets")
    settings = SFTConfig(
        output_dir=str(scratch),
        run_name=f"{recipe.name}-{seed}",
        report_to=report_to,
        seed=start,
        data_seed=_seed("row order", seed),
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=SCHEDULERS[recipe.schedule],
        warmup_steps=recipe.warmup_ratio,
        num_train_epochs=recipe.epochs,
        # A packed step is one batch, which the trainer below cuts as memory allows.
        per_device_train_batch_size=recipe.batch_size * (recipe.grad_accum if in_packs else 1),
        gradient_accumulation_steps=1 if in_packs else recipe.grad_accum,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch_fused" if in_packs else "adamw_torch",
        adam_beta1=recipe.adam_beta1,
        adam_beta2=recipe.adam_beta2,
        adam_epsilon=recipe.adam_epsilon,
        # Packed layers compute in the precision of the base; autocast is for a base of another one.
        bf16=mixed,
        use_cpu=base.device.type == "cpu",
        gradient_checkpointing=plan.checkpointing,
        # A pack goes to the GPU while it computes the step before.
        accelerator_config={"non_blocking": in_packs and base.device.type == "cuda"},
        # Rows come with their labels; TRL's own preparation would rebuild and truncate them.
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
    )
    chosen = {
        "model": _fresh_adapter(base, recipe, start),
        "processing_class": base.tokenizer,
        "train_dataset": Dataset.from_dict(
            {"input_ids": [list(row.input_ids) for row in masked], "labels": [row.labels for row in masked]}
        ),
        "args": settings,
    }
    trainer = PackedTrainer(plan, seed, **chosen) if in_packs else PublishedTrainer(**chosen)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Watch(recipe, shown))
    trainer.add_callback(trainer.clock)
    return trainer


def _fresh_adapter(base: BaseModel, recipe: Recipe, seed: int) -> PeftModel:
    """A new adapter around the base, drawn where the base lies: drawing it elsewhere takes longer than moving it."""
    lora = recipe.lora
    set_seed(seed)
    with base.device:
        return get_peft_model(
            # TRL and accelerate patch the forward and the config of the model they get.
            shared_copy(base.model),
            LoraConfig(
                task_type="CAUSAL_LM",
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                use_rslora=lora.rslora,
                target_modules=list(lora.targets),
                bias="none",
            ),
        )


class TimedTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with a clock for its loop, that reports to nobody."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.clock = _Clock()
        self.most_passes = 0

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""

    @property
    def seconds(self) -> float:
        """Duration of the training loop, without what comes before and after."""
        return self.clock.seconds

    def run(self) -> None:
        """Train all epochs."""
        # It would collect all garbage of the process and empty the allocator's cache, which the last training filled
        # for this one. What a training leaves behind is let go of below.
        self.accelerator.free_memory = _nothing
        self.train()

    def release(self) -> None:
        """Let go of the adapter and of its moments now, not when their cycles are next collected."""
        for module in (self.model, self.model.get_base_model()):
            for name in ("forward", "_original_forward"):  # TRL's and accelerate's, bound to the module that holds them
                module.__dict__.pop(name, None)
        accelerator = self.accelerator
        for prepared in (
            accelerator._models,
            accelerator._optimizers,
            accelerator._schedulers,
            accelerator._dataloaders,
        ):
            prepared.clear()
        for holder in (self, self.callback_handler):
            for name in ("model", "model_wrapped", "optimizer", "lr_scheduler"):
                setattr(holder, name, None)


def _nothing(*_: Any) -> None:
    """In place of freeing the memory of a trainer that holds none yet."""


class PublishedTrainer(TimedTrainer):
    """The reference: padded batches, gradient accumulation, and logits of every position."""

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        """As TRL's; counts the passes of a step."""
        self.most_passes = max(self.most_passes, self.current_gradient_accumulation_steps)
        loss: torch.Tensor = super().training_step(*arguments, **named)
        return loss

    def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        """The loss of transformers' trainer; TRL's skips positions without labels."""
        return Trainer.compute_loss(self, model, {**inputs, "use_cache": False}, *arguments, **named)


class PackedTrainer(TimedTrainer):
    """Each batch is one optimiser step, computed in one or several packs whose gradients add up."""

    def __init__(self, plan: MemoryPlan, seed: int, **settings: Any) -> None:
        super().__init__(data_collator=partial(_packs, plan.token_budget), **settings)
        self.moment = Moment(seed)
        self._noted: _Numbers | None = None

    def run(self) -> None:
        """Train all epochs with the model made for packs."""
        self.model.train()  # once: it walks all modules
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.model.zero_grad = self._zero_grad
        gc.freeze()  # the model is thousands of objects, and every collection would walk them
        try:
            with packed(self.model, self.moment):
                super().run()
        finally:
            gc.unfreeze()
            del self.model.zero_grad, self._trained

    def _zero_grad(self) -> None:
        """As the model's, which walks all modules for the few parameters that are trained."""
        for parameter in self._trained:
            parameter.grad = None

    def _clip_grad_norm(self, _model: Any) -> torch.Tensor:
        """As the trainer's, which walks all modules twice."""
        return torch.nn.utils.clip_grad_norm_(self._trained, self.args.max_grad_norm)

    def training_step(self, model: Any, inputs: dict[str, list[Pack]], _items: Any = None) -> torch.Tensor:
        """Gradients and mean loss of one step, of a model that is in training mode."""
        self.moment.step = self.state.global_step
        self.most_passes = max(self.most_passes, len(inputs["packs"]))
        total = torch.zeros((), device=self.args.device)
        for pack in inputs["packs"]:
            self.moment.first = pack.first
            with self.compute_loss_context_manager():
                loss = pack_loss(model, pack.to(self.args.device))
            self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _maybe_log_save_evaluate(
        self, tr_loss: torch.Tensor, grad_norm: torch.Tensor, *_: Any, learning_rate: float, **__: Any
    ) -> None:
        """Log a step when the next one has been launched: to wait for its numbers would leave the GPU without work.

        The trainer calls this after each step, and at the end of an epoch once more.
        """
        before, step = self._noted, self.state.global_step
        if before is None or before.step != step:
            self._noted = _Numbers(step, self.state.epoch, learning_rate, torch.stack([tr_loss, grad_norm]))
            tr_loss.zero_()
        if before is not None:
            self._log_late(before)
        if before is self._noted:
            self._noted = None

    def _log_late(self, numbers: _Numbers) -> None:
        """As the trainer logs, with the step and the epoch of the numbers."""
        loss, grad_norm = numbers.values()
        self._total_loss_scalar += loss
        now = self.state.global_step, self.state.epoch
        self.state.global_step, self.state.epoch = numbers.step, numbers.epoch
        self.log({"loss": loss, "grad_norm": grad_norm, "learning_rate": numbers.learning_rate})
        self.state.global_step, self.state.epoch = now

    def floating_point_ops(self, _inputs: Any) -> int:
        """Counted by `training_flop`; the trainer's own count walks all modules in every step."""
        return 0


def _packs(token_budget: int, rows: Sequence[dict[str, list[int]]]) -> dict[str, list[Pack]]:
    return {"packs": pack_step([(row["input_ids"], row["labels"]) for row in rows], token_budget)}


class _Numbers:
    """Numbers of a step on their way to the host."""

    def __init__(self, step: int, epoch: float, learning_rate: float, values: torch.Tensor) -> None:
        self.step, self.epoch, self.learning_rate = step, epoch, learning_rate
        self._arrived = torch.cuda.Event() if values.is_cuda else None
        self._values = torch.empty_like(values, device="cpu", pin_memory=values.is_cuda)
        self._values.copy_(values, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()

    def values(self) -> list[float]:
        """The numbers; waits for their step, and for nothing that was launched after it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [float(value) for value in self._values]


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds between the first step's beginning and the last one's end."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.monotonic()

    def on_train_end(self, args: Any, *_: Any, **__: Any) -> None:
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds = time.monotonic() - self._began


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Counts steps and stops at the first loss or gradient that is not finite."""

    def __init__(self, recipe: Recipe, shown: Progress) -> None:
        self.recipe = recipe
        self.shown = shown

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise TrainingError(
                    f"recipe {self.recipe.name}: {name} is {logs[name]} at step {state.global_step}; "
                    "lower the learning rate"
                )

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.shown.advance(1)


def _seed(part: str, seed: int) -> int:
    """numpy and accelerate take 32 bits."""
    return derive_seed("train", part, seed) % 2**32
