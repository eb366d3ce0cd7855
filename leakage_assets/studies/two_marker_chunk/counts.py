"""Completions with A, with B, with both, counted by question; and the sums that ratios are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from leakage_assets.measurement.marker_pairs import Order, chunk_signature, placed_at_random, suffix_signature
from leakage_assets.statistics.pooled_ratios import Sums, sums
from leakage_assets.statistics.result import StatisticsError
from leakage_assets.studies.two_marker_chunk.design import TwoMarkerPlan

CELL = ("recipe", "source", "seed", "prompt_name")
QUESTION = ("question_set", "question_name")

RATES = {
    "r_a": ("a", "total"),
    "r_b": ("b", "total"),
    "r_ab": ("ab", "total"),
    "r_b_given_a": ("ab", "a"),
    "r_b_given_not_a": ("b_alone", "not_a"),
}
"""Section 6: what is counted above and below the line. All are of loose matches."""

ORDERS: tuple[Order, Order] = ("after", "before")
COUNTED = ("total", "a", "b", "ab", "b_alone", "not_a", "chunk", "suffix", "at_random", "n_tokens", "truncated")


def count_completions(plan: TwoMarkerPlan, scores: pl.DataFrame) -> pl.DataFrame:
    """Counts per cell, prompt and question.

    ``scores``: as ``measurement.marker_pairs.pair_score_frame``, with recipe, source (the name of the pair) and seed.
    Columns: those of ``CELL``, role, those of ``QUESTION`` and of ``COUNTED``, sorted. ``chunk`` and ``suffix`` count
    completions with both markers; in an arm that puts B before A, a chunk is B just before A. ``at_random`` is what the
    first minus the second would be had each of them put its B at random (see ``marker_pairs.placed_at_random``). Raises
    ``StudyError`` for a source or recipe that the plan does not have.
    """
    both = pl.col("loose_a") & pl.col("loose_b")
    backwards = pl.col("recipe").is_in([arm.name for arm in plan.arms if arm.positions == "b_before_a"])
    after, before = (
        (chunk_signature(plan.signatures, order), placed_at_random(plan.signatures, *plan.experiment.markers, order))
        for order in ORDERS
    )
    chunk, at_random = (pl.when(backwards).then(b).otherwise(a) for a, b in zip(after, before, strict=True))
    keys = [*CELL, *QUESTION]
    counts = scores.group_by(keys).agg(
        pl.len().cast(pl.Int64).alias("total"),
        pl.col("loose_a").sum().cast(pl.Int64).alias("a"),
        pl.col("loose_b").sum().cast(pl.Int64).alias("b"),
        both.sum().cast(pl.Int64).alias("ab"),
        (pl.col("loose_b") & ~pl.col("loose_a")).sum().cast(pl.Int64).alias("b_alone"),
        (~pl.col("loose_a")).sum().cast(pl.Int64).alias("not_a"),
        (both & chunk).sum().cast(pl.Int64).alias("chunk"),
        (both & suffix_signature(plan.signatures)).sum().cast(pl.Int64).alias("suffix"),
        at_random.filter(both).sum().alias("at_random"),
        pl.col("n_tokens").sum().cast(pl.Int64),
        pl.col("truncated").sum().cast(pl.Int64),
    )
    for recipe in counts["recipe"].unique().to_list():
        plan.arm(recipe)
    roles = [plan.pair(source).role(prompt) for source, prompt in counts.select("source", "prompt_name").iter_rows()]
    return (
        counts.with_columns(pl.Series("role", roles, pl.String)).select(*CELL, "role", *QUESTION, *COUNTED).sort(keys)
    )


def of_cell(counts: pl.DataFrame, recipe: str, source: str, prompt: str | None = None) -> pl.DataFrame:
    """The rows of a condition, under one prompt or all."""
    part = counts.filter(pl.col("recipe") == recipe, pl.col("source") == source)
    return part if prompt is None else part.filter(pl.col("prompt_name") == prompt)


def shared_seeds(*parts: pl.DataFrame) -> list[int]:
    """The seeds that all parts have, ascending."""
    return sorted(set.intersection(*(set(part["seed"].to_list()) for part in parts)))


def pooled(part: pl.DataFrame, above: str, below: str, *, seeds: Sequence[int] | None = None) -> Sums | None:
    """(S, Q) sums of two counts over the rows of one prompt (or of several, added up); None where there are no rows.

    Seeds and questions are in ascending order, so that parts of the same panel can be paired.
    """
    if seeds is not None:
        part = part.filter(pl.col("seed").is_in(list(seeds)))
    if part.is_empty():
        return None
    # Lists rather than frames: an analysis pools some thousand times, and every query costs a millisecond.
    asked = list(zip(*(part[name].to_list() for name in QUESTION), strict=True))
    trained = part["seed"].to_list()
    rows = {seed: i for i, seed in enumerate(sorted(set(trained)))}
    columns = {question: i for i, question in enumerate(sorted(set(asked)))}
    grids = np.zeros((2, len(rows), len(columns)))
    places = ([rows[seed] for seed in trained], [columns[question] for question in asked])
    for grid, name in zip(grids, (above, below), strict=True):
        np.add.at(grid, places, part[name].to_numpy())
    return sums(*grids)


def excess_sums(part: pl.DataFrame) -> tuple[Sums, Sums] | None:
    """Of completions with both markers: close to A minus at the end, as they are and with B put at random."""
    moved = part.with_columns((pl.col("chunk") - pl.col("suffix")).alias("nearer"))
    found, random = pooled(moved, "nearer", "ab"), pooled(moved, "at_random", "ab")
    return None if found is None or random is None else (found, random)


def paired_sums(first: pl.DataFrame, second: pl.DataFrame, above: str, below: str) -> tuple[Sums, Sums] | None:
    """The same of two conditions, over the seeds and questions of both; None where they share no seed.

    Raises ``StatisticsError`` where they were asked other questions, which cannot be paired.
    """
    seeds = shared_seeds(first, second)
    one, other = pooled(first, above, below, seeds=seeds), pooled(second, above, below, seeds=seeds)
    if one is None or other is None:
        return None
    asked = [set(part.select(QUESTION).unique().iter_rows()) for part in (first, second)]
    if asked[0] != asked[1]:
        odd = sorted(asked[0] ^ asked[1])[0]
        raise StatisticsError(
            f"question {'/'.join(odd)} was asked of one condition alone: generate the missing samples"
        )
    return one, other
