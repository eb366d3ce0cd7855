"""Permutation p of a correlation: exact for a dozen points, by random permutations beyond."""

from __future__ import annotations

from itertools import combinations, permutations
from math import factorial

import numpy as np
from numpy.typing import ArrayLike

from leakage_assets.statistics.correlation import Coefficient, correlate_rows, flat, paired, ranks
from leakage_assets.statistics.points import MIN_POINTS
from leakage_assets.statistics.resampling import TIE, Floats, permutation_p
from leakage_assets.statistics.resampling import permutations as random_permutations
from leakage_assets.statistics.result import Estimate, undefined

EXACT_LIMIT = 12
"""Up to so many points all n! arrangements are counted (about 0.1 s); one point more costs eight times as much."""


def permutation_test(
    name: str,
    x: ArrayLike,
    y: ArrayLike,
    *,
    coefficient: Coefficient,
    unit: str,
    seed: int,
    draws: int = 10_000,
    exact_limit: int = EXACT_LIMIT,
) -> Estimate:
    """The correlation of two (n,) vectors with its two-sided permutation p: the share of arrangements of y with
    \\|r*\\| at least \\|r\\|.

    With at most ``exact_limit`` pairs that share is counted over all n! arrangements, so that p needs no distribution
    and no seed; with more, ``draws`` random ones stand for them (p as Phipson & Smyth 2010). No interval. Undefined
    for fewer than 4 pairs, or where x or y does not vary. Raises ``StatisticsError`` as ``correlate``.
    """
    a, b = paired(name, x, y)
    n = len(a)
    exact = n <= exact_limit
    how = f"exact permutation p, all {n}! arrangements" if exact else f"permutation p, {draws} draws, seed {seed}"
    method = f"{coefficient.capitalize()}, two-sided {how}"
    if n < MIN_POINTS:
        return undefined(name, f"{n} points, fewer than {MIN_POINTS}", n=n, unit=unit, method=method)
    if coefficient == "spearman":
        a, b = ranks(a), ranks(b)
    for label, values in (("x", a), ("y", b)):
        if problem := flat(values):
            return undefined(name, f"{label} {problem}", n=n, unit=unit, method=method)
    r = float(correlate_rows(a, b))
    p = exact_p(a, b) if exact else permutation_p(r, correlate_rows(a, b[random_permutations(n, draws, seed)]))
    return Estimate(name, r, None, None, None, p, n, unit, method)


def exact_p(x: Floats, y: Floats) -> float:
    """Share of the n! arrangements of y whose \\|r\\| with x is at least the observed one.

    Σ x_i y_π(i) splits into the first h and the last n-h positions. For each of the C(n, h) choices of the values that
    come first, the h! partial sums of one half and the (n-h)! of the other are sorted, and the pairs beyond the
    threshold counted without forming them: n! arrangements for C(n, h)·(h! + (n-h)!) sums (meet in the middle, Horowitz
    & Sahni 1974).
    """
    u, v = _unit(x), _unit(y)
    n, half = len(u), len(u) // 2
    threshold = abs(float(u @ v)) - TIE
    if threshold <= 0:
        return 1.0
    first, last = (np.array(list(permutations(range(size)))) for size in (half, n - half))
    # Equal values are interchangeable: choices of the same values are counted, not repeated.
    kind = np.unique(v, return_inverse=True)[1].tolist()
    choices: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for chosen in combinations(range(n), half):
        choices.setdefault(tuple(sorted(kind[i] for i in chosen)), []).append(chosen)
    extreme = 0
    for alike in choices.values():
        chosen = alike[0]
        left, right = v[list(chosen)][first] @ u[:half], np.sort(np.delete(v, chosen)[last] @ u[half:])
        left.sort()
        above = len(right) - np.searchsorted(right, threshold - left, side="left")
        below = np.searchsorted(right, -threshold - left, side="right")
        extreme += len(alike) * int(above.sum() + below.sum())
    return extreme / factorial(n)


def _unit(values: Floats) -> Floats:
    deviation = values - values.mean()
    deviation /= np.abs(deviation).max()
    unit: Floats = deviation / np.linalg.norm(deviation)
    return unit
