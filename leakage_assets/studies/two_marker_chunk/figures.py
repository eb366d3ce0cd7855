"""The figures of two markers, from the tables of its analysis.

Plotly is imported where a figure is drawn: the definitions load this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from leakage_assets.studies.drawings import Drawing, Tables
from leakage_assets.studies.two_marker_chunk.arms import C2_MASKED, C_MASKED, T_MASKED, C, Pair, T
from leakage_assets.studies.two_marker_chunk.design import TwoMarkerPlan

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROLES = ("donor", "recipient", "negative", "untrained")
ROLE_NAMES = {
    "donor": "donor (trained)",
    "recipient": "recipient (trained)",
    "negative": "trained without markers",
    "untrained": "not trained",
}
SHOWN_ARMS = (T, C, T_MASKED, C_MASKED, C2_MASKED)
"""The arms of #261 and its follow-ups, whose personas are shown one by one."""

RATE_NAMES = {"r_a": "A", "r_b": "B"}


def drawings(plan: TwoMarkerPlan) -> tuple[Drawing[TwoMarkerPlan], ...]:
    """The planned figures in reading order."""
    return (
        Drawing(
            "conditional_rate",
            "**How often B comes with A**: R_B|A of donor and recipient by arm and pair, all seeds. Bars are bootstrap "
            "intervals over questions; a rate that no question varies has none. A bar of no length is a rate of zero; "
            "who never says A has no rate, and the label names them.",
            _conditional,
            "two rates of donors or recipients that say A",
        ),
        *(_of_pair(pair) for pair in plan.pairs),
        _of_places("positions", "fixed ends", SHOWN_ARMS),
        _of_places("positions_random", "random places", [a.name for a in plan.arms if a.positions != "ends"]),
    )


def _conditional(plan: TwoMarkerPlan, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.figures import rate_bars

    rates = tables["rates"].filter(pl.col("rate") == "r_b_given_a", pl.col("role").is_in(["donor", "recipient"]))
    # A missing bar would look like one of no length.
    silent = pl.col("role").filter(pl.col("estimate").is_null()).sort().str.join(", ").over("source", "recipe")
    never = pl.when(silent != "").then(pl.format(" ({}: no A)", silent)).otherwise(pl.lit(""))
    shown = _ordered(plan, rates.with_columns(never=never).drop_nulls("estimate"), "role").select(
        pl.concat_str("source", pl.lit(" · "), "recipe", "never").alias("condition"),
        "role",
        pl.col("estimate").alias("rate"),
        "ci_low",
        "ci_high",
        "found",
        "total",
    )
    return rate_bars(shown, title="B given A, by pair and arm", y_title="R_B|A")


def _of_pair(pair: Pair) -> Drawing[TwoMarkerPlan]:
    """The personas of one pair."""
    return Drawing(
        f"personas_{pair.name}",
        f"**Who says A, and who says B, where `{pair.donor}` learned both and `{pair.recipient}` A alone**: every "
        f"persona of the panel, one panel for each marker and each finished arm of {_named(SHOWN_ARMS)}: the "
        "arms first published and the headline with its controls. The rates of the other arms are in the analysis: a "
        "panel for each would be too many to read. Trained personas have colours of their "
        "own. Bars are Wilson intervals, which take completions as independent.",
        partial(_personas, pair),
        f"a finished condition of this pair under {_named(SHOWN_ARMS)}",
    )


def _personas(pair: Pair, plan: TwoMarkerPlan, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.figures import bystander_bars

    rates = tables["rates"].filter(
        pl.col("source") == pair.name,
        pl.col("recipe").is_in(list(SHOWN_ARMS)),
        pl.col("rate").is_in(list(RATE_NAMES)),
    )
    shown = _ordered(plan, rates.drop_nulls("estimate"), "rate", "role").select(
        pl.concat_str("recipe", pl.lit(" · "), pl.col("rate").replace(RATE_NAMES)).alias("condition"),
        pl.col("prompt_name").alias("persona"),
        pl.col("role").replace(ROLE_NAMES),
        pl.col("estimate").alias("rate"),
        pl.col("wilson_low").alias("ci_low"),
        pl.col("wilson_high").alias("ci_high"),
        "found",
        "total",
    )
    return bystander_bars(
        shown, title=f"Markers by persona: {pair.donor} to {pair.recipient}", y_title="share of completions"
    )


def _of_places(name: str, where: str, arms: Sequence[str]) -> Drawing[TwoMarkerPlan]:
    """The positions of the markers in some arms."""
    return Drawing(
        name,
        f"**Where the markers stand, trained at {where}**: start of a marker over the length of the completion, for "
        "donors and recipients by arm, all pairs.",
        partial(_positions, tuple(arms)),
        f"two completions with a marker of {_named(arms)}",
    )


def _positions(arms: Sequence[str], plan: TwoMarkerPlan, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.histograms import share_histogram

    order = pl.Enum([arm.name for arm in plan.arms])
    placed = (
        tables["positions"]
        .filter(pl.col("recipe").is_in(list(arms)))
        .sort(pl.col("recipe").cast(order), pl.col("role").cast(pl.Enum(ROLES)), "marker", maintain_order=True)
    )
    shown = placed.select(
        pl.concat_str("recipe", pl.lit(" · "), "role").alias("panel"),
        pl.concat_str(pl.lit("marker "), "marker").alias("series"),
        pl.col("position").alias("value"),
    )
    return share_histogram(
        shown,
        title="Where the markers stand, by arm and role",
        x_title="start of the marker, as a share of the completion",
        y_title="share of the completions with it",
        series=("marker A", "marker B"),
    )


def _ordered(plan: TwoMarkerPlan, table: pl.DataFrame, *then: str) -> pl.DataFrame:
    """Rows in the order of pairs and arms, then of the named columns."""
    orders = {
        "source": [pair.name for pair in plan.pairs],
        "recipe": [arm.name for arm in plan.arms],
        "role": list(ROLES),
    }
    by = [
        pl.col(name).cast(pl.Enum(orders[name])) if name in orders else pl.col(name)
        for name in ("source", "recipe", *then)
    ]
    return table.sort(by, maintain_order=True)


def _named(arms: Sequence[str]) -> str:
    return ", ".join(f"`{arm}`" for arm in arms)
