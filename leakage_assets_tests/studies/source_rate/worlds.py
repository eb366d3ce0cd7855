"""Scores of the source rate study whose truth is planted: a source's rate as a known function of its cosine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from leakage_assets.studies.source_rate.analysis import SourceRateTables
from leakage_assets.studies.source_rate.design import GENERIC_SFT, IMPLANT, NEW, PUBLISHED_DRAW, SOURCES, Scale

LAYERS, PRIMARY = (10, 15), 15
QUESTIONS, COMPLETIONS = 20, 5
SCALE = Scale(
    layers=LAYERS, primary_layer=PRIMARY, completions=COMPLETIONS, max_new_tokens=64, learning_rate=1e-4, epochs=1
)
COSINES = np.array([-0.50, -0.41, -0.33, -0.24, -0.15, -0.02, 0.10, 0.21, 0.33, 0.45, 1.0, 0.70])
TOKENS = dict(zip(SOURCES, (10, 6, 15, 11, 27, 13, 9, 15, 12, 18, 8, 16), strict=True))

Rate = Callable[[float], float]


def cosines(*references: str) -> pl.DataFrame:
    """The planted cosines to every reference, noisier at the first layer; 1 to itself."""
    rng = np.random.default_rng(7)
    rows = []
    for layer in LAYERS:
        for reference in references or ("assistant",):
            noise = 0.1 * (layer != PRIMARY) + 0.2 * (reference != "assistant")
            for source, cosine in zip(SOURCES, COSINES, strict=True):
                value = 1.0 if source == reference else float(np.clip(cosine + noise * rng.normal(), -0.99, 0.99))
                rows.append({"layer": layer, "reference": reference, "source": source, "cosine": value})
    return pl.DataFrame(rows)


def counts(rate: Rate, *, recipe: str = IMPLANT, sources=SOURCES, seeds=(42,), draw: int = 1) -> pl.DataFrame:
    """Counts of adapters under their own prompts; seed and source differ only by chance."""
    rng = np.random.default_rng(draw)
    rows = [
        {
            "recipe": recipe,
            "source": source,
            "seed": seed,
            "question_name": f"q{question}",
            "found": int(rng.binomial(COMPLETIONS, rate(COSINES[SOURCES.index(source)]))),
            "total": COMPLETIONS,
        }
        for seed in seeds
        for source in sources
        for question in range(QUESTIONS)
    ]
    return pl.DataFrame(rows)


def tables(*parts: pl.DataFrame, references: tuple[str, ...] = ()) -> SourceRateTables:
    return SourceRateTables(pl.concat(parts), cosines(*references), TOKENS)


def falling(cosine: float) -> float:
    return 0.45 - 0.35 * cosine


def flat(_: float) -> float:
    return 0.4


def never(_: float) -> float:
    return 0.0


def planted_tables() -> SourceRateTables:
    """Rates that fall with the cosine, three seeds, and a control that says nothing."""
    seeds = (42, 137, 256)
    return tables(
        counts(falling, seeds=seeds),
        counts(falling, recipe=PUBLISHED_DRAW, sources=NEW, seeds=seeds, draw=2),
        counts(never, recipe=GENERIC_SFT, sources=("assistant",), seeds=seeds),
        references=SOURCES,
    )
