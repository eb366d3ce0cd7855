"""Correlations within categories of bystanders, and over the pairs that were designed to be related."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakage_assets.statistics.correlation import Coefficient, correlate
from leakage_assets.statistics.pooled import PAIR
from leakage_assets.statistics.result import Estimate, StatisticsError, estimate_table, undefined

if TYPE_CHECKING:
    import polars as pl

MIN_CATEGORY_PAIRS = 5
"""Sheet section 7.3."""

ALL = "all"


def category_table(
    pairs: pl.DataFrame,
    *,
    similarity: str = "cosine",
    outcome: str = "rate",
    coefficient: Coefficient = "spearman",
    intended_only: bool = False,
    minimum: int = MIN_CATEGORY_PAIRS,
) -> pl.DataFrame:
    """One correlation per category, pooled over sources, then one over all (category ``"all"``).

    ``pairs`` is one layer of a long table with source, persona, category, is_source, the two named columns
    and, for ``intended_only``, related (both 0/1 or boolean). Self pairs are left out. Categories with fewer
    than ``minimum`` pairs are undefined. No intervals: pairs that share a bystander are not independent.
    """
    import polars as pl

    needed = ["source", "persona", "category", "is_source", similarity, outcome]
    needed += ["related"] if intended_only else []
    absent = [column for column in needed if column not in pairs.columns]
    if absent:
        raise StatisticsError(f"pairs table: no column {absent[0]!r}; it has {', '.join(pairs.columns)}")
    if pairs.select("source", "persona").is_duplicated().any():
        raise StatisticsError("pairs table: a (source, persona) occurs twice; pass one layer, recipe and seed")
    kept = pairs.filter(~pl.col("is_source").cast(pl.Boolean))
    if intended_only:
        kept = kept.filter(pl.col("related").cast(pl.Boolean))

    def estimate(label: str, part: pl.DataFrame) -> Estimate:
        if len(part) < minimum:
            reason = f"{len(part)} pairs, fewer than {minimum}"
            return undefined(coefficient, reason, n=len(part), unit=PAIR, method=coefficient.capitalize())
        blank = [c for c in (similarity, outcome) if part[c].null_count()]
        if blank:
            raise StatisticsError(f"pairs table, category {label!r}: empty cells in {blank[0]!r}")
        x, y = part[similarity].to_numpy(), part[outcome].to_numpy()
        return correlate(coefficient, x, y, coefficient=coefficient, unit=PAIR, interval=False)

    # Every category of the panel gets a row, also one that has no intended pair: nothing drops out unseen.
    names = pairs["category"].unique(maintain_order=True)
    parts = [(name, kept.filter(pl.col("category") == name)) for name in names] + [(ALL, kept)]
    return estimate_table(({"category": label}, estimate(label, part)) for label, part in parts)
