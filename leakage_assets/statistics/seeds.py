"""How a statistic varies over training seeds: each seed is one value, whatever it was computed from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from leakage_assets.statistics.resampling import check_level
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined, with_interval


@dataclass(frozen=True)
class SeedSpread:
    """Mean with its t interval, standard deviation (n-1), minimum and maximum; n counts seeds."""

    mean: Estimate
    sd: Estimate
    minimum: Estimate
    maximum: Estimate

    def estimates(self) -> tuple[Estimate, ...]:
        return (self.mean, self.sd, self.minimum, self.maximum)


def seed_spread(
    name: str,
    by_seed: Mapping[int, float | None],
    *,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
    note: str = "",
) -> SeedSpread:
    """The spread of one statistic over seeds; ``None`` for a seed at which it is undefined.

    Interval: mean ± t_{n-1} sd/√n (Student 1908), cut off at ``bounds``, the range the statistic can have: the t
    distribution knows of none. All four are undefined for one seed, which says nothing about seeds, and where a seed
    has no value: leaving that seed out would select. ``note`` is added to the method. Raises ``StatisticsError`` for
    no seed, or a value out of bounds.
    """
    from scipy.special import stdtrit

    check_level(level)
    if not by_seed:
        raise StatisticsError(f"{name}: no seeds; pass the statistic of at least one")
    for seed, value in by_seed.items():
        if bounds is not None and value is not None and not bounds[0] <= value <= bounds[1]:
            raise StatisticsError(f"{name}: {value} at seed {seed} is outside {bounds[0]:g} to {bounds[1]:g}")
    n = len(by_seed)
    method = f"over seeds {_listed(by_seed)}{note and f'; {note}'}"
    labels = _labels(name)
    missing = sorted(seed for seed, value in by_seed.items() if value is None)
    if missing or n < 2:
        reason = f"undefined at seed {missing[0]}" if missing else "one seed: no spread over seeds"
        return no_spread(name, reason, by_seed)
    values = np.array([by_seed[seed] for seed in sorted(by_seed)], dtype=np.float64)
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * sd / np.sqrt(n)
    interval: tuple[float, float] | str = "no variation between seeds"
    cut = ""
    if np.ptp(values) > 0:
        interval = (mean - half, mean + half)
        if bounds is not None and not bounds[0] <= interval[0] <= interval[1] <= bounds[1]:
            interval = (max(bounds[0], interval[0]), min(bounds[1], interval[1]))
            cut = f"; clipped to the possible range {bounds[0]:g} to {bounds[1]:g}"
    plain = [
        Estimate(label, value, None, None, None, None, n, "seed", method)
        for label, value in zip(labels[1:], (sd, values.min(), values.max()), strict=True)
    ]
    centre = with_interval(
        labels[0], mean, interval, level=level, p=None, n=n, unit="seed", method=f"t interval {method}{cut}"
    )
    return SeedSpread(centre, *plain)


def no_spread(name: str, reason: str, seeds: Collection[int]) -> SeedSpread:
    """A spread that these seeds do not have, and why."""
    method = f"over seeds {_listed(seeds)}"
    return SeedSpread(*(undefined(label, reason, n=len(seeds), unit="seed", method=method) for label in _labels(name)))


def _labels(name: str) -> list[str]:
    return [f"{name}_{part}_over_seeds" for part in ("mean", "sd", "min", "max")]


def _listed(seeds: Collection[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))
