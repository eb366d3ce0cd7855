"""A handful of named points: correlations over them, over parts of them, and with each left out in turn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leakage_assets.statistics.correlation import Coefficient, correlate
from leakage_assets.statistics.resampling import Floats
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined

MIN_POINTS = 4
"""Fewer leave a line at most one degree of freedom, and a correlation no interval."""


@dataclass(frozen=True, eq=False)
class Points:
    """``x`` and ``y`` (n,) of n things, each a ``unit`` with a name of its own.

    Raises ``StatisticsError`` for a name that occurs twice, lengths that differ, or a value that is not finite.
    """

    names: tuple[str, ...]
    x: Floats
    y: Floats
    unit: str

    def __post_init__(self) -> None:
        for label in ("x", "y"):
            values = np.asarray(getattr(self, label), dtype=np.float64)
            object.__setattr__(self, label, values)
            if values.shape != (len(self.names),):
                raise StatisticsError(f"points: {len(self.names)} names, {label} has shape {values.shape}")
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                raise StatisticsError(f"points: {label} of {self.names[bad[0]]!r} is {values[bad[0]]}; leave it out")
        for name in self.names:
            if self.names.count(name) > 1:
                raise StatisticsError(f"points: {name!r} occurs twice; pass one layer and one recipe at a time")

    def __len__(self) -> int:
        return len(self.names)

    def only(self, names: Collection[str]) -> Points:
        """The points with these names, in their order here. Raises ``StatisticsError`` for a name that is not there."""
        absent = sorted(set(names) - set(self.names))
        if absent:
            raise StatisticsError(f"points: no {absent[0]!r}; there are {', '.join(self.names)}")
        keep = [i for i, name in enumerate(self.names) if name in names]
        return Points(tuple(self.names[i] for i in keep), self.x[keep], self.y[keep], self.unit)

    def without(self, *names: str) -> Points:
        """All points but these, of which some may not be there."""
        return self.only([name for name in self.names if name not in names])


def correlate_points(name: str, points: Points, coefficient: Coefficient, *, level: float = 0.95) -> Estimate:
    """``correlate`` of the points; undefined for fewer than 4."""
    if len(points) < MIN_POINTS:
        reason = f"{len(points)} points, fewer than {MIN_POINTS}"
        return undefined(name, reason, n=len(points), unit=points.unit, method=coefficient.capitalize())
    return correlate(name, points.x, points.y, coefficient=coefficient, unit=points.unit, level=level)


def within_groups(
    points: Points, groups: Mapping[str, str], coefficient: Coefficient, *, level: float = 0.95
) -> dict[str, Estimate]:
    """The correlation within each group of points, by group in order of first occurrence.

    ``groups`` names the group of every point. Raises ``StatisticsError`` for a point without one.
    """
    absent = [name for name in points.names if name not in groups]
    if absent:
        raise StatisticsError(f"groups: none for {absent[0]!r}")
    members: dict[str, list[str]] = {}
    for name in points.names:
        members.setdefault(groups[name], []).append(name)
    return {
        group: correlate_points(coefficient, points.only(names), coefficient, level=level)
        for group, names in members.items()
    }


def drop_one(points: Points, coefficient: Coefficient, *, level: float = 0.95) -> dict[str, Estimate]:
    """The correlation with each point left out in turn, by the name of that point."""
    return {
        name: correlate_points(coefficient, points.without(name), coefficient, level=level) for name in points.names
    }


def least_extreme(name: str, dropped: Mapping[str, Estimate]) -> Estimate:
    """Of correlations with a point left out, the one with the largest p: what the result hangs on.

    Undefined where one of them is, or has no p: a point without which nothing can be said decides as well.
    """
    if not dropped:
        raise StatisticsError(f"{name}: no correlations to choose from")
    n, unit = len(dropped), next(iter(dropped.values())).unit
    method = "the correlation with one point left out whose p is the largest"
    for point, estimate in dropped.items():
        if estimate.p is None:
            reason = f"without {point}: {estimate.undefined or 'no p'}"
            return undefined(name, reason, n=n, unit=unit, method=method)
    point, worst = max(dropped.items(), key=lambda item: item[1].p or 0.0)
    interval = (worst.ci_low, worst.ci_high, worst.ci_level)
    return Estimate(name, worst.estimate, *interval, worst.p, worst.n, unit, f"{method}: {point}; {worst.method}")


def count_above(name: str, dropped: Mapping[str, Estimate], alpha: float) -> Estimate:
    """How many of the correlations with a point left out have p > ``alpha``. Undefined where one has no p."""
    if not dropped:
        raise StatisticsError(f"{name}: no correlations to count")
    method = f"number of single points without which p > {alpha:g}"
    p = [estimate.p for estimate in dropped.values()]
    if any(value is None for value in p):
        point = next(point for point, estimate in dropped.items() if estimate.p is None)
        return undefined(name, f"without {point} there is no p", n=len(p), unit="left-out point", method=method)
    above = sum(value > alpha for value in p if value is not None)
    return Estimate(name, above, None, None, None, None, len(p), "left-out point", method)


def as_points(names: Sequence[str], x: Sequence[float], y: Sequence[float], *, unit: str) -> Points:
    """``Points`` from plain columns."""
    return Points(tuple(names), np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), unit)
