"""Is a marker said more under the prompts that were trained than elsewhere?

Cells are (adapter, prompt); some are *matched* (the adapter's own prompt), the others *bystanders*. Rates of cells are
averaged, so that no cell weighs more than another; all adapters answer the same questions, so questions are the
clusters of every interval here. A permutation of labels gives p.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations as arrangements

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leakage_assets.statistics.linear_model import cluster_codes
from leakage_assets.statistics.resampling import TIE, Floats, check_draws, check_level, generator
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined, with_interval
from leakage_assets.statistics.student import t_estimate, t_interval, t_p

MIN_QUESTIONS = 4
MIN_SOURCES = 4
QUESTION = "question cluster"
SHARES, DIFFERENCES = (0.0, 1.0), (-1.0, 1.0)
"""The ranges of a rate and of the difference of two."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Completions with the marker and in all, (N, Q) each, for N cells and the Q questions all were asked.

    ``matched`` (N,) tells the cells of trained prompts; ``seeds`` and ``pairs`` (N each) name the training seed, and
    what is the same over seeds: the (source, prompt).

    Raises ``StatisticsError`` for shapes that do not fit, impossible counts, a question that a cell was not asked, a
    pair that occurs twice in a seed, or is matched in one seed and not in another.
    """

    found: NDArray[np.integer]
    total: NDArray[np.integer]
    matched: NDArray[np.bool_]
    seeds: tuple[Hashable, ...]
    pairs: tuple[Hashable, ...]

    def __post_init__(self) -> None:
        shape = self.found.shape
        if len(shape) != 2 or shape != self.total.shape or self.matched.shape != shape[:1]:
            raise StatisticsError(
                f"cells: found {shape}, total {self.total.shape}, matched {self.matched.shape}; "
                "expected (cells, questions) twice and (cells,)"
            )
        if len(self.seeds) != shape[0] or len(self.pairs) != shape[0]:
            raise StatisticsError(f"cells: expected a seed and a pair for each of {shape[0]} cells")
        if np.any(self.found < 0) or np.any(self.found > self.total):
            raise StatisticsError("cells: every found count must lie between 0 and its total")
        if np.any(self.total == 0):
            cell, question = np.argwhere(self.total == 0)[0]
            raise StatisticsError(
                f"cell {self.pairs[cell]}: no completion to question {question}; every cell needs one"
            )
        if len(set(zip(self.seeds, self.pairs, strict=True))) < shape[0]:
            raise StatisticsError("cells: a pair occurs twice in one seed; pass one recipe at a time")
        if len(set(zip(self.pairs, self.matched.tolist(), strict=True))) > len(set(self.pairs)):
            raise StatisticsError("cells: a pair is matched in one seed and a bystander in another")

    @property
    def rates(self) -> Floats:
        """(N, Q): the share of the completions to a question that hold the marker."""
        shares: Floats = self.found / self.total
        return shares

    def weights(self) -> tuple[Floats, Floats] | str:
        """(N,) weights of the mean over seeds of the mean matched rate, and of that of bystanders; or why not."""
        seeds = cluster_codes(self.seeds)
        both = []
        for which, word in ((self.matched, "matched"), (~self.matched, "bystander")):
            counts = np.bincount(seeds, weights=which, minlength=int(seeds.max(initial=-1)) + 1)
            if not len(counts):
                return "no cells"
            if (counts == 0).any():
                return f"a seed has no {word} cell"
            both.append(which / counts[seeds] / len(counts))
        return both[0], both[1]


@dataclass(frozen=True)
class Gating:
    """Mean rates of both kinds of cells, their difference and their ratio (matched / bystander).

    Difference and ratio carry the p of the shuffled labels, one-sided: are matched cells higher?
    """

    matched: Estimate
    bystander: Estimate
    difference: Estimate
    ratio: Estimate

    def estimates(self) -> tuple[Estimate, ...]:
        return (self.matched, self.bystander, self.difference, self.ratio)


def gating(
    cells: Cells, *, seed: int, draws: int = 10_000, pairs_whole: bool = True, level: float = 0.95, suffix: str = ""
) -> Gating:
    """Mean rates of matched and bystander cells, each the mean over seeds of the mean over the cells of that seed.

    Intervals: t over questions (of the difference, and of the logarithm of the ratio by the delta method), adapters and
    prompts held fixed. p = (1 + #{difference* >= difference}) / (B + 1) over ``draws`` shuffles of the labels: of whole
    pairs with their seeds, or with ``pairs_whole=False`` of cells within each seed, as published, which takes seeds of
    one pair as independent (sheet B5).

    All undefined where a seed lacks one kind of cell or there are fewer than 4 questions; the ratio also where no
    bystander says the marker. ``suffix`` is added to the names.
    """
    check_level(level)
    check_draws(draws)
    questions = cells.found.shape[1]
    counted = f"{int(cells.matched.sum())} matched and {int((~cells.matched).sum())} bystander cells"
    base = f"means over cells ({counted}); t over questions, adapters and prompts held fixed"
    names = [f"{name}{suffix}" for name in ("matched_rate", "bystander_rate", "gating_difference", "gating_ratio")]
    weights = cells.weights()
    if not isinstance(weights, str) and questions < MIN_QUESTIONS:
        weights = f"{questions} questions, fewer than {MIN_QUESTIONS}"
    if isinstance(weights, str):
        return Gating(*(undefined(n, weights, n=questions, unit=QUESTION, method=base) for n in names))
    own, others = weights[0] @ cells.rates, weights[1] @ cells.rates
    shuffled = "labels of whole (source, prompt) pairs" if pairs_whole else "labels of cells within each seed"
    p = label_shuffle_p(cells, seed=seed, draws=draws, pairs_whole=pairs_whole)
    tested = f"one-sided permutation p, {shuffled}, {draws} draws, seed {seed}"
    return Gating(
        mean_over_questions(names[0], own, level=level, bounds=SHARES, method=base),
        mean_over_questions(names[1], others, level=level, bounds=SHARES, method=base),
        mean_over_questions(names[2], own - others, level=level, p=p, method=f"difference of {base}; {tested}"),
        ratio_over_questions(names[3], own, others, level=level, p=p, method=f"ratio of {base}; {tested}"),
    )


def mean_over_questions(
    name: str,
    by_question: ArrayLike,
    *,
    level: float = 0.95,
    p: float | None = None,
    tested: bool = False,
    bounds: tuple[float, float] | None = None,
    method: str,
) -> Estimate:
    """Mean of (Q,) values with a t interval on Q-1 df; none where the questions do not differ.

    ``tested`` adds the two-sided p of the mean's difference from 0, in place of a given ``p``. The interval is cut off
    at ``bounds``, the range that the mean can have: the t distribution knows of none.
    """
    values = np.asarray(by_question, dtype=np.float64)
    n = len(values)
    if n < MIN_QUESTIONS:
        return undefined(name, f"{n} questions, fewer than {MIN_QUESTIONS}", n=n, unit=QUESTION, method=method)
    value = float(values.mean())
    if np.ptp(values) <= TIE:
        reason = "the questions do not differ"
        return with_interval(name, value, reason, level=level, p=p, n=n, unit=QUESTION, method=method)
    error = float(values.std(ddof=1) / np.sqrt(n))
    found = t_estimate(name, value, error, n - 1, level=level, n=n, unit=QUESTION, method=method)
    return _cut(found if tested else replace(found, p=p), bounds)


def _cut(estimate: Estimate, bounds: tuple[float, float] | None) -> Estimate:
    low, high = estimate.ci_low, estimate.ci_high
    if bounds is None or low is None or high is None or bounds[0] <= low <= high <= bounds[1]:
        return estimate
    method = f"{estimate.method}; clipped to the possible range"
    return replace(estimate, ci_low=max(bounds[0], low), ci_high=min(bounds[1], high), method=method)


def specificity_terms(own: ArrayLike, others: ArrayLike) -> Floats | str:
    """(Q,) values whose mean is 1 - (mean of others) / (mean of own), and whose spread is its error to first order.

    1: said under the own prompt alone; 0: as often elsewhere; below 0: more often elsewhere. Defined also where others
    never say the marker, which the ratio is not. Where the own prompt never draws it, the reason why there is none.
    """
    top, bottom = np.asarray(own, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if top.mean() <= 0:
        return "the own prompt never draws the marker"
    ratio = bottom.mean() / top.mean()
    terms: Floats = 1 - ratio - (bottom - ratio * top) / top.mean()
    return terms


def specificity(
    name: str, own: ArrayLike, others: ArrayLike, *, level: float = 0.95, method: str = "means over cells"
) -> Estimate:
    """1 - others / own with its interval over questions; see ``specificity_terms``."""
    terms = specificity_terms(own, others)
    described = f"1 - bystander rate / own rate, {method}; delta method, t over questions"
    if isinstance(terms, str):
        n = len(np.asarray(own))
        return undefined(name, terms, n=n, unit=QUESTION, method=described)
    return mean_over_questions(name, terms, level=level, bounds=(-np.inf, 1.0), method=described)


def ratio_over_questions(
    name: str, above: ArrayLike, below: ArrayLike, *, level: float = 0.95, p: float | None = None, method: str
) -> Estimate:
    """Ratio of two means over the same questions; interval of its logarithm by the delta method, t on Q-1 df.

    Undefined where the lower mean is 0. No interval where the upper one is: its logarithm does not exist.
    """
    top, bottom = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    n = len(top)
    if n < MIN_QUESTIONS:
        return undefined(name, f"{n} questions, fewer than {MIN_QUESTIONS}", n=n, unit=QUESTION, method=method)
    if bottom.mean() <= 0:
        return undefined(name, "no bystander says the marker", n=n, unit=QUESTION, method=method)
    value = float(top.mean() / bottom.mean())
    interval: tuple[float, float] | str = "the questions do not differ"
    if top.mean() <= 0:
        interval = "no matched cell says the marker"
    elif np.ptp(log_ratio_terms(top, bottom)) > TIE:
        low, high = log_ratio_interval(top, bottom, level)
        interval = (float(np.exp(low)), float(np.exp(high)))
    return with_interval(name, value, interval, level=level, p=p, n=n, unit=QUESTION, method=method)


def log_ratio_terms(above: Floats, below: Floats) -> Floats:
    """(..., Q): what each question adds to the logarithm of the ratio of means, to first order; the mean is 0."""
    top, bottom = above.mean(axis=-1, keepdims=True), below.mean(axis=-1, keepdims=True)
    terms: Floats = above / top - below / bottom
    return terms


def log_ratio_interval(above: Floats, below: Floats, level: float) -> tuple[Floats, Floats]:
    """Bounds of log(mean above / mean below), (...), from (..., Q) values over the same questions."""
    questions = above.shape[-1]
    error = log_ratio_terms(above, below).std(axis=-1, ddof=1) / np.sqrt(questions)
    return t_interval(np.log(above.mean(axis=-1) / below.mean(axis=-1)), error, questions - 1, level)


def label_shuffle_p(cells: Cells, *, seed: int, draws: int, pairs_whole: bool) -> float:
    """One-sided p of the mean difference under shuffled labels (Phipson & Smyth 2010)."""
    rates = cells.rates.mean(axis=1)
    if pairs_whole:
        codes = cluster_codes(cells.pairs)
        seeds_each = np.bincount(codes)
        means = np.bincount(codes, weights=rates) / seeds_each
        labels = np.bincount(codes, weights=cells.matched) > 0
        blocks = [(means, labels)]
    else:
        codes = cluster_codes(cells.seeds)
        blocks = [(rates[codes == s], cells.matched[codes == s]) for s in range(int(codes.max()) + 1)]
    return shuffle_p(blocks, draws=draws, rng=generator(seed))


def shuffle_p(blocks: Sequence[tuple[Floats, NDArray[np.bool_]]], *, draws: int, rng: np.random.Generator) -> float:
    """One-sided p of the mean over blocks of (mean of labelled - mean of others), labels shuffled within blocks."""
    observed, shuffled = 0.0, np.zeros(draws)
    for values, labels in blocks:
        count = int(labels.sum())
        # Only which values are labelled matters: a difference of means is linear in their sum.
        slope = 1 / count + 1 / (len(values) - count)
        observed += slope * float(values[labels].sum())
        scores = rng.random((draws, len(values)))
        chosen = np.argpartition(scores, count - 1, axis=1)[:, :count]
        shuffled += slope * values[chosen].sum(axis=1)
    extreme = int(np.sum(shuffled >= observed - TIE * len(blocks)))
    return (1 + extreme) / (draws + 1)


def gating_over_sources(name: str, rates: Mapping[str, tuple[float, float]], *, level: float = 0.95) -> Estimate:
    """Geometric mean over sources of matched / bystander rate; t interval of its logarithm, n counts sources.

    ``rates`` are each source's two rates. Says how much sources differ, which intervals over questions do not.
    Undefined for fewer than 4 sources, or where one of them has a rate of 0: its logarithm does not exist, and leaving
    it out would select.
    """
    n, unit = len(rates), "source"
    method = "geometric mean over sources of the ratio of their rates; t interval of its logarithm"
    if n < MIN_SOURCES:
        return undefined(name, f"{n} sources, fewer than {MIN_SOURCES}", n=n, unit=unit, method=method)
    silent = [source for source, pair in rates.items() if min(pair) <= 0]
    if silent:
        return undefined(name, f"{silent[0]} has a rate of 0", n=n, unit=unit, method=method)
    logs = np.log([own / others for own, others in rates.values()])
    interval: tuple[float, float] | str = "the sources do not differ"
    p = None
    if np.ptp(logs) > TIE:
        error = logs.std(ddof=1) / np.sqrt(n)
        low, high = t_interval(logs.mean(), error, n - 1, level)
        interval, p = (float(np.exp(low)), float(np.exp(high))), t_p(float(logs.mean()), float(error), n - 1, "greater")
        method += "; one-sided p against a ratio of 1"
    return with_interval(name, float(np.exp(logs.mean())), interval, level=level, p=p, n=n, unit=unit, method=method)


def own_against_other_triggers(name: str, rates: Floats) -> Estimate:
    """Mean rate under the own prompt minus mean rate under the other sources' prompts, (S, S) sources x prompts.

    Every prompt and every source is on both sides, so that neither a prompt under which all adapters talk nor a
    talkative adapter counts. p: share of all S! assignments of prompts to sources with at least this difference, the
    true one among them; with 4 sources it cannot fall below 1/24. No interval; undefined for fewer than 4 sources.
    """
    n, unit = len(rates), "source"
    method = "mean of own minus mean of other trained prompts; exact one-sided p over all assignments"
    if rates.shape != (n, n) or not np.all(np.isfinite(rates)):
        raise StatisticsError(f"{name}: rates of shape {rates.shape}; expected (sources, sources), all finite")
    if n < MIN_SOURCES:
        return undefined(name, f"{n} sources, fewer than {MIN_SOURCES}", n=n, unit=unit, method=method)
    places = np.array(list(arrangements(range(n))))
    own = rates[np.arange(n), places].sum(axis=1)
    others = (rates.sum() - own) / (n * (n - 1))
    differences = own / n - others
    p = float(np.mean(differences >= differences[0] - TIE))
    return Estimate(name, float(differences[0]), None, None, None, p, n, unit, method)
