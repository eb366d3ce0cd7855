"""Correlations of every layer, per source and pooled, and which layer is best for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakage_assets.statistics.correlation import COEFFICIENTS
from leakage_assets.statistics.pooled import crossed_pairs, per_source, pooled
from leakage_assets.statistics.result import StatisticsError, estimate_table

if TYPE_CHECKING:
    import polars as pl

POOLED = "pooled"


def correlation_table(
    pairs: pl.DataFrame, *, similarity: str = "cosine", outcome: str = "rate", level: float = 0.95
) -> pl.DataFrame:
    """Spearman and Pearson of every layer and source, and over all pairs (source ``"pooled"``).

    ``pairs`` is long: layer, source, persona and the two named columns, one row per (layer, source, persona);
    rows of self pairs are ignored. Columns of the result: layer, source, then those of ``Estimate`` (name is
    the coefficient).
    """
    if "layer" not in pairs.columns:
        raise StatisticsError(f"pairs table: no column 'layer'; it has {', '.join(pairs.columns)}")
    rows = []
    for (layer,), part in pairs.group_by("layer", maintain_order=True):
        crossed = crossed_pairs(part, similarity=similarity, outcome=outcome)
        for coefficient in COEFFICIENTS:
            found = per_source(crossed, coefficient, level=level) | {POOLED: pooled(crossed, coefficient)}
            rows += [({"layer": layer, "source": source}, estimate) for source, estimate in found.items()]
    return estimate_table(rows)


def layer_sensitivity(correlations: pl.DataFrame, *, primary_layer: int) -> pl.DataFrame:
    """Per source and coefficient: the estimate at each layer, its rank (1 = highest), how far below best.

    Takes a ``correlation_table``.

    Raises ``StatisticsError`` if the primary layer is not in the table. An undefined estimate has no rank.
    """
    import polars as pl

    layers = correlations["layer"].unique().sort().to_list()
    if primary_layer not in layers:
        raise StatisticsError(f"layer {primary_layer} is not in the table; layers: {', '.join(map(str, layers))}")
    group = ["source", "name"]
    return (
        correlations.select("layer", *group, "estimate", "p", "n")
        .with_columns(
            pl.col("estimate").rank("min", descending=True).over(group).cast(pl.Int64).alias("rank"),
            (pl.col("layer") == primary_layer).alias("primary"),
            (pl.col("estimate").max() - pl.col("estimate")).over(group).alias("below_best"),
        )
        .sort(*group, "layer", maintain_order=True)
    )


def best_layers(correlations: pl.DataFrame, coefficient: str) -> dict[str, int]:
    """The layer with the highest estimate of each source (and ``"pooled"``); of equal ones, the lowest layer.

    A source without any defined estimate is left out.
    """
    import polars as pl

    ranked = (
        correlations.filter((pl.col("name") == coefficient) & pl.col("estimate").is_not_null())
        .sort("layer")
        .sort("estimate", descending=True, maintain_order=True)
        .unique("source", keep="first", maintain_order=True)
    )
    return dict(ranked.select("source", "layer").iter_rows())
