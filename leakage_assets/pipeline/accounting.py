"""What a stage's work was, in tokens and FLOP, and how near it came to the hardware's limit: kept in its provenance."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from leakage_assets.generation.requests import Request
from leakage_assets.models import chat_ids, load_tokenizer, model_shape
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.planning.efficiency import Kind, Measured
from leakage_assets.planning.hardware import CPU, Hardware, this_hardware
from leakage_assets.planning.memory import concurrency_that_fits
from leakage_assets.planning.performance import performance
from leakage_assets.planning.work import Lengths, Work, decoding, reading, training
from leakage_assets.store.artifacts import Artifact
from leakage_assets.training.recipe import Recipe
from leakage_assets.training.train import TrainingSummary

PERFORMANCE, WORKED = "performance", "worked"
"""Keys of a provenance."""


def spent(kind: Kind, work: Sequence[Work], seconds: float) -> dict[str, Any]:
    """Provenance of work done here: for ``draft.note``. Its performance belongs into the metadata, too.

    Args:
        work: its parts, one after the other; the tokens of the last are what tokens/s counts.
        seconds: of the work itself, loading and starting excluded.
    """
    hardware = this_hardware()
    return {
        PERFORMANCE: performance(work, seconds, hardware),
        WORKED: {
            "kind": kind,
            "parts": [asdict(part) for part in work],
            "seconds": round(seconds, 3),
            "hardware": None if hardware is None else hardware.name,
        },
    }


def achieved(artifact: Artifact) -> dict[str, float]:
    """Tokens/s, FLOP utilisation and share of the limit of the run that made it; empty where they were not kept."""
    found: Mapping[str, float] = artifact.manifest.provenance.get(PERFORMANCE, {})
    return dict(found)


def earlier_work(artifact: Artifact, hardware: Hardware) -> Measured | None:
    """What an artifact's making tells about this hardware, or None; for a CPU it must have been this very machine."""
    provenance = artifact.manifest.provenance
    worked = provenance.get(WORKED)
    elsewhere = hardware.name == CPU and provenance.get("platform") != platform.platform()
    if worked is None or worked["hardware"] != hardware.name or elsewhere:
        return None
    return Measured(worked["kind"], tuple(Work(**part) for part in worked["parts"]), worked["seconds"])


def training_work(lab: Laboratory, recipe: Recipe, summary: TrainingSummary) -> Work:
    """Training of one adapter; its rows are taken as equally long."""
    base, shown = lab.profile.base, recipe.epochs * summary.rows
    rows, lora = Lengths.alike(shown, summary.tokens / shown), summary.trainable_parameters
    return training(model_shape(base), rows, summary.loss_tokens, lora, base.dtype, steps=summary.steps)


def sampling_work(lab: Laboratory, requests: Sequence[Request], generated: int, tokens: int) -> tuple[Work, Work]:
    """Reading and decoding of one stream of samples; equal prompts of an adapter are read once.

    What adapters add (about 1%) is left out: it is overhead here, so that all streams are counted alike.

    Args:
        requests: all of the stream; where some of them were there already, their prompts stand for those left.
        generated: samples made.
        tokens: of these samples.
    """
    base, shape = lab.profile.base, model_shape(lab.profile.base)
    tokenizer = load_tokenizer(base)
    asked = Counter((request.adapter, (request.system, request.question, request.prefix)) for request in requests)
    lengths = {
        (system, question, prefix): len(chat_ids(tokenizer, system, question, prefix=prefix))
        for system, question, prefix in {prompt for _, prompt in asked}
    }
    share, new = generated / len(requests), tokens / generated
    prompts = Lengths.of(lengths[prompt] for _, prompt in asked).times(share)
    rows = Lengths.of(lengths[prompt] for _, prompt in asked.elements()).times(share)
    device = this_hardware()
    fits = generated if device is None else concurrency_that_fits(shape, base.dtype, device, context=rows.mean + new)
    together = max(1, min(generated, fits))
    return (
        reading(shape, prompts, base.dtype, logits=prompts.rows),
        decoding(shape, rows, new, together, base.dtype),
    )


def geometry_work(
    lab: Laboratory, prompts: Sequence[str | None], questions: Sequence[str], layers: Sequence[int], *, head: bool
) -> Work:
    """One pass over every prompt and question: all blocks where the head is needed, else down to the deepest layer."""
    base, shape = lab.profile.base, model_shape(lab.profile.base)
    tokenizer = load_tokenizer(base)
    rows = Lengths.of(len(chat_ids(tokenizer, prompt, question)) for prompt in prompts for question in questions)
    blocks = None if head else max(layers) + 1
    return reading(shape, rows, base.dtype, blocks=blocks, logits=rows.rows if head else 0)
