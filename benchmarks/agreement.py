"""Do two halves that asked the same questions of the same adapters say the marker equally often?

The halves draw from different streams of random numbers, so that their answers to one question are two independent
draws; if the engines are the same, of one probability. Then a discordant pair (marker in one answer, not in the other)
goes either way with equal chance, whatever that probability is (McNemar 1947, Psychometrika 12:153): of d discordant
pairs the number in one direction is binomial with d and 1/2, exactly. Rates over questions of unequal difficulty spread
less than a binomial of their mean, so that the standard errors of two binomial samples, given beside it, are an upper
bound and the z of a difference errs to the cautious side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from leakage_assets.statistics.multiplicity import holm
from leakage_assets.store.fingerprint import derive_seed

LEVEL = 0.05
"""Of all cells together, and of all pairs of cell and prompt together, after Holm's correction."""
GLOBAL_LEVEL = 0.01
DRAWS = 20_000
QUESTION = ("prompt_name", "question_set", "question_name", "index")
CELL = ("source", "recipe", "seed")


def joined(one: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """The scores of two halves answer by answer; `one` and `other` are whether the marker is there.

    Args:
        one, other: columns of CELL, of QUESTION, and `marker_present`.

    Raises:
        ValueError: they do not hold the same questions of the same cells.
    """
    keys = [*CELL, *QUESTION]
    both = one.select(*keys, one="marker_present").join(
        other.select(*keys, other="marker_present"), on=keys, how="inner"
    )
    if not both.height == one.height == other.height:
        raise ValueError(f"{one.height} and {other.height} answers, of which {both.height} are to the same questions")
    return both.sort(keys)


def table(both: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Rates of both halves per group, their difference in standard errors of two binomial samples, and exact p values.

    Columns besides `by`: n, rate_one, rate_other, difference, standard_errors (0 where no rate differs from 0 or 1),
    only_one and only_other (discordant pairs), p (of these, two-sided), p_holm.
    """
    found = (
        both.group_by(by)
        .agg(
            n=pl.len(),
            rate_one=pl.col("one").mean(),
            rate_other=pl.col("other").mean(),
            only_one=(pl.col("one") & ~pl.col("other")).sum().cast(pl.Int64),
            only_other=(~pl.col("one") & pl.col("other")).sum().cast(pl.Int64),
        )
        .sort(by)
        .with_columns(difference=pl.col("rate_other") - pl.col("rate_one"))
    )
    pooled = (found["rate_one"].to_numpy() + found["rate_other"].to_numpy()) / 2
    error = np.sqrt(pooled * (1 - pooled) * 2 / found["n"].to_numpy())
    z = np.divide(found["difference"].to_numpy(), error, out=np.zeros_like(error), where=error > 0)
    p = sign_p(found["only_one"].to_numpy(), found["only_other"].to_numpy())
    adjusted = holm({str(row): float(value) for row, value in enumerate(p)})
    return found.with_columns(
        standard_errors=pl.Series(z), p=pl.Series(p), p_holm=pl.Series(list(adjusted.values()), dtype=pl.Float64)
    )


def sign_p(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Two-sided exact p of the discordant pairs; 1 where there are none."""
    tail = stats.binom.cdf(np.minimum(one, other), one + other, 0.5)
    return np.minimum(1.0, 2 * tail)


def global_p(one: NDArray[Any], other: NDArray[Any], seed: int) -> float:
    """Exact Monte Carlo p of the sum over groups of (only_one - only_other)^2 / (only_one + only_other).

    The null draws each group's discordant pairs anew, each way with chance 1/2 (Davison & Hinkley 1997, section 4.2).
    1 where no pair is discordant.
    """
    some = (one + other) > 0
    pairs = (one + other)[some]
    if not pairs.size:
        return 1.0

    def statistic(drawn: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(((2 * drawn - pairs) ** 2 / pairs).sum(axis=-1), dtype=np.float64)

    drawn = np.random.default_rng(seed).binomial(pairs, 0.5, size=(DRAWS, pairs.size))
    # Equal sums in another order may differ in the last place.
    beyond = int((statistic(drawn) >= statistic(one[some]) - 1e-9).sum())
    return (1 + beyond) / (1 + DRAWS)


def overall(both: pl.DataFrame) -> dict[str, float]:
    """Difference of the rates over everything, with its 95% interval from the discordant pairs (normal)."""
    difference = both["other"].cast(pl.Float64) - both["one"].cast(pl.Float64)
    mean, error = float(np.mean(difference.to_numpy())), float(np.std(difference.to_numpy())) / both.height**0.5
    return {"difference": mean, "from": mean - 1.96 * error, "to": mean + 1.96 * error}


def agreement(both: pl.DataFrame) -> dict[str, Any]:
    """All of it, and whether the halves agree: no cell and no pair of cell and prompt differs at LEVEL after Holm's
    correction for their number, and all pairs together do not at GLOBAL_LEVEL. Two equal engines fail it at most once
    in nine times (0.05 + 0.05 + 0.01), and less often where pairs are few.
    """
    cells, prompts = table(both, CELL), table(both, [*CELL, "prompt_name"])
    p = global_p(prompts["only_one"].to_numpy(), prompts["only_other"].to_numpy(), derive_seed("agreement"))
    far = prompts.filter(pl.col("p_holm") < LEVEL)
    spread = float((prompts["standard_errors"].abs() > stats.norm.isf(LEVEL / 2)).mean())
    return {
        "answers": both.height,
        "overall": overall(both),
        "cells": cells.to_dicts(),
        "cells_beyond": int((cells["p_holm"] < LEVEL).sum()),
        "cell_prompts": prompts.height,
        "cell_prompts_discordant": int((prompts["only_one"] + prompts["only_other"] > 0).sum()),
        "cell_prompts_beyond": far.height,
        "cell_prompts_beyond_share": far.height / prompts.height,
        "cell_prompts_beyond_rows": far.to_dicts(),
        "cell_prompts_beyond_uncorrected_share": spread,
        "global_p": p,
        "test": "discordant pairs of answers to the same question, each way with chance 1/2: exact per cell and per "
        f"cell and prompt, Holm at {LEVEL}; their sum of squares by {DRAWS} draws, at {GLOBAL_LEVEL}",
        "agree": p >= GLOBAL_LEVEL and far.height == 0 and bool((cells["p_holm"] >= LEVEL).all()),
    }
