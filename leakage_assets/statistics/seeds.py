"""How a statistic varies over training seeds: each seed is one value, whatever it was computed from."""

from __future__ import annotations

from collections.abc import Mapping
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


def seed_spread(name: str, by_seed: Mapping[int, float | None], *, level: float = 0.95) -> SeedSpread:
    """The spread of one statistic over seeds; ``None`` for a seed at which it is undefined.

    Interval: mean ± t_{n-1} sd/√n (Student 1908). All four are undefined for one seed, which says nothing
    about seeds, and where a seed has no value: leaving that seed out would select. Raises ``StatisticsError``
    for no seed.
    """
    from scipy.special import stdtrit

    check_level(level)
    if not by_seed:
        raise StatisticsError(f"{name}: no seeds; pass the statistic of at least one")
    n = len(by_seed)
    method = f"over seeds {', '.join(map(str, sorted(by_seed)))}"
    labels = [f"{name}_{part}_over_seeds" for part in ("mean", "sd", "min", "max")]
    missing = sorted(seed for seed, value in by_seed.items() if value is None)
    if missing or n < 2:
        reason = f"undefined at seed {missing[0]}" if missing else "one seed: no spread over seeds"
        return SeedSpread(*(undefined(label, reason, n=n, unit="seed", method=method) for label in labels))
    values = np.array([by_seed[seed] for seed in sorted(by_seed)], dtype=np.float64)
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * sd / np.sqrt(n)
    interval = (mean - half, mean + half) if np.ptp(values) > 0 else "no variation between seeds"
    plain = [
        Estimate(label, value, None, None, None, None, n, "seed", method)
        for label, value in zip(labels[1:], (sd, values.min(), values.max()), strict=True)
    ]
    centre = with_interval(
        labels[0], mean, interval, level=level, p=None, n=n, unit="seed", method=f"t interval {method}"
    )
    return SeedSpread(centre, *plain)
