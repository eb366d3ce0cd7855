"""The figures of source rate, from the tables of its analysis.

Plotly is imported where a figure is drawn: the definitions load this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from leakage_assets.statistics.points import as_points
from leakage_assets.statistics.regression import prediction_band
from leakage_assets.statistics.result import Estimate, estimate_of
from leakage_assets.studies.drawings import Drawing
from leakage_assets.studies.source_rate.design import SourceRatePlan

if TYPE_CHECKING:
    import plotly.graph_objects as go

GRID = 121
ROLES = {"fitted": "fitted sources", "new": "new sources"}


def scatter_with_fit(plan: SourceRatePlan, tables: Mapping[str, pl.DataFrame]) -> go.Figure:
    """Source rate against cosine at the primary layer: Wilson bars, the line through the fitted sources and its
    prediction band.

    Raises ``MissingRowsError`` for fewer than two finished sources.
    """
    from leakage_assets.reporting.figures import line_with_band

    points = tables["points"]
    fitted = points.filter(role="fitted")
    pool = as_points(fitted["source"].to_list(), fitted["cosine"].to_list(), fitted["rate"].to_list(), unit="source")
    low, high = (points["cosine"].min(), points["cosine"].max()) if points.height else (0.0, 0.0)
    at = np.linspace(low, high, GRID)  # type: ignore[arg-type]
    return line_with_band(
        points.select(
            pl.col("source").alias("name"),
            pl.col("cosine").alias("x"),
            pl.col("rate").alias("y"),
            pl.col("role").replace(ROLES),
            "ci_low",
            "ci_high",
            "found",
            "total",
        ),
        prediction_band(pool, at, level=plan.level),
        title="How well a marker implants, and the distance to the assistant",
        x_title=f"centred cosine to {plan.reference}, block_output({plan.primary_layer})",
        y_title="source rate",
        line_name="their line",
        band_name=f"{plan.level:.0%} prediction band",
        estimate=_headline(tables, "spearman"),
    )


def drawings(plan: SourceRatePlan) -> tuple[Drawing[SourceRatePlan], ...]:
    """The planned figures in reading order."""
    needs = f"two finished sources of recipe `{plan.headline_recipe}`"
    return (Drawing("source_rate", caption(plan), scatter_with_fit, needs),)


def caption(plan: SourceRatePlan) -> str:
    """What the figure shows (inline markdown)."""
    return (
        f"**Source rate against geometry** (recipe `{plan.headline_recipe}`, `block_output({plan.primary_layer})`). A "
        "point is a source, its bar the Wilson interval of its rate; line and band are drawn through the fitted "
        f"sources alone. ρ is over all sources, its p by permutation. The reference `{plan.reference}` has cosine one "
        "by construction."
    )


def _headline(tables: Mapping[str, pl.DataFrame], statistic: str) -> Estimate:
    row = tables["headline"].row(by_predicate=pl.col("statistic") == statistic, named=True)
    return estimate_of(row)
