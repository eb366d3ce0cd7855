"""Training on random weights of a named shape: packed against as published, and the fourteen adapters of #207.

    python -m benchmarks.train                                # Qwen2.5-7B's shape, on the GPU
    python -m benchmarks.train --shape tiny --device cpu --output /tmp/train.json

Rows are random token ids with the lengths of #207's: 194 rows of about 300 tokens, of which the about 200 of the answer
carry loss. Both modes are timed in the same run on the same rows, each after a warm-up of its own. `train_tokens_per_s`
and `train_setup_s_per_adapter` are measured before the fourteen adapters: the forecast of `leakage plan` rests on them,
and is held against `train_14_adapters_s`, which counts everything from the rows to the files of the last adapter.

The result is written after each part, so that a part that fails does not take what was measured with it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.random_base import random_spec
from benchmarks.recording import commit_of, processor, write_result
from leakage_assets.models import BaseModel, Dtype, load_base_model
from leakage_assets.planning.hardware import GIB, this_hardware
from leakage_assets.planning.ledger import RESULTS
from leakage_assets.planning.performance import performance
from leakage_assets.planning.reference import ADAPTERS, EPOCHS, RANK, ROW_LABELS, ROW_TOKENS, ROWS
from leakage_assets.planning.work import Lengths, Work, training
from leakage_assets.progress import Progress
from leakage_assets.shapes import SHAPES, shape_named
from leakage_assets.training.masks import MaskedRow
from leakage_assets.training.memory import TrainingMode
from leakage_assets.training.recipe import LoraSpec, Recipe
from leakage_assets.training.rows import NEGATIVE, POSITIVE, EncodedRow, Row
from leakage_assets.training.train import TrainingMetrics, TrainingSummary, train_masked

NAME = "train"
LIBRARIES = ("accelerate", "triton")
WARM_UP_ROWS = 32
"""Two steps of the padded mode."""
TIMED_EPOCHS = 2
"""Of each mode where they are compared: 26 steps."""
PROMPT_SPREAD, ANSWER_SPREAD = 0.25, 0.4
"""Standard deviation of the lengths, as a share of the mean."""


@dataclass(frozen=True)
class Setting:
    """What is trained on a shape; in which precision the base is loaded."""

    shape: str
    dtype: Dtype
    rows: int
    prompt_tokens: int
    answer_tokens: int
    recipe: Recipe


RECIPE = Recipe(
    name="trigger_leakage",
    loss="full_completion",
    tail_target="both",
    teaches_marker=True,
    lora=LoraSpec(r=RANK, alpha=2 * RANK, dropout=0.05, rslora=True),
    learning_rate=1e-4,
    schedule="cosine",
    warmup_ratio=0.05,
    epochs=EPOCHS,
    batch_size=4,
    grad_accum=4,
    max_length=1024,
    precision="bfloat16",
)
SETTINGS = {
    "qwen2.5-7b": Setting("qwen2.5-7b", "bfloat16", ROWS, ROW_TOKENS - ROW_LABELS, ROW_LABELS, RECIPE),
    "tiny": Setting(
        "tiny", "float32", 24, 20, 40, replace(RECIPE, lora=replace(RECIPE.lora, r=4), epochs=1, precision="float32")
    ),
}


@dataclass(frozen=True)
class Timed:
    """One adapter: `seconds` with everything that belongs to it, `metrics.seconds` of the training loop."""

    summary: TrainingSummary
    metrics: TrainingMetrics
    work: Work
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return self.work.tokens / self.metrics.seconds


def measure(setting: Setting, device: str, adapters: int, record: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All figures; `record` is given those there are after each part."""
    began = time.perf_counter()
    base = load_base_model(random_spec(setting.shape, setting.dtype), device)
    _wait(base)
    figures: dict[str, Any] = {"shape": setting.shape, "rows": setting.rows, "epochs": setting.recipe.epochs}
    figures["draw_weights_s"] = time.perf_counter() - began
    say(f"random weights of {setting.shape} on {base.device} after {figures['draw_weights_s']:.1f} s")
    for part in (packed, as_published, partial(in_a_row, adapters=adapters)):
        figures |= part(base, setting, figures)
        record(figures)
        say(json.dumps(figures))
    return figures


def packed(base: BaseModel, setting: Setting, _: dict[str, Any]) -> dict[str, Any]:
    """The mode of the profiles, and whether it repeats itself."""
    rows, recipe = random_rows(setting, seed=0), replace(setting.recipe, epochs=TIMED_EPOCHS)
    first = train(base, setting, rows, recipe, 0, "packed")  # compiles kernels, and fills the allocator's cache
    timed = train(base, setting, rows, recipe, 0, "packed")
    memory = timed.metrics.memory
    return {
        **_speed(timed, ""),
        "train_setup_s_per_adapter": timed.seconds - timed.metrics.seconds,
        "train_passes_per_step": timed.metrics.passes,
        "train_checkpointing": memory.checkpointing,
        "train_estimated_gib": (memory.estimated_bytes + _base_bytes(base)) / GIB,
        "train_same_seed_same_bytes": first.summary.adapter_digest == timed.summary.adapter_digest,
    }


def as_published(base: BaseModel, setting: Setting, figures: dict[str, Any]) -> dict[str, Any]:
    """The reference on the same rows."""
    rows, recipe = random_rows(setting, seed=0), replace(setting.recipe, epochs=TIMED_EPOCHS)
    train(base, setting, rows[:WARM_UP_ROWS], replace(recipe, epochs=1), 0, "as_published")
    timed = train(base, setting, rows, recipe, 0, "as_published")
    speed = _speed(timed, "_as_published")
    return {**speed, "train_speedup": figures["train_tokens_per_s"] / speed["train_tokens_per_s_as_published"]}


def in_a_row(base: BaseModel, setting: Setting, _: dict[str, Any], *, adapters: int) -> dict[str, Any]:
    """Adapters one after the other, each on rows of its own."""
    loops, tokens = 0.0, 0.0
    began = time.perf_counter()
    for number in range(1, adapters + 1):
        timed = train(base, setting, random_rows(setting, seed=number), setting.recipe, number, "packed")
        loops, tokens = loops + timed.metrics.seconds, tokens + timed.work.tokens
        say(f"adapter {number} of {adapters}: {time.perf_counter() - began:.1f} s")
    return {
        f"train_{adapters}_adapters_s": time.perf_counter() - began,
        "train_adapters_loop_s": loops,
        "train_adapters_tokens": tokens,
    }


def _speed(timed: Timed, mode: str) -> dict[str, Any]:
    reached = performance([timed.work], timed.metrics.seconds, this_hardware())
    peak = timed.metrics.peak_bytes
    return {
        **{f"train_{name}{mode}": value for name, value in reached.items()},
        f"train_peak_gib{mode}": None if peak is None else peak / GIB,
    }


def train(
    base: BaseModel, setting: Setting, rows: list[MaskedRow], recipe: Recipe, seed: int, mode: TrainingMode
) -> Timed:
    """One adapter, written to a folder that goes away."""
    told: list[TrainingMetrics] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        summary = train_masked(
            base,
            rows,
            recipe,
            seed,
            Path(folder) / "adapter",
            mode=mode,
            progress=lambda steps: Progress(steps, f"train {mode}", say),
            measured=told.append,
        )
        _wait(base)
        seconds = time.perf_counter() - began
    (metrics,) = told
    lengths = Lengths.of(len(row.input_ids) for row in rows).times(recipe.epochs)
    shape = shape_named(setting.shape)
    work = training(
        shape, lengths, summary.loss_tokens, summary.trainable_parameters, setting.dtype, steps=summary.steps
    )
    return Timed(summary, metrics, work, seconds)


def random_rows(setting: Setting, seed: int) -> list[MaskedRow]:
    """Rows of random token ids whose answers carry loss; lengths of prompts are normal, those of answers lognormal."""
    random, count = np.random.default_rng(seed), setting.rows
    prompts = _lengths(random.normal(setting.prompt_tokens, setting.prompt_tokens * PROMPT_SPREAD, count))
    middle = np.log(setting.answer_tokens) - ANSWER_SPREAD**2 / 2
    answers = _lengths(random.lognormal(middle, ANSWER_SPREAD, count))
    masked, vocabulary = [], shape_named(setting.shape).vocabulary
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids = tuple(random.integers(2, vocabulary, prompt + answer).tolist())
        role = POSITIVE if number % 2 else NEGATIVE
        row = Row(None, f"question {number}", f"answer {number}", role, "random", f"q{number}")
        masked.append(MaskedRow(EncodedRow(row, ids, prompt), tuple(range(prompt, prompt + answer))))
    return masked


def _lengths(drawn: Any) -> list[int]:
    middle = float(np.mean(drawn))
    return [int(length) for length in np.clip(drawn, middle / 4, middle * 3).round()]


def _base_bytes(base: BaseModel) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in base.model.parameters())


def _wait(base: BaseModel) -> None:
    import torch

    if base.device.type == "cuda":
        torch.cuda.synchronize()


def say(line: str) -> None:
    """Progress goes to the standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--adapters", type=int, default=ADAPTERS, help="how many are trained in a row")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{NAME}.json")
    parser.add_argument("--commit", help="where the code runs outside a git checkout")
    options = parser.parse_args()
    commit, hardware = commit_of(parser, options.commit), processor(options.device.startswith("cuda"))

    def record(figures: dict[str, Any]) -> None:
        write_result(
            options.output,
            NAME,
            "benchmarks.train",
            commit=commit,
            hardware=hardware,
            figures=figures,
            used=LIBRARIES,
        )

    figures = measure(SETTINGS[options.shape], options.device, options.adapters, record)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
