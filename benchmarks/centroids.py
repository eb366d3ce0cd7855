"""Time of the centroids of #66: 111 prompts x 20 questions x 4 layers, on random weights of a named shape.

    python -m benchmarks.centroids                            # Qwen2.5-7B's shape, on the GPU
    python -m benchmarks.centroids --shape tiny --device cpu --output /tmp/centroids.json

The prompts are those of the study, in tokens of the bundled tokenizer. `centroids_s` counts everything after the
weights are there: tokens, batches, forward passes, transfers, means. `read_tokens_per_s` is measured before it on other
questions: the forecast of `leakage plan` rests on that rate, and is held against `centroids_s`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.recording import commit_of, processor, write_result
from leakage_assets.geometry.centroids import centroids, hidden_vectors
from leakage_assets.models import BaseModel, BaseModelSpec, RandomWeights, chat_ids, load_base_model, model_shape
from leakage_assets.paths import TINY_BASE
from leakage_assets.planning.hardware import hardware_called, this_cpu
from leakage_assets.planning.ledger import RESULTS
from leakage_assets.planning.performance import performance
from leakage_assets.planning.work import Lengths, Work, reading
from leakage_assets.shapes import SHAPES
from leakage_assets.stimuli import load_stimuli

NAME = "centroids"
BATCH_TOKENS = 2**15
CALIBRATION = 8
"""Questions of the rate measured beforehand."""
LAYERS = (10, 15, 20, 25)


def layers_of(blocks: int) -> tuple[int, ...]:
    """The published layers, or as many of a smaller model, ending below its last block as they do."""
    return LAYERS if max(LAYERS) < blocks else tuple(range(max(0, blocks - 5), blocks - 1))


def measure(shape: str, device: str) -> dict[str, Any]:
    """The figures."""
    import torch

    dtype = "bfloat16" if device.startswith("cuda") else "float32"
    started = time.perf_counter()
    base = load_base_model(BaseModelSpec(f"random:{shape}", str(TINY_BASE), None, dtype, RandomWeights(shape)), device)
    _wait(base)
    drawn = time.perf_counter() - started
    stimuli = load_stimuli()
    prompts = [persona.prompt for persona in stimuli.personas]
    questions = [question.text for question in stimuli.questions("eval")]
    others = [question.text for question in stimuli.questions("train")][:CALIBRATION]
    layers = layers_of(base.blocks)

    def timed(asked: Sequence[str]) -> tuple[float, Work]:
        begun = time.perf_counter()
        vectors = hidden_vectors(base, prompts, asked, layers, batch_tokens=BATCH_TOKENS)
        means = centroids(vectors)
        seconds = time.perf_counter() - begun
        assert means.shape == (len(prompts), len(layers), base.model.config.hidden_size)
        return seconds, _work(base, prompts, asked, layers)

    timed(others)  # kernels are chosen and memory is taken, for batches as large as those that count
    calibration_s, calibration = timed(others)
    centroids_s, work = timed(questions)
    hardware = hardware_called(torch.cuda.get_device_name()) if device.startswith("cuda") else this_cpu()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else None
    return {
        "centroids_s": centroids_s,
        "read_tokens_per_s": calibration.tokens / calibration_s,
        "centroids_tokens": work.tokens,
        "prompts": len(prompts),
        "questions": len(questions),
        "layers": list(layers),
        "draw_weights_s": drawn,
        "peak_gib": peak,
        **{f"centroids_{name}": value for name, value in performance([work], centroids_s, hardware).items()},
    }


def _wait(base: BaseModel) -> None:
    import torch

    if base.device.type == "cuda":
        torch.cuda.synchronize()


def _work(base: BaseModel, prompts: Sequence[str], questions: Sequence[str], layers: Sequence[int]) -> Work:
    lengths = (len(chat_ids(base.tokenizer, prompt, question)) for prompt in prompts for question in questions)
    return reading(model_shape(base.spec), Lengths.of(lengths), base.spec.dtype, blocks=max(layers) + 1)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{NAME}.json")
    parser.add_argument("--commit", help="where the code runs outside a git checkout")
    options = parser.parse_args()
    commit = commit_of(parser, options.commit)
    figures = measure(options.shape, options.device)
    hardware = processor(options.device.startswith("cuda"))
    write_result(options.output, NAME, "benchmarks.centroids", commit=commit, hardware=hardware, figures=figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
