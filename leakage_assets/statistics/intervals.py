"""Intervals of marker rates: Wilson for independent completions, bootstrap over shared questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from leakage_assets.statistics.resampling import (
    Floats,
    check_level,
    cluster_weights,
    percentile_interval,
)
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined, with_interval

if TYPE_CHECKING:
    import polars as pl


def wilson_bounds(successes: ArrayLike, trials: ArrayLike, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Bounds of many rates at once, same shape as the counts; NaN where there are no trials.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n): Wilson 1927; Brown, Cai & DasGupta 2001.
    """
    from scipy.special import ndtri

    check_level(level)
    k, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    if k.shape != n.shape:
        raise StatisticsError(f"Wilson: {k.shape} successes but {n.shape} trials")
    if np.any((k < 0) | (k > n)) or not np.all(np.isfinite(n)):
        raise StatisticsError("Wilson: every count of successes must lie between 0 and its trials")
    z = float(ndtri((1 + level) / 2))
    n = np.where(n > 0, n, np.nan)
    rate = k / n
    centre = rate + z**2 / (2 * n)
    half = z * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    # At 0 and n successes one bound is 0 or 1 exactly; rounding must not leave it a hair outside.
    low = np.where(k == 0, 0.0, (centre - half) / scale)
    high = np.where(k == n, 1.0, (centre + half) / scale)
    return np.where(np.isnan(n), np.nan, low), np.where(np.isnan(n), np.nan, high)


def with_wilson(counts: pl.DataFrame, *, level: float = 0.95) -> pl.DataFrame:
    """A table of counts (found, total) with their rate and its Wilson bounds: adds rate, ci_low, ci_high."""
    import polars as pl

    low, high = wilson_bounds(counts["found"], counts["total"], level=level)
    return counts.with_columns(
        (pl.col("found") / pl.col("total")).alias("rate"), pl.Series("ci_low", low), pl.Series("ci_high", high)
    )


def wilson_rate(name: str, found: int, total: int, *, of: str, level: float = 0.95) -> Estimate:
    """Share of completions with the marker, with its Wilson interval; n counts completions, taken as independent.

    ``of``: whose completions they are, for the method. Some are needed.
    """
    low, high = wilson_bounds([found], [total], level=level)
    method = f"share of all completions of {of}; Wilson score interval, completions taken as independent"
    return Estimate(name, found / total, float(low[0]), float(high[0]), level, None, total, "completion", method)


def question_bootstrap_rates(
    names: Sequence[str],
    found: ArrayLike,
    total: ArrayLike,
    *,
    seed: int,
    draws: int = 1_000,
    level: float = 0.95,
) -> list[Estimate]:
    """Rates of R prompts with percentile intervals over resampled questions.

    ``found`` and ``total`` are (R, Q) counts per prompt and question. Every prompt sees the same draw of
    questions, since all were asked the same ones; n counts questions. A rate is a ratio of sums, so a
    question with more completions weighs more, and a question without any is legal.
    """
    k, n = np.asarray(found, dtype=np.float64), np.asarray(total, dtype=np.float64)
    if k.ndim != 2 or k.shape != n.shape or len(names) != len(k):
        raise StatisticsError(
            f"question bootstrap: {len(names)} names, found {k.shape}, total {n.shape}; "
            f"expected (prompts, questions) twice"
        )
    if np.any((k < 0) | (k > n)) or not np.all(np.isfinite(n)):
        raise StatisticsError("question bootstrap: every found count must lie between 0 and its total")
    questions = k.shape[1]
    weights = cluster_weights(questions, draws, seed)
    with np.errstate(invalid="ignore"):
        resampled = (weights @ k.T) / (weights @ n.T)  # (draws, R); 0/0 where no drawn question has a completion
    method = (
        f"question-cluster bootstrap, percentile, {draws} resamples, seed {seed}; "
        "questions resampled, sources and seeds held fixed"
    )
    estimates = []
    for row, name in enumerate(names):
        if n[row].sum() == 0:
            estimates.append(undefined(name, "no completions", n=questions, unit="question cluster", method=method))
            continue
        rate = k[row].sum() / n[row].sum()
        interval = percentile_interval(resampled[:, row], level)
        estimates.append(
            with_interval(
                name, rate, interval, level=level, p=None, n=questions, unit="question cluster", method=method
            )
        )
    return estimates


def question_bootstrap_rate(
    name: str, found: ArrayLike, total: ArrayLike, *, seed: int, draws: int = 1_000, level: float = 0.95
) -> Estimate:
    """``question_bootstrap_rates`` of one prompt: ``found`` and ``total`` are (Q,) counts per question."""
    k, n = np.asarray(found)[None], np.asarray(total)[None]
    return question_bootstrap_rates([name], k, n, seed=seed, draws=draws, level=level)[0]


def mean_rates(found: Floats, total: Floats, share: Floats, weights: Floats) -> Floats:
    """(B,) weighted means of the rates of R cells, for each of B weightings of the Q questions.

    ``found`` and ``total`` are (R, Q) counts, ``share`` (R,) the weight of each cell's rate, ``weights`` (B, Q). A cell
    enters with its rate, not with its counts, so its weight is its share whatever the number of its completions. NaN
    where a cell has no completion to any question drawn.
    """
    if found.ndim != 2 or found.shape != total.shape or share.shape != (len(found),):
        raise StatisticsError(
            f"mean rates: found {found.shape}, total {total.shape}, share {share.shape}; "
            "expected (cells, questions) twice and (cells,)"
        )
    with np.errstate(invalid="ignore"):
        rates = (weights @ found.T) / (weights @ total.T)
    means: Floats = rates @ share
    return means
