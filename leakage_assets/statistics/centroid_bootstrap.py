"""How far the correlation hangs on the questions: bootstrap through the centroids.

A persona's centroid is a mean over questions, so the similarity itself has sampling error. Each resample of
questions gives new centroids, new cosines and, where counts per question are given, new rates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leakage_assets.statistics.correlation import correlate_rows, ranks
from leakage_assets.statistics.pooled import CrossedPairs
from leakage_assets.statistics.resampling import Floats, cluster_weights, percentile_interval
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined, with_interval

BLOCK = 1 << 23
"""Numbers per temporary: 64 MB of float64, so that hidden size and question count do not set the memory."""


@dataclass(frozen=True, eq=False)
class QuestionCounts:
    """Completions with the marker and in all, both (S, P, Q): outcomes to be resampled with the questions."""

    found: NDArray[np.integer]
    total: NDArray[np.integer]

    def __post_init__(self) -> None:
        if self.found.ndim != 3 or self.found.shape != self.total.shape:
            raise StatisticsError(
                f"counts: found {self.found.shape}, total {self.total.shape}; expected (S, P, Q) twice"
            )
        if np.any((self.found < 0) | (self.found > self.total)):
            raise StatisticsError("question counts: every found count must lie between 0 and its total")


def centroid_bootstrap(
    sources: Sequence[str],
    personas: Sequence[str],
    hidden: NDArray[np.floating],
    outcome: Floats | QuestionCounts,
    *,
    seed: int,
    draws: int = 1_000,
    level: float = 0.95,
    name: str = "spearman",
) -> dict[str, Estimate]:
    """Spearman of centred cosine and outcome, ``"pooled"`` and per source, with intervals over questions.

    ``hidden`` (P, Q, D) holds one vector per persona and question at one layer, ``outcome`` the rates (S, P),
    kept fixed, or the counts per question, reweighted by the same draw. Self pairs are left out. The sources
    must be personas of the panel.

    Percentile interval over draws of questions (Efron & Tibshirani 1993, section 13.3). A resample holds
    about 63% of the questions, so its centroids are noisier than the estimate's: where questions matter,
    draws lean towards 0.

    Raises ``StatisticsError`` for shapes that do not fit, values that are not finite, or a centroid that
    equals the panel's mean, which has no direction.
    """
    missing = [s for s in sources if s not in personas]
    if missing:
        raise StatisticsError(f"source {missing[0]!r} is no persona of the panel, so it has no centroid")
    if hidden.ndim != 3 or len(hidden) != len(personas):
        raise StatisticsError(
            f"hidden has shape {hidden.shape}; expected ({len(personas)} personas, questions, hidden size)"
        )
    questions = hidden.shape[1]
    rows = np.array([list(personas).index(s) for s in sources], dtype=np.intp)
    products = _centred_products(hidden, rows)
    once = np.ones((1, questions))
    cosine, rate = _cosines(products, rows, once)[0], _rates(outcome, once)[0]
    if cosine.shape != rate.shape:
        raise StatisticsError(f"outcome has shape {rate.shape}; expected {cosine.shape} (sources, personas)")
    lost = [s for s, row in zip(sources, cosine, strict=True) if np.isnan(row).all()]
    lost += [p for p, column in zip(personas, cosine.T, strict=True) if np.isnan(column).any()]
    if lost:
        raise StatisticsError(f"the centroid of {lost[0]!r} equals the panel's mean: it has no cosine")
    valid = CrossedPairs(tuple(sources), tuple(personas), cosine, rate).bystander

    weights = cluster_weights(questions, draws, seed)
    observed = _spearmans(cosine[None], rate[None], valid)
    resampled = _spearmans(_cosines(products, rows, weights), _rates(outcome, weights), valid)
    drawn = "centroids and rates" if isinstance(outcome, QuestionCounts) else "centroids, rates fixed"
    method = f"Spearman; question bootstrap of {drawn}, percentile, {draws} resamples, seed {seed}"

    def estimate(column: int) -> Estimate:
        value = float(observed[0, column])
        if np.isnan(value):
            reason = "similarity or outcome is constant"
            return undefined(name, reason, n=questions, unit="question cluster", method=method)
        interval = percentile_interval(resampled[:, column], level)
        return with_interval(
            name, value, interval, level=level, p=None, n=questions, unit="question cluster", method=method
        )

    return {key: estimate(column) for column, key in enumerate(("pooled", *sources))}


def _centred_products(hidden: NDArray[np.floating], rows: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Inner products of vectors centred over personas: (Q², S·P) source to persona and (Q², P) own.

    Centring the vectors of each question centres every weighted centroid at once, because both means are
    linear; and a centroid's inner products are quadratic in the question weights. So no resample touches the
    hidden size again.
    """
    personas, questions, size = hidden.shape
    cross = np.zeros((len(rows) * questions, personas * questions))
    own = np.zeros((personas, questions, questions))
    for part in _parts(size, personas * questions):
        block = hidden[:, :, part].astype(np.float64)
        if not np.isfinite(block).all():
            raise StatisticsError("hidden holds values that are not finite; compute the centroids again")
        block -= block.mean(axis=0)
        width = block.shape[2]
        cross += block[rows].reshape(-1, width) @ block.reshape(-1, width).T
        # Not `@`: BLAS threads meet at each of P small products, which takes 10 s and more on a busy host.
        own += np.einsum("pqd,prd->pqr", block, block)
    crossed = cross.reshape(len(rows), questions, personas, questions).transpose(1, 3, 0, 2)
    return crossed.reshape(questions**2, -1), own.transpose(1, 2, 0).reshape(questions**2, -1)


def _cosines(products: tuple[Floats, Floats], rows: NDArray[np.intp], weights: Floats) -> Floats:
    """(B, S, P) cosines of centroids under question weights (B, Q); NaN where a centroid has no length."""
    cross, own = products
    draws, questions = weights.shape
    share = weights / weights.sum(axis=1, keepdims=True)
    inner, squared = np.empty((draws, cross.shape[1])), np.empty((draws, own.shape[1]))
    for part in _parts(draws, questions**2):
        outer = (share[part, :, None] * share[part, None, :]).reshape(-1, questions**2)
        inner[part], squared[part] = outer @ cross, outer @ own
    # Rounding leaves a length of this order where all vectors of a persona equal the mean.
    floor = np.finfo(np.float64).eps * squared.max(axis=1, keepdims=True)
    length = np.sqrt(np.where(squared > floor, squared, np.nan))
    cosines: Floats = inner.reshape(draws, len(rows), -1) / (length[:, rows, None] * length[:, None, :])
    # Two sources meet twice among the pairs, with one cosine: an exact tie, which rounding must not break.
    between = cosines[:, :, rows]
    cosines[:, :, rows] = (between + between.transpose(0, 2, 1)) / 2
    return cosines


def _rates(outcome: Floats | QuestionCounts, weights: Floats) -> Floats:
    """(B, S, P), or (1, S, P) where the rates are fixed."""
    if not isinstance(outcome, QuestionCounts):
        return np.asarray(outcome, dtype=np.float64)[None]
    shape = outcome.found.shape
    if weights.shape[1] != shape[2]:
        raise StatisticsError(f"{shape[2]} questions in the counts, {weights.shape[1]} in hidden")
    found, total = (weights @ c.reshape(-1, shape[2]).T.astype(np.float64) for c in (outcome.found, outcome.total))
    with np.errstate(invalid="ignore"):
        rates: Floats = (found / total).reshape(-1, *shape[:2])
    return rates


def _spearmans(cosine: Floats, rate: Floats, valid: NDArray[np.bool_]) -> Floats:
    """(B, 1 + S): pooled, then each source."""
    masks = [valid] + [valid & (np.arange(len(valid)) == s)[:, None] for s in range(len(valid))]
    columns = [correlate_rows(ranks(cosine[:, mask]), ranks(rate[:, mask])) for mask in masks]
    return np.stack(columns, axis=1)


def _parts(length: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK // width)
    return (slice(start, start + step) for start in range(0, length, step))
