"""What every statistic returns: a number with its interval, n and unit, or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from leakage_assets.exceptions import ExpectedError

if TYPE_CHECKING:
    import polars as pl


class StatisticsError(ExpectedError):
    """Misuse: lengths that differ, too few values, an unknown name. The message says what to pass."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One statistic.

    ``n`` counts ``unit`` ("bystander", "question cluster", "seed", ...); ``method`` is one line naming the
    formula, and resamples and seed where there are any. ``undefined`` gives the reason where the data are
    legal but the statistic does not exist for them (no variance, one seed); then there is no number at all. A
    defined estimate may lack an interval or a p; ``method`` then says why.

    Raises ``StatisticsError`` for NaN, infinity, a missing reason, half an interval, or a p outside [0, 1]: a
    number that cannot be printed must not travel.
    """

    name: str
    estimate: float | None
    ci_low: float | None
    ci_high: float | None
    ci_level: float | None
    p: float | None
    n: int
    unit: str
    method: str
    undefined: str | None = None

    def __post_init__(self) -> None:
        for field in ("estimate", "ci_low", "ci_high", "ci_level", "p"):
            value = getattr(self, field)
            if value is None:
                continue
            if not math.isfinite(value):
                self._refuse(f"{field} is {value}; give None and a reason in `undefined`")
            object.__setattr__(self, field, float(value))  # numpy scalars do not serialise
        object.__setattr__(self, "n", int(self.n))
        if not (self.name and self.unit and self.method) or "\n" in self.method:
            self._refuse("name, unit and a one-line method are needed")
        if self.n < 0:
            self._refuse(f"n is {self.n}")
        if (self.estimate is None) != bool(self.undefined):
            self._refuse("exactly one of a number and a reason in `undefined` is needed")
        if self.estimate is None and any(v is not None for v in (self.ci_low, self.ci_level, self.p)):
            self._refuse("an undefined estimate has neither interval nor p")
        self._check_interval()
        if self.p is not None and not 0 <= self.p <= 1:
            self._refuse(f"p is {self.p}; expected 0 to 1")

    def _check_interval(self) -> None:
        given = {self.ci_low is None, self.ci_high is None, self.ci_level is None}
        if len(given) > 1:
            self._refuse("an interval needs ci_low, ci_high and ci_level together")
        if self.ci_low is None or self.ci_high is None or self.ci_level is None:
            return
        if self.ci_low > self.ci_high:
            self._refuse(f"ci_low {self.ci_low} is above ci_high {self.ci_high}")
        if not 0 < self.ci_level < 1:
            self._refuse(f"ci_level is {self.ci_level}; expected a fraction such as 0.95")

    def _refuse(self, problem: str) -> None:
        raise StatisticsError(f"estimate {self.name!r}: {problem}")

    def as_row(self) -> dict[str, Any]:
        """The fields in order, as plain Python values: one row of a table."""
        return asdict(self)


def estimate_of(row: Mapping[str, Any]) -> Estimate:
    """The estimate in a row of a table; columns that are no field of one are labels."""
    return Estimate(**{field.name: row[field.name] for field in fields(Estimate)})


def undefined(name: str, reason: str, *, n: int, unit: str, method: str) -> Estimate:
    """An estimate that does not exist for these data, and why."""
    return Estimate(name, None, None, None, None, None, n, unit, method, undefined=reason)


def with_interval(
    name: str,
    estimate: float,
    interval: tuple[float, float] | str,
    *,
    level: float,
    p: float | None,
    n: int,
    unit: str,
    method: str,
) -> Estimate:
    """An estimate with its interval, or with the reason for having none written into its method."""
    if isinstance(interval, str):
        return Estimate(name, estimate, None, None, None, p, n, unit, f"{method}; no interval: {interval}")
    return Estimate(name, estimate, *interval, level, p, n, unit, method)


def estimate_table(labelled: Iterable[tuple[Mapping[str, Any], Estimate]]) -> pl.DataFrame:
    """Label columns followed by the estimate's fields; types hold even where a column is all empty."""
    import polars as pl

    types = {"n": pl.Int64, **dict.fromkeys(("name", "unit", "method", "undefined"), pl.String)}
    schema = {f.name: types.get(f.name, pl.Float64) for f in fields(Estimate)}
    rows = [{**labels, **estimate.as_row()} for labels, estimate in labelled]
    if not rows:
        return pl.DataFrame(schema=schema)
    return pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)
