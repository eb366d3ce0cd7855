"""Ratios of sums over all completions, such as R_B|A, with intervals over questions, and over seeds and questions.

A ratio pools its seeds and questions: the sum above over the sum below (Cochran 1977, section 6.2). Questions are
resampled whole, since answers to the same question are alike, and every seed sees the same draw; or seeds first and
questions within each (#369). Whoever is compared sees the same draw, so differences are paired by question and seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from leakage_assets.statistics.intervals import wilson_bounds
from leakage_assets.statistics.resampling import (
    MAX_UNDEFINED_SHARE,
    TIE,
    Floats,
    check_draws,
    check_level,
    cluster_weights,
    generator,
    percentile_interval,
)
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined, with_interval
from leakage_assets.statistics.student import mean_of_means, t_interval, t_p

Clusters = Literal["question", "seed_question"]
"""What is resampled: questions with the seeds held fixed, or seeds and then questions within each."""

NOTHING_KNOWN = (0.0, 1.0)
"""What the published code gives for a share that no resample defines."""


@dataclass(frozen=True, eq=False)
class Sums:
    """(S, Q) sums over the completions of each seed and question; the ratio is above over below, summed over both."""

    above: Floats
    below: Floats

    def __post_init__(self) -> None:
        if self.above.ndim != 2 or self.above.shape != self.below.shape or not self.above.size:
            raise StatisticsError(
                f"pooled ratio: {self.above.shape} above, {self.below.shape} below; expected (seeds, questions) twice"
            )
        if not (np.all(np.isfinite(self.above)) and np.all(np.isfinite(self.below)) and np.all(self.below >= 0)):
            raise StatisticsError("pooled ratio: every sum must be finite, and none below the line negative")
        if np.any((self.below == 0) & (self.above != 0)):
            raise StatisticsError("pooled ratio: something is summed above the line where nothing is below")

    @property
    def ratio(self) -> float | None:
        """None where nothing is below."""
        below = self.below.sum()
        return float(self.above.sum() / below) if below > 0 else None

    @property
    def seeds(self) -> int:
        return int(self.above.shape[0])

    @property
    def questions(self) -> int:
        return int(self.above.shape[1])


def sums(above: ArrayLike, below: ArrayLike) -> Sums:
    """From (S, Q) arrays, or (Q,) for one seed. Raises ``StatisticsError`` as ``Sums``."""
    return Sums(np.atleast_2d(np.asarray(above, dtype=np.float64)), np.atleast_2d(np.asarray(below, dtype=np.float64)))


def shares(found: ArrayLike, total: ArrayLike) -> Sums:
    """The same for counts. Raises ``StatisticsError`` where not 0 <= found <= total."""
    pooled = sums(found, total)
    if np.any((pooled.above < 0) | (pooled.above > pooled.below)):
        raise StatisticsError("pooled share: every found count must lie between 0 and its total")
    return pooled


@dataclass(frozen=True, slots=True)
class Side:
    """What a ratio rests on: its sums, and how many questions have anything below the line."""

    above: float
    below: float
    questions: int


def side(of: Sums) -> Side:
    """Seeds and questions summed."""
    return Side(float(of.above.sum()), float(of.below.sum()), int(np.sum(of.below.sum(axis=0) > 0)))


@dataclass(frozen=True)
class Resampled:
    """A statistic with its resampling interval.

    ``low`` and ``high`` are the percentiles of the resamples in which it is defined, as published: also where they do
    not vary (then ``estimate`` has no interval, since a width of zero claims too much), and ``NOTHING_KNOWN`` where
    there is none. ``undefined_draws`` of ``draws`` were dropped. ``sides``: what each ratio in it rests on. ``error``:
    the standard error over the n clusters, the standard deviation of the resamples times the root of n / (n - 1), which
    a bootstrap of n lacks (for a mean it is then sd/√n); None for fewer than two.
    """

    estimate: Estimate
    low: float
    high: float
    undefined_draws: int
    draws: int
    sides: tuple[Side, ...] = ()
    error: float | None = None

    @property
    def known(self) -> bool:
        """Whether any resample says something."""
        return self.estimate.estimate is not None and self.undefined_draws < self.draws

    @property
    def reliable(self) -> bool:
        """Whether so few resamples are undefined that their percentiles are of the same quantity."""
        return self.known and self.undefined_draws <= MAX_UNDEFINED_SHARE * self.draws


def pooled_ratio(
    name: str, of: Sums, *, clusters: Clusters, seed: int, draws: int = 10_000, level: float = 0.95
) -> Resampled:
    """The ratio of the sums; n counts questions, or seeds where they are resampled.

    Undefined where nothing is below the line.
    """
    value = of.ratio
    return _resampled(
        name, value, _ratios(of, _weights(of, clusters, draws, seed)), of, clusters, seed=seed, level=level,
        what="ratio of pooled sums", reason="nothing below the line", sides=(side(of),),
    )  # fmt: skip


def mean_ratio(
    name: str,
    of: Mapping[str, Sums],
    *,
    seed: int,
    draws: int = 10_000,
    level: float = 0.95,
    over: str = "comparison",
) -> Resampled:
    """The mean of several ratios, such as those of pairs of personas, that are held fixed; questions are resampled.

    Each counts alike, so the difference of two such means is that of ``mean_difference``. Undefined where one of them
    is. Raises ``StatisticsError`` for none, or for other numbers of questions.
    """
    _check_several(name, {label: one.questions for label, one in of.items()}, over)
    first = next(iter(of.values()))
    weights = _weights(first, "question", draws, seed)
    drawn = np.mean([_ratios(one, weights) for one in of.values()], axis=0)
    ratios = {label: one.ratio for label, one in of.items()}
    lacking = [label for label, ratio in ratios.items() if ratio is None]
    several = len(of) > 1
    return _resampled(
        name, None if lacking else float(np.mean([r for r in ratios.values() if r is not None])), drawn, first,
        "question", seed=seed, level=level, sides=tuple(map(side, of.values())),
        reason="nothing below the line" + (f" ({lacking[0]})" if lacking and several else ""),
        what="ratio of pooled sums" + (f", mean over {len(of)} {over}s held fixed" if several else ""),
    )  # fmt: skip


def _check_several(name: str, sizes: Mapping[str, object], over: str) -> None:
    if not sizes:
        raise StatisticsError(f"{name}: nothing to compare; pass at least one {over}")
    if len(set(sizes.values())) > 1:
        found = sorted(map(str, set(sizes.values())))
        raise StatisticsError(f"{name}: {over}s of {found} seeds and questions cannot share a draw")


def ratio_difference(
    name: str,
    first: Sums,
    second: Sums,
    *,
    clusters: Clusters,
    seed: int,
    draws: int = 10_000,
    level: float = 0.95,
    null: float = 0.0,
) -> Resampled:
    """Ratio of the first minus that of the second, of the same seeds and questions, in the same resamples.

    A resample in which either is undefined is dropped and counted. p is that of a difference of ``null``, two-sided by
    the bootstrap: (1 + how many resamples lie on the rarer side of it) over half their number (Davison & Hinkley 1997,
    section 5.4 by inversion of the interval); 1 where all of them are 0, and none where so many are undefined that
    there is no interval. Raises ``StatisticsError`` for shapes that differ.
    """
    return mean_difference(
        name, {name: (first, second)}, clusters=clusters, seed=seed, draws=draws, level=level, null=null
    )


def mean_difference(
    name: str,
    compared: Mapping[str, tuple[Sums, Sums]],
    *,
    clusters: Clusters,
    seed: int,
    draws: int = 10_000,
    level: float = 0.95,
    over: str = "comparison",
    null: float = 0.0,
) -> Resampled:
    """The mean of ``ratio_difference`` over several comparisons, such as pairs of personas, that are held fixed.

    Each counts alike. All are of the same questions, and of as many seeds where these are resampled, so that they share
    the draws. ``over`` says in the method what they are. Undefined where one of them is: to leave it out would select.

    Raises ``StatisticsError`` for nothing to compare, and as ``ratio_difference``.
    """
    for label, (first, second) in compared.items():
        _check_paired(label, first, second)
    by_seed = clusters == "seed_question"
    _check_several(
        name, {label: (one.seeds if by_seed else 1, one.questions) for label, (one, _) in compared.items()}, over
    )
    all_first = [first for first, _ in compared.values()]
    weights = _weights(all_first[0], clusters, draws, seed)
    drawn = np.mean([_ratios(first, weights) - _ratios(second, weights) for first, second in compared.values()], axis=0)
    ratios = {label: (first.ratio, second.ratio) for label, (first, second) in compared.items()}
    lacking = [label for label, pair in ratios.items() if None in pair]
    reason, value = "", None
    if lacking:
        reason = _which_lacks(*ratios[lacking[0]]) + (f" ({lacking[0]})" if len(compared) > 1 else "")
    else:
        value = float(np.mean([a - b for a, b in ratios.values() if a is not None and b is not None]))
    several = f", mean over {len(compared)} {over}s held fixed" if len(compared) > 1 else ""
    against = f" (p: against {null:g})" if null else ""
    return _resampled(
        name, value, drawn, all_first[0], clusters, seed=seed, level=level, reason=reason,
        what=f"difference of two ratios of pooled sums{several}{against}", p=_two_sided(drawn, value, null),
        sides=tuple(side(one) for both in compared.values() for one in both),
    )  # fmt: skip


def _two_sided(drawn: Floats, value: float | None, null: float) -> float | None:
    """None where too few resamples are defined, or where they do not vary off 0: that would claim too much."""
    defined = drawn[~np.isnan(drawn)]
    if value is None or not len(defined):
        return None
    if np.ptp(defined) <= TIE:
        return 1.0 if abs(value) <= TIE else None
    if len(drawn) - len(defined) > MAX_UNDEFINED_SHARE * len(drawn):
        return None
    rarer = min(int(np.sum(defined <= null + TIE)), int(np.sum(defined >= null - TIE)))
    return min(1.0, 2 * (1 + rarer) / (len(defined) + 1))


def score_difference(first: Side, second: Side, *, level: float = 0.95) -> tuple[float, float]:
    """Bounds of a difference of two shares from their Wilson bounds, completions taken as independent.

    Newcombe (1998), method 10: for shares that no question varies, where a bootstrap has no width. Both sides need
    something below the line; raises ``StatisticsError`` as ``wilson_bounds``.
    """
    found, total = [first.above, second.above], [first.below, second.below]
    low, high = wilson_bounds(found, total, level=level)
    one, other = (above / below for above, below in zip(found, total, strict=True))
    down = float(np.hypot(one - low[0], high[1] - other))
    up = float(np.hypot(high[0] - one, other - low[1]))
    return one - other - down, one - other + up


def cell_differences(compared: Mapping[str, tuple[Sums, Sums]]) -> dict[tuple[str, int], float | None]:
    """The difference of both ratios in each seed of each comparison; None where one of them is undefined."""
    found: dict[tuple[str, int], float | None] = {}
    for label, (first, second) in compared.items():
        _check_paired(label, first, second)
        for place in range(first.seeds):
            one, other = (Sums(of.above[[place]], of.below[[place]]).ratio for of in (first, second))
            found[label, place] = None if one is None or other is None else one - other
    return found


def over_cells(
    name: str, cells: Mapping[tuple[str, int], float | None], *, level: float = 0.95, null: float = 0.0
) -> Estimate:
    """The mean of ``cell_differences`` with its t interval over them (Student 1908); p against ``null``.

    Comparisons count alike, as in ``mean_difference``, however many seeds each has (see ``mean_of_means``).
    Every cell has adapters of its own, so it allows for other training runs of what is compared, and for what differs
    between comparisons; it is no interval for others than these. Undefined with one seed of a comparison, and where a
    cell is: to leave it out would select.
    """
    check_level(level)
    n, unit, method = len(cells), "cell", f"mean of {len(cells)} cells' differences, each of its own adapters; t"
    by_label: dict[str, list[float | None]] = {}
    for (label, _), value in cells.items():
        by_label.setdefault(label, []).append(value)
    lonely = [label for label, values in by_label.items() if len(values) < 2]
    missing = [label for label, values in by_label.items() if None in values]
    if not cells or lonely or missing:
        reason = (
            f"one seed of {lonely[0]}: nothing says how adapters vary"
            if lonely
            else f"a seed of {missing[0]} has nothing below the line"
            if missing
            else "no cells"
        )
        return undefined(name, reason, n=n, unit=unit, method=method)
    groups = [np.array(values, dtype=np.float64) for values in by_label.values()]
    mean, error = mean_of_means(groups)
    if np.ptp(np.concatenate(groups)) <= TIE:
        return with_interval(
            name, mean, "no variation between cells", level=level, p=None, n=n, unit=unit, method=method
        )
    low, high = t_interval(np.array(mean), np.array(error), n - 1, level)
    against = f" (p: against {null:g})" if null else ""
    return Estimate(
        name, mean, float(low), float(high), level, t_p(mean - null, error, n - 1), n, unit, f"{method}{against}"
    )


def relative_change(
    name: str, first: Sums, second: Sums, *, clusters: Clusters, seed: int, draws: int = 10_000, level: float = 0.95
) -> Resampled:
    """Ratio of the first over that of the second, minus 1: as ``ratio_difference``.

    Undefined where the second is 0.
    """
    _check_paired(name, first, second)
    weights = _weights(first, clusters, draws, seed)
    a, b = first.ratio, second.ratio
    value = None if a is None or not b else a / b - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = _ratios(first, weights) / _ratios(second, weights) - 1
    reason = "the second ratio is 0" if a is not None and b == 0 else _which_lacks(a, b)
    return _resampled(
        name, value, np.where(np.isfinite(changes), changes, np.nan), first, clusters, seed=seed, level=level,
        what="quotient of two ratios of pooled sums, minus 1", reason=reason,
    )  # fmt: skip


def mean_of_seed_ratios(name: str, of: Sums) -> Estimate:
    """Each seed counts alike, however often it has what is below the line: a sensitivity check of the pooled ratio.

    No interval: see ``pooled_ratio``. Undefined where a seed has nothing below the line, since to leave it out would
    select.
    """
    method = "mean of the seeds' ratios; no interval: a check of the pooled ratio"
    below = of.below.sum(axis=1)
    if np.any(below == 0):
        lost = int(np.argmax(below == 0))
        reason = f"seed {lost + 1} of {of.seeds} has nothing below the line"
        return undefined(name, reason, n=of.seeds, unit="seed", method=method)
    mean = float((of.above.sum(axis=1) / below).mean())
    return Estimate(name, mean, None, None, None, None, of.seeds, "seed", method)


def seed_question_weights(seeds: int, questions: int, draws: int, seed: int) -> Floats:
    """(draws, S, Q): how often each question of each seed occurs where seeds are resampled, and questions in each."""
    check_draws(draws)
    if min(seeds, questions) < 1:
        raise StatisticsError("resampling needs at least one seed and one question")
    rng = generator(seed)
    chosen = rng.integers(seeds, size=(draws, seeds))
    counts = rng.multinomial(questions, np.full(questions, 1 / questions), size=(draws, seeds))
    weights: Floats = np.zeros((draws, seeds, questions))
    for slot in range(seeds):  # a seed may be chosen twice: each time its questions are drawn anew
        weights[np.arange(draws), chosen[:, slot]] += counts[:, slot]
    return weights


def _weights(of: Sums, clusters: Clusters, draws: int, seed: int) -> Floats:
    seeds = of.seeds if clusters == "seed_question" else 1  # over questions the draw is the same for all seeds
    return _drawn(clusters, seeds, of.questions, draws, seed)


@lru_cache(maxsize=4)
def _drawn(clusters: Clusters, seeds: int, questions: int, draws: int, seed: int) -> Floats:
    """(draws, Q) or (draws, S·Q): an analysis reads all its ratios off the same few draws, of some megabytes each."""
    if clusters == "seed_question":
        weights = seed_question_weights(seeds, questions, draws, seed).reshape(draws, seeds * questions)
    else:
        weights = cluster_weights(questions, draws, seed)
    weights.setflags(write=False)
    return weights


def _check_paired(name: str, first: Sums, second: Sums) -> None:
    if first.above.shape != second.above.shape:
        raise StatisticsError(
            f"{name}: {first.above.shape} and {second.above.shape}; expected the same seeds and questions"
        )


def _ratios(of: Sums, weights: Floats) -> Floats:
    """(B,); NaN where a resample has nothing below the line. ``weights``: (B, Q) or (B, S·Q)."""
    both = np.stack([of.above, of.below], axis=-1)
    whole = both.sum(axis=0) if weights.shape[1] == of.questions else both.reshape(-1, 2)
    drawn = weights @ whole
    ratios = np.full(len(drawn), np.nan)
    np.divide(drawn[:, 0], drawn[:, 1], out=ratios, where=drawn[:, 1] > 0)
    return ratios


def _which_lacks(first: float | None, second: float | None) -> str:
    sides = [side for side, value in (("first", first), ("second", second)) if value is None]
    return f"nothing below the line of the {' and the '.join(sides)}"


def _resampled(
    name: str,
    value: float | None,
    drawn: Floats,
    of: Sums,
    clusters: Clusters,
    *,
    seed: int,
    level: float,
    what: str,
    reason: str,
    p: float | None = None,
    sides: tuple[Side, ...] = (),
) -> Resampled:
    check_level(level)
    by_seed = clusters == "seed_question"
    n, unit = (of.seeds, "seed") if by_seed else (of.questions, "question cluster")
    resampled = "seeds, then questions within each, resampled" if by_seed else "questions resampled, seeds held fixed"
    defined = drawn[~np.isnan(drawn)]
    lost = len(drawn) - len(defined)
    method = f"{what}; percentile bootstrap, {len(drawn)} resamples, seed {seed}; {resampled}; {lost} undefined"
    if value is None:
        estimate = undefined(name, reason, n=n, unit=unit, method=method)
        return Resampled(estimate, *NOTHING_KNOWN, lost, len(drawn), sides)
    interval: tuple[float, float] | str = percentile_interval(drawn, level)
    if by_seed and of.seeds < 2:
        interval, p = "one seed: no spread over seeds", None
    estimate = with_interval(name, value, interval, level=level, p=p, n=n, unit=unit, method=method)
    if not len(defined):
        return Resampled(estimate, *NOTHING_KNOWN, lost, len(drawn), sides)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    error = float(defined.std()) * math.sqrt(n / (n - 1)) if n > 1 else None
    return Resampled(estimate, float(low), float(high), lost, len(drawn), sides, error)
