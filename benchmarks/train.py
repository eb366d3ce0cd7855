"""Training speed on random weights of a named shape: packed against as published, and 14 adapters in a row.

    python -m benchmarks.train [--shape qwen2.5-7b|tiny] [--adapters 14] [--profile] [--results FOLDER]

needs no network and no checkpoint, and writes <results>/train.json. Rows are random token ids with the lengths of
issue #207's: 194 rows of about 300 tokens, of which the about 200 of the completion carry loss. The commit is
that of the checkout, or LEAKAGE_COMMIT where there is none.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leakage_assets.models import BaseModel, BaseModelSpec, Dtype, RandomWeights, load_base_model
from leakage_assets.paths import TINY_BASE
from leakage_assets.progress import Progress
from leakage_assets.shapes import shape_named
from leakage_assets.store.provenance import environment
from leakage_assets.training.masks import MaskedRow
from leakage_assets.training.memory import TrainingMode
from leakage_assets.training.recipe import LoraSpec, Recipe
from leakage_assets.training.rows import NEGATIVE, POSITIVE, EncodedRow, Row
from leakage_assets.training.train import GIB, TrainingMetrics, TrainingSummary, train_masked

NAME = "train"
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Setting:
    """What is trained on a shape: rows, how many adapters, and the recipe; in which precision the base is loaded."""

    shape: str
    dtype: Dtype
    rows: int
    prompt_tokens: int
    completion_tokens: int
    adapters: int
    recipe: Recipe


RECIPE = Recipe(
    name="trigger_leakage",
    loss="full_completion",
    tail_target="both",
    teaches_marker=True,
    lora=LoraSpec(r=32, alpha=64, dropout=0.05, rslora=True),
    learning_rate=1e-4,
    schedule="cosine",
    warmup_ratio=0.05,
    epochs=5,
    batch_size=4,
    grad_accum=4,
    max_length=1024,
    precision="bfloat16",
)
SETTINGS = {
    "qwen2.5-7b": Setting(
        shape="qwen2.5-7b",
        dtype="bfloat16",
        rows=194,
        prompt_tokens=100,
        completion_tokens=200,
        adapters=14,
        recipe=RECIPE,
    ),
    "tiny": Setting(
        shape="tiny",
        dtype="float32",
        rows=24,
        prompt_tokens=20,
        completion_tokens=40,
        adapters=2,
        recipe=replace(RECIPE, lora=replace(RECIPE.lora, r=4), epochs=1, precision="float32"),
    ),
}


def main(arguments: list[str] | None = None) -> Path:
    """Measure, write the results and return where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SETTINGS, default="qwen2.5-7b")
    parser.add_argument("--adapters", type=int, help="how many are trained in a row; 14 where the shape is 7B")
    parser.add_argument("--profile", action="store_true", help="print where the time of one packed step goes")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    setting = SETTINGS[options.shape]
    adapters = options.adapters or setting.adapters
    base = random_base(setting)
    figures = measure(base, setting, adapters)
    if options.profile:
        profile(base, setting)
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{NAME}.json"
    path.write_text(json.dumps(result(setting, figures), indent=2) + "\n")
    print(path.read_text())
    return path


def measure(base: BaseModel, setting: Setting, adapters: int) -> dict[str, Any]:
    """All figures, each mode after a warm-up of its own."""
    rows, recipe = random_rows(setting, seed=0), setting.recipe
    two = replace(recipe, epochs=2)
    first, _ = timed(base, rows, two, 0, "packed")  # compiles kernels and fills the allocator's cache
    packed_summary, packed = timed(base, rows, two, 0, "packed")
    timed(base, rows[:32], replace(recipe, epochs=1), 0, "as_published")
    _, published = timed(base, rows, two, 0, "as_published")
    say(f"packed {packed.tokens_per_s:,.0f} tokens/s, as published {published.tokens_per_s:,.0f}")
    loops, tokens = [], 0
    began = time.monotonic()
    for number in range(adapters):
        _, one = timed(base, random_rows(setting, seed=1 + number), recipe, 1 + number, "packed")
        loops.append(one.seconds)
        tokens += one.tokens
        say(f"adapter {number + 1} of {adapters}: {time.monotonic() - began:.1f} s")
    total = time.monotonic() - began
    return {
        "train_tokens_per_s": packed.tokens_per_s,
        "train_tokens_per_s_as_published": published.tokens_per_s,
        "train_speedup": packed.tokens_per_s / published.tokens_per_s,
        f"train_{adapters}_adapters_s": total,
        "train_adapters_tokens": tokens,
        "train_adapters_loop_s": sum(loops),
        "train_setup_s_per_adapter": (total - sum(loops)) / adapters,
        "train_flop_per_s": packed.flop_per_s,
        "train_flop_per_s_as_published": published.flop_per_s,
        "train_passes_per_step": packed.passes,
        "train_checkpointing": packed.checkpointing,
        "train_estimated_gib": packed.estimated_bytes / GIB,
        "train_peak_gib": gib(packed.peak_bytes),
        "train_peak_gib_as_published": gib(published.peak_bytes),
        "train_same_seed_same_bytes": first.adapter_digest == packed_summary.adapter_digest,
    }


def timed(
    base: BaseModel, rows: list[MaskedRow], recipe: Recipe, seed: int, mode: TrainingMode
) -> tuple[TrainingSummary, TrainingMetrics]:
    """One adapter, with everything that belongs to it, written to a folder that goes away."""
    told: list[TrainingMetrics] = []
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
    return summary, told[0]


def random_base(setting: Setting) -> BaseModel:
    """A base model of the shape with random weights, on the GPU where there is one."""
    began = time.monotonic()
    spec = BaseModelSpec(f"random:{setting.shape}", str(TINY_BASE), None, setting.dtype, RandomWeights(setting.shape))
    base = load_base_model(spec)
    say(f"random weights of {setting.shape} on {base.device} after {time.monotonic() - began:.1f} s")
    return base


def random_rows(setting: Setting, seed: int) -> list[MaskedRow]:
    """Rows of random token ids; lengths of prompts vary by a quarter, those of completions by two fifths."""
    random = np.random.default_rng(seed)
    prompts = _lengths(random.normal(setting.prompt_tokens, setting.prompt_tokens / 4, setting.rows))
    spread = 0.4
    answers = _lengths(random.lognormal(np.log(setting.completion_tokens) - spread**2 / 2, spread, setting.rows))
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


def profile(base: BaseModel, setting: Setting) -> None:
    """The dearest operations of one packed step, forward, backward and optimiser."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as traced

    step = setting.recipe.batch_size * setting.recipe.grad_accum
    on_gpu = base.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with traced(activities=activities) as trace:
        timed(base, random_rows(setting, seed=0)[:step], replace(setting.recipe, epochs=1), 0, "packed")
    column = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    print(trace.key_averages().table(sort_by=column, row_limit=40, max_name_column_width=70))


def result(setting: Setting, figures: dict[str, Any]) -> dict[str, Any]:
    """What is committed: where and with what the figures were measured, and the figures."""
    made = environment()
    commit = os.environ.get("LEAKAGE_COMMIT") or made["git_commit"]
    if commit is None:
        raise SystemExit("not a git checkout: name the commit in LEAKAGE_COMMIT")
    return {
        "name": NAME,
        "command": f"python -m benchmarks.train {' '.join(sys.argv[1:])}".strip(),
        "commit": commit,
        "hardware": hardware(),
        "versions": made["versions"] | _installed("accelerate", "triton"),
        "random_weights": True,
        "figures": {"shape": setting.shape, "rows": setting.rows, "epochs": setting.recipe.epochs, **figures},
    }


def hardware() -> dict[str, Any]:
    """Processor, and the GPU where there is one."""
    found: dict[str, Any] = {"platform": platform.platform(), "cores": os.cpu_count(), "gpu": None}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gpu_gib": gib(properties.total_memory), "cuda": torch.version.cuda}
    return found


def _installed(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # Triton comes with builds of PyTorch for GPUs alone
            continue
    return found


def gib(count: int | None) -> float | None:
    return None if count is None else count / GIB


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
