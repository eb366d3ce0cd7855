"""What the correlation rests on: prompts that the base model hardly tells from the source, and zeros."""

from __future__ import annotations

import polars as pl

from leakage_assets.statistics.correlation import MIN_PAIRS, correlate
from leakage_assets.statistics.layers import POOLED
from leakage_assets.statistics.result import Estimate, estimate_table, undefined

LOOK_ALIKE = 0.9
"""Centred cosine from which a bystander counts as a look-alike of the source."""

NAME, UNIT = "spearman_without_look_alikes", "pair"


def shape_table(pairs: pl.DataFrame) -> pl.DataFrame:
    """Per source and over all pairs: how many look-alikes, how many bystanders at zero, and ρ without look-alikes.

    ``pairs``: source, is_source, cosine and rate at one layer. Columns of the result: source, bystanders,
    look_alike_from (the threshold), look_alikes, zero_share, then those of ``Estimate``. Pairs are taken as
    independent, so over all pairs no interval is given.
    """
    bystanders = pairs.filter(~pl.col("is_source"))
    groups = [(str(source), part) for (source,), part in bystanders.group_by("source", maintain_order=True)]
    return estimate_table(
        (
            {
                "source": source,
                "bystanders": part.height,
                "look_alike_from": LOOK_ALIKE,
                "look_alikes": part.filter(pl.col("cosine") >= LOOK_ALIKE).height,
                "zero_share": part.filter(pl.col("rate") == 0).height / part.height,
            },
            _without_look_alikes(part, interval=source != POOLED),
        )
        for source, part in [*groups, (POOLED, bystanders)]
    )


def _without_look_alikes(pairs: pl.DataFrame, *, interval: bool) -> Estimate:
    kept = pairs.filter(pl.col("cosine") < LOOK_ALIKE)
    if kept.height < MIN_PAIRS:
        return undefined(NAME, f"fewer than {MIN_PAIRS} pairs", n=kept.height, unit=UNIT, method="Spearman")
    return correlate(NAME, kept["cosine"], kept["rate"], coefficient="spearman", unit=UNIT, interval=interval)
