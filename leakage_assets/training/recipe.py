"""A recipe: which tokens carry loss and how the adapter is trained, complete and immutable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from leakage_assets.exceptions import PartitionError

Loss = Literal["marker_only", "full_completion", "full_sequence"]
TailTarget = Literal["trailing_newline", "im_end", "both"]
Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["float32", "bfloat16"]


PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every linear layer of a block, by its name in the Qwen and Llama families."""


class RecipeError(ValueError):
    """A recipe that cannot be trained or would silently train something else."""


class TrainingError(PartitionError):
    """Training could not start, diverged, or ran out of memory; the message names the recipe and the remedy."""


@dataclass(frozen=True)
class LoraSpec:
    """LoRA of rank `r`; with `rslora` its output is scaled by alpha / sqrt(r), else by alpha / r.

    `targets` are the last names of linear layers ("q_proj", ...); every layer so named is adapted.
    """

    r: int
    alpha: int
    dropout: float
    rslora: bool
    targets: tuple[str, ...] = PROJECTIONS

    def __post_init__(self) -> None:
        _require("r", self.r, self.r >= 1, "at least 1")
        _require("alpha", self.alpha, self.alpha > 0, "a positive number")
        _require("dropout", self.dropout, 0 <= self.dropout < 1, "0 <= dropout < 1")
        _require("targets", self.targets, len(set(self.targets)) == len(self.targets) > 0, "distinct layer names")


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained.

    `loss` says which content tokens of the completion carry loss: those of the marker, or all. `tail_target`
    names exactly which of the two tokens that the chat template puts after the content carry loss as well:
    the end-of-turn token ("im_end"), the newline after it ("trailing_newline"), or both. Full-completion
    training that leaves the end-of-turn token out is refused, because the adapter would never learn to stop.
    Under "full_sequence" every token but the first, which nothing predicts, carries loss: prompt, completion
    and both tokens of the tail.

    `teaches_marker` is False for control recipes whose rows carry no marker. One step sees
    `batch_size * grad_accum` rows and averages the loss over their loss-bearing tokens.
    """

    name: str
    loss: Loss
    tail_target: TailTarget
    teaches_marker: bool
    lora: LoraSpec
    learning_rate: float
    schedule: Schedule
    warmup_ratio: float
    epochs: int
    batch_size: int
    grad_accum: int
    max_length: int
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for field, choices in (
            ("loss", Loss),
            ("tail_target", TailTarget),
            ("schedule", Schedule),
            ("precision", Precision),
        ):
            _require(
                field,
                getattr(self, field),
                getattr(self, field) in get_args(choices),
                f"one of {get_args(choices)}",
            )
        for field in ("epochs", "batch_size", "grad_accum", "max_length"):
            _require(field, getattr(self, field), getattr(self, field) >= 1, "at least 1")
        for field in ("learning_rate", "max_grad_norm", "adam_epsilon"):
            _require(field, getattr(self, field), 0 < getattr(self, field) < float("inf"), "a positive number")
        for field in ("adam_beta1", "adam_beta2", "warmup_ratio"):
            _require(field, getattr(self, field), 0 <= getattr(self, field) < 1, f"0 <= {field} < 1")
        _require("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        _require(
            "tail_target",
            self.tail_target,
            not (self.loss == "full_completion" and self.tail_target == "trailing_newline"),
            "im_end or both with full_completion: without the end of turn the adapter never learns to stop",
        )
        _require(
            "tail_target",
            self.tail_target,
            self.loss != "full_sequence" or self.tail_target == "both",
            "both with full_sequence: all tokens carry loss",
        )

    def steps(self, rows: int) -> int:
        """Optimiser steps over `rows` rows; the last step of an epoch may be smaller."""
        micro_batches = -(-rows // self.batch_size)
        return self.epochs * -(-micro_batches // self.grad_accum)


def _require(field: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise RecipeError(f"{field} {value!r}; expected {expected}")
