"""Is a marker said more under the prompts that were trained than elsewhere?

Cells are (adapter, prompt); some are *matched* (the adapter's own prompt), the others *bystanders*. Rates of cells are
averaged, so that no cell weighs more than another; all adapters answer the same questions, so questions are the
clusters of every interval here. A permutation of labels gives p.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from itertools import permutations as arrangements
from math import comb, factorial, prod
from typing import Literal

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

Shuffled = Literal["pairs", "cells"]
SHUFFLED_WORDS: Mapping[Shuffled, str] = {
    "pairs": "labels of whole (source, prompt) pairs",
    "cells": "labels of cells within each seed",
}


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


@dataclass(frozen=True, eq=False)
class PromptGrid:
    """The same adapters under every prompt that a label can move to: what is needed to exchange whole prompts.

    ``rates`` (A, P) of A adapters under P prompts, ``roles`` (A, P) what a prompt is to the adapter: 1 matched, -1
    bystander, 0 neither; ``seeds`` (A,) name the training seed.

    Raises ``StatisticsError`` for shapes that do not fit, a rate that is not finite, or an adapter without a matched or
    a bystander prompt.
    """

    rates: Floats
    roles: NDArray[np.integer]
    seeds: tuple[Hashable, ...]

    def __post_init__(self) -> None:
        if self.rates.ndim != 2 or self.rates.shape != self.roles.shape or len(self.seeds) != len(self.rates):
            raise StatisticsError(
                f"prompts: rates {self.rates.shape}, roles {self.roles.shape}, {len(self.seeds)} seeds; expected "
                "(adapters, prompts) twice and (adapters,)"
            )
        if not np.all(np.isfinite(self.rates)):
            adapter, prompt = np.argwhere(~np.isfinite(self.rates))[0]
            raise StatisticsError(f"adapter {adapter} has no rate under prompt {prompt}; every adapter needs all")
        if not ((self.roles == 1).any(axis=1) & (self.roles == -1).any(axis=1)).all():
            raise StatisticsError("prompts: an adapter has no matched or no bystander prompt")

    def weights(self) -> Floats:
        """(A, P): what a rate weighs in the difference of means, each over seeds of the mean over cells of a seed."""
        seeds = cluster_codes(self.seeds)
        summed: Floats = np.zeros(self.rates.shape)
        for kind in (1, -1):
            cells = self.roles == kind
            in_seed = np.bincount(seeds, weights=cells.sum(axis=1))
            summed += kind * cells / in_seed[seeds][:, None] / len(in_seed)
        return summed


@dataclass(frozen=True)
class Gating:
    """Mean rates of both kinds of cells, their difference and their ratio (matched / bystander).

    Difference and ratio carry the one-sided p of the rearrangement. Its null is that what is rearranged is
    exchangeable, which is more than that matched cells are no higher. ``least_p`` is the smallest that the
    rearrangements could have given; None where nothing is defined.
    """

    matched: Estimate
    bystander: Estimate
    difference: Estimate
    ratio: Estimate
    least_p: float | None = None

    def estimates(self) -> tuple[Estimate, ...]:
        return (self.matched, self.bystander, self.difference, self.ratio)


def gating(
    cells: Cells,
    *,
    seed: int,
    draws: int = 10_000,
    shuffled: Shuffled | PromptGrid = "pairs",
    level: float = 0.95,
    suffix: str = "",
) -> Gating:
    """Mean rates of matched and bystander cells, each the mean over seeds of the mean over the cells of that seed.

    Intervals: t over questions (of the difference, and of the logarithm of the ratio by the delta method), adapters and
    prompts held fixed. p = (1 + #{difference* >= difference}) / (B + 1) over ``draws`` rearrangements, or the share of
    all of them where there are no more. What is rearranged: the labels of whole pairs with their seeds, which takes the
    prompts of several sources as independent; those of ``cells`` within each seed, as published, which takes seeds of
    one pair as independent as well (sheet B5); or, given a ``PromptGrid``, whole prompts with all adapters, which holds
    whatever level a prompt has for every adapter (see ``prompt_shuffle_p`` for its null).

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
        matched, bystander, difference, ratio = (
            undefined(name, weights, n=questions, unit=QUESTION, method=base) for name in names
        )
        return Gating(matched, bystander, difference, ratio)
    own, others = weights[0] @ cells.rates, weights[1] @ cells.rates
    if isinstance(shuffled, PromptGrid):
        moved, found = "whole prompts with all adapters", prompt_shuffle_p(shuffled, seed=seed, draws=draws)
    else:
        moved, found = SHUFFLED_WORDS[shuffled], label_shuffle_p(cells, seed=seed, draws=draws, shuffled=shuffled)
    p, how = found.p, f"all {found.arrangements} arrangements" if found.exact else f"{draws} draws, seed {seed}"
    tested = f"one-sided permutation p, {moved}, {how}"
    return Gating(
        mean_over_questions(names[0], own, level=level, bounds=SHARES, method=base),
        mean_over_questions(names[1], others, level=level, bounds=SHARES, method=base),
        mean_over_questions(names[2], own - others, level=level, p=p, method=f"difference of {base}; {tested}"),
        ratio_over_questions(names[3], own, others, level=level, p=p, method=f"ratio of {base}; {tested}"),
        found.least,
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


def specificity_terms(own: ArrayLike, others: ArrayLike, *, level: float = 0.95) -> Floats | str:
    """(Q,) values whose mean is 1 - (mean of others) / (mean of own), and whose spread is its error to first order.

    1: said under the own prompt alone; 0: as often elsewhere; below 0: more often elsewhere. Defined also where others
    never say the marker, which the ratio is not. Where the own prompt never draws it, or so rarely that the interval of
    its rate over questions reaches 0, the reason why there is none: any ratio to it is possible then.
    """
    top, bottom = np.asarray(own, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if top.mean() <= 0:
        return "the own prompt never draws the marker"
    error = top.std(ddof=1) / np.sqrt(len(top)) if len(top) > 1 else np.array(0.0)
    if t_interval(top.mean(), error, len(top) - 1, level)[0] <= 0:
        return "the own prompt draws the marker too rarely: the interval of its rate reaches 0"
    ratio = bottom.mean() / top.mean()
    terms: Floats = 1 - ratio - (bottom - ratio * top) / top.mean()
    return terms


def specificity(
    name: str, own: ArrayLike, others: ArrayLike, *, level: float = 0.95, method: str = "means over cells"
) -> Estimate:
    """1 - others / own with the interval of Fieller (1954) over questions, at most 1; see ``specificity_terms``.

    The delta method covers too little where the own prompt draws the marker rarely; this one does there as well.
    """
    n = len(np.asarray(own))
    described = f"1 - bystander rate / own rate, {method}; Fieller's interval, t over questions"
    terms = specificity_terms(own, others, level=level)
    if n < MIN_QUESTIONS or isinstance(terms, str):
        reason = terms if isinstance(terms, str) else f"{n} questions, fewer than {MIN_QUESTIONS}"
        return undefined(name, reason, n=n, unit=QUESTION, method=described)
    interval: tuple[float, float] | str = "the questions do not differ"
    if np.ptp(terms) > TIE:
        low, high = fieller_bounds(others, own, level)
        interval = (1 - high, min(1.0, 1 - low))
        described += "; clipped to the possible range" if low < 0 else ""
    return with_interval(name, float(terms.mean()), interval, level=level, p=None, n=n, unit=QUESTION, method=described)


def fieller_bounds(above: ArrayLike, below: ArrayLike, level: float) -> tuple[float, float]:
    """Bounds of (mean above) / (mean below) over the same (Q,) questions, t on Q-1 df (Fieller 1954).

    The ratios r for which the mean of above - r · below is not far from 0. The lower mean must be far from 0 itself.
    """
    top, bottom = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    n = len(top)
    half = t_interval(np.array(0.0), np.array(1.0), n - 1, level)[1] ** 2 / n
    covariance = np.cov(top, bottom) * half
    square = bottom.mean() ** 2 - covariance[1, 1]
    cross = top.mean() * bottom.mean() - covariance[0, 1]
    root = np.sqrt(max(0.0, cross**2 - square * (top.mean() ** 2 - covariance[0, 0])))
    return float((cross - root) / square), float((cross + root) / square)


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


@dataclass(frozen=True)
class ShuffleP:
    """A one-sided p over ``arrangements``: all that there are if ``exact``, else draws of them.

    ``least`` is the smallest p that they could have given, for rates that differ: the observed arrangement counts
    itself, and as often as the exchanges leave it what it is.
    """

    p: float
    arrangements: int
    exact: bool
    least: float


def label_shuffle_p(cells: Cells, *, seed: int, draws: int, shuffled: Shuffled) -> ShuffleP:
    """One-sided p of the mean difference under shuffled labels (Phipson & Smyth 2010)."""
    rates = cells.rates.mean(axis=1)
    if shuffled == "pairs":
        codes = cluster_codes(cells.pairs)
        seeds_each = np.bincount(codes)
        means = np.bincount(codes, weights=rates) / seeds_each
        labels = np.bincount(codes, weights=cells.matched) > 0
        blocks = [(means, labels)]
    else:
        codes = cluster_codes(cells.seeds)
        blocks = [(rates[codes == s], cells.matched[codes == s]) for s in range(int(codes.max()) + 1)]
    return shuffle_p(blocks, draws=draws, rng=generator(seed))


def prompt_shuffle_p(grid: PromptGrid, *, seed: int, draws: int) -> ShuffleP:
    """One-sided p of the mean difference where whole prompts, with the rates of all adapters, change places.

    Exact under the null that prompts are exchangeable, whatever level each of them has for every adapter: a prompt that
    draws the marker from all moves as one. That is more than that matched prompts are no higher than bystanders: those
    that are neither to an adapter (role 0) come to places that count, so that p is smaller where the marker leaks to
    them. Where a prompt is the same to every adapter only the labels of prompts matter, and those are few enough to
    list: one source alone has no more than its own prompt among its bystanders, and p is at least 1 / (bystanders + 1).
    """
    weights = grid.weights()
    if (grid.roles == grid.roles[0]).all() and (grid.roles[0] != 0).all():
        # What an adapter weighs: its matched prompts together, which is alike for the bystanders.
        adapters = np.where(grid.roles == 1, weights, 0.0).sum(axis=1)
        return shuffle_p([(adapters @ grid.rates, grid.roles[0] == 1)], draws=draws, rng=generator(seed))
    # [p, q]: what prompt q adds to the difference in the place of prompt p.
    placed = weights.T @ grid.rates
    prompts = np.arange(len(placed))
    orders = generator(seed).permuted(np.tile(prompts, (draws, 1)), axis=1)
    moved = placed[prompts, orders].sum(axis=1)
    extreme = int(np.sum(moved >= np.trace(placed) - TIE))
    # Prompts of which every adapter makes the same may change places without anything being another.
    alike = np.unique(weights, axis=1, return_counts=True)[1]
    unmoved = prod(map(factorial, alike.tolist())) / factorial(len(prompts))
    return ShuffleP((1 + extreme) / (draws + 1), draws, False, max(1 / (draws + 1), unmoved))


def shuffle_p(blocks: Sequence[tuple[Floats, NDArray[np.bool_]]], *, draws: int, rng: np.random.Generator) -> ShuffleP:
    """One-sided p of the mean over blocks of (mean of labelled - mean of others), labels shuffled within blocks.

    All labellings of a single block are listed where there are no more of them than draws; else they are drawn.
    """
    if len(blocks) == 1:
        values, labels = blocks[0]
        count = int(labels.sum())
        listed = comb(len(values), count)
        if listed <= draws:
            # Only which values are labelled matters: a difference of means is linear in their sum.
            chosen = np.array(list(combinations(range(len(values)), count)), dtype=np.intp)
            extreme = int(np.sum(values[chosen].sum(axis=1) >= values[labels].sum() - TIE))
            return ShuffleP(extreme / listed, listed, True, 1 / listed)
    observed, shuffled = 0.0, np.zeros(draws)
    for values, labels in blocks:
        count = int(labels.sum())
        slope = 1 / count + 1 / (len(values) - count)
        observed += slope * float(values[labels].sum())
        scores = rng.random((draws, len(values)))
        chosen = np.argpartition(scores, count - 1, axis=1)[:, :count]
        shuffled += slope * values[chosen].sum(axis=1)
    extreme = int(np.sum(shuffled >= observed - TIE * len(blocks)))
    labellings = prod(comb(len(values), int(labels.sum())) for values, labels in blocks)
    return ShuffleP((1 + extreme) / (draws + 1), draws, False, max(1 / (draws + 1), 1 / labellings))


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
