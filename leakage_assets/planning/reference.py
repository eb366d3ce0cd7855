"""The jobs that benchmarks time, as work: what measured rates are read against, and what forecasts are held to.

All have the shape of Qwen2.5-7B in bfloat16.
"""

from __future__ import annotations

from leakage_assets.models import Dtype
from leakage_assets.planning.work import Lengths, Work, decoding, reading, training
from leakage_assets.shapes import SHAPES, ModelShape

SHAPE = SHAPES["qwen2.5-7b"]
DTYPE: Dtype = "bfloat16"
RANK = 32
LORA_PARAMETERS = SHAPE.lora_parameters(RANK, tuple(SHAPE.projections()))
CONCURRENCY = 1024
"""Sequences that run together in the sampling benchmarks, where there are as many."""

ADAPTERS, ROWS, EPOCHS, ROW_TOKENS, ROW_LABELS, BATCH = 14, 194, 5, 300, 200, 16
"""Training of #207: rows of a short system prompt, a question, and an answer of 150 to 250 words that carries loss."""

PROMPTS, QUESTIONS, COMPLETIONS, PROMPT_TOKENS, COMPLETION_TOKENS = 36, 20, 10, 55, 200
"""Panel of #207."""

CENTROID_PROMPTS, CENTROID_QUESTIONS, CENTROID_TOKENS, CENTROID_BLOCKS = 111, 20, 51, 26
"""Panel of #66 in tokens of the bundled tokenizer; layers 10, 15, 20 and 25, so 26 of the 28 blocks run."""

PROOF_PROBES, PROOF_PASSES = 8, 5
"""An adapter proof scores its probes with and without adapter in the engine and in PEFT, and once written out."""


def training_207(adapters: int = ADAPTERS) -> Work:
    """Training of adapters on their rows, all epochs."""
    rows = Lengths.alike(adapters * ROWS * EPOCHS, ROW_TOKENS)
    steps = adapters * EPOCHS * -(-ROWS // BATCH)
    return training(SHAPE, rows, rows.rows * ROW_LABELS, LORA_PARAMETERS, DTYPE, steps=steps)


def sampling_207(adapters: int = ADAPTERS) -> tuple[Work, Work]:
    """The panel asked of each adapter (of the base model for 0): its prompts are read once each, then decoded."""
    asked = max(adapters, 1)
    prompts = Lengths.alike(asked * PROMPTS * QUESTIONS, PROMPT_TOKENS)
    lora = LORA_PARAMETERS if adapters else 0
    return (
        reading(SHAPE, prompts, DTYPE, logits=prompts.rows),
        decoding(SHAPE, prompts.times(COMPLETIONS), COMPLETION_TOKENS, CONCURRENCY, DTYPE, lora_parameters=lora),
    )


def centroids_66() -> Work:
    """Hidden vectors of every prompt and question, down to the deepest layer."""
    rows = CENTROID_PROMPTS * CENTROID_QUESTIONS
    return reading(SHAPE, Lengths.alike(rows, CENTROID_TOKENS), DTYPE, blocks=CENTROID_BLOCKS)


def proof(shape: ModelShape, dtype: Dtype, row_tokens: float) -> Work:
    """The forward passes of one adapter proof."""
    rows = Lengths.alike(PROOF_PROBES * PROOF_PASSES, row_tokens)
    return reading(shape, rows, dtype, logits=rows.tokens)
