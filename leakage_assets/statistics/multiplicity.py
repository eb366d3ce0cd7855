"""Adjusted p-values of a family of tests that was planned together."""

from __future__ import annotations

from collections.abc import Mapping

from leakage_assets.statistics.result import StatisticsError


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Step-down Bonferroni (Holm 1979). See ``_adjust`` for tests without a p."""
    return _adjust(p_values, "holm")


def bonferroni(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """min(1, m p). See ``_adjust`` for tests without a p."""
    return _adjust(p_values, "bonferroni")


def _adjust(p_values: Mapping[str, float | None], method: str) -> dict[str, float | None]:
    """A test without a p stays without one but still counts: degenerate data must not shrink the family."""
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        raise StatisticsError(f"{method}: an empty family of tests")
    for name, p in p_values.items():
        if p is not None and not 0 <= p <= 1:
            raise StatisticsError(f"{method}: p of {name!r} is {p}; expected 0 to 1")
    adjusted = multipletests([1.0 if p is None else p for p in p_values.values()], method=method)[1]
    return {name: None if p is None else float(a) for (name, p), a in zip(p_values.items(), adjusted, strict=True)}
