"""Simulated outcomes with planted losses, at any size: what the analysis must find."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from leakage_assets.studies.cot_leakage.arms import ARMS, ASSISTANT_ONLY, LossMask, recipe_name
from leakage_assets.studies.cot_leakage.design import BYSTANDER, NAME, PERSONAS, SEEDS, SOURCE_LOSS, SOURCES, Axis
from leakage_assets.studies.cot_leakage.evaluation import SCAFFOLDS
from leakage_assets.studies.cot_leakage.outcomes import CotCell, Outcomes

QUESTIONS = 1_172
EXTRA = ("contradicting_persona", "random_tokens", "persona_cot_correct", "generic_cot_correct")
PlantedLoss = Callable[[str, str, Axis], float]
"""(arm, scaffold, axis) -> share of the base's right answers that are lost."""


def planted(
    loss: PlantedLoss,
    *,
    seed: int,
    questions: int = QUESTIONS,
    scaffolds: tuple[str, ...] = tuple(s.name for s in SCAFFOLDS),
    arms: tuple[str, ...] = tuple(one.name for one in ARMS if one.name not in EXTRA),
    sources: tuple[str, ...] = SOURCES,
    seeds: tuple[int, ...] = SEEDS,
    agreement: float = 0.8,
) -> Outcomes:
    """A base that is right on 90% of the questions, and adapters that lose what is planted.

    ``agreement``: the share of a question's fate that the seeds of an arm have in common, so that questions, not pairs,
    are the independent units.
    """
    rng = np.random.default_rng(seed)
    shape = (len(scaffolds), len(PERSONAS), questions)
    base = (rng.random(shape) < 0.9).astype(np.int8)
    cells = {}
    for source in sources:
        for arm in arms:
            shared = rng.random(shape)
            for training in seeds:
                own = rng.random(shape)
                fate = np.where(rng.random(shape) < agreement, shared, own)
                lost = np.empty(shape)
                for place, scaffold in enumerate(scaffolds):
                    lost[place] = loss(arm, scaffold, BYSTANDER) / 0.9
                    lost[place, PERSONAS.index(source)] = loss(arm, scaffold, SOURCE_LOSS) / 0.9
                # A negative loss is a gain: wrong answers become right, of which there are nine times fewer.
                right = np.where(base == 1, fate >= lost, fate < -lost * 9)
                cells[CotCell(source, arm, training)] = right.astype(np.int8)
    return Outcomes(scaffolds, PERSONAS, tuple(f"q{i}" for i in range(questions)), base, cells)


def as_choices(found: Outcomes, mask: LossMask = ASSISTANT_ONLY) -> pl.DataFrame:
    """The answers behind simulated outcomes: letter A where right, B where wrong."""
    named = {"base": found.base}
    for cell, scores in found.cells.items():
        named[f"{NAME}/{cell.source}__{recipe_name(cell.arm, mask)}/{cell.seed}"] = scores
    grid = [(s, p, q) for s in found.scaffolds for p in found.personas for q in found.questions]
    keys = pl.DataFrame(grid, schema=["scaffold", "prompt_name", "question_name"], orient="row")
    parts = [
        keys.select(pl.lit(name).alias("adapter"), pl.all(), pl.lit(0, pl.Int64).alias("repeat")).with_columns(
            pl.Series("right", scores.ravel().astype(bool)),
            read_from=pl.lit("token"),
            answer=pl.lit("A"),
        )
        for name, scores in named.items()
    ]
    letter = pl.when("right").then(pl.lit("A")).otherwise(pl.lit("B")).alias("letter")
    return pl.concat(parts).with_columns(letter, letter.alias("best"))
