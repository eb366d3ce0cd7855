"""An interval over questions and adapters: planted variances, and what neither interval alone sees."""

from __future__ import annotations

import numpy as np
import pytest

from leakage_assets.statistics.result import Estimate, StatisticsError, undefined
from leakage_assets.statistics.student import t_error, t_estimate
from leakage_assets.statistics.two_variances import over_both

QUESTIONS, CELLS = 26, 6


def _estimate(values: np.ndarray, unit: str) -> Estimate:
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    return t_estimate(
        "x", float(values.mean()), error, len(values) - 1, level=0.95, n=len(values), unit=unit, method="t"
    )


def _world(
    rng: np.random.Generator, questions: float, adapters: float, effect: float = 0.0
) -> tuple[Estimate, Estimate]:
    """Values of a cell and question: effect + question + cell; errors of the means are `questions` and `adapters`."""
    table = (
        effect
        + rng.normal(0, questions * np.sqrt(QUESTIONS), (1, QUESTIONS))
        + rng.normal(0, adapters * np.sqrt(CELLS), (CELLS, 1))
    )
    return _estimate(table.mean(axis=0), "question cluster"), _estimate(table.mean(axis=1), "cell")


@pytest.mark.parametrize("ratio", [0.01, 0.3, 1.0, 3.0])
def test_it_covers_whatever_varies_more(ratio: float) -> None:
    rng = np.random.default_rng(3)
    worlds = [_world(rng, ratio, 1.0, effect=2.0) for _ in range(1500)]
    found = [over_both("x", *world) for world in worlds]
    covered = np.mean([f.ci_low <= 2.0 <= f.ci_high for f in found])  # type: ignore[operator]
    assert 0.935 <= covered <= 0.985


def test_a_null_is_excluded_as_rarely_as_the_level_says_where_the_adapters_alone_exclude_it_often() -> None:
    rng = np.random.default_rng(4)
    worlds = [_world(rng, 2.0, 1.0) for _ in range(1500)]
    alone = np.mean([adapters.p < 0.05 for _, adapters in worlds])  # type: ignore[operator]
    both = np.mean([over_both("x", *world).p < 0.05 for world in worlds])  # type: ignore[operator]
    assert alone > 0.2
    assert both < 0.065


def test_p_is_against_the_null_and_agrees_with_the_interval() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        world = _world(rng, 1.0, 1.0, effect=3.0)
        found = over_both("x", *world, null=1.0)
        assert found.p is not None and found.ci_low is not None and found.ci_high is not None
        assert (found.p < 0.05) == (not found.ci_low <= 1.0 <= found.ci_high)
        assert "against 1" in found.method


def test_what_does_not_vary_adds_nothing() -> None:
    rng = np.random.default_rng(6)
    questions, _ = _world(rng, 1.0, 1.0)
    still = Estimate("x", questions.estimate, None, None, None, None, CELLS, "cell", "no interval: nothing varies")
    found = over_both("x", questions, still)
    assert found.ci_low == pytest.approx(questions.ci_low) and found.p == pytest.approx(questions.p)
    neither = over_both("x", still, still)
    assert neither.ci_low is None and neither.p is None
    assert over_both("x", still, still, null=still.estimate or 0.0).p == 1.0


def test_one_seed_decides_nothing() -> None:
    questions, _ = _world(np.random.default_rng(7), 1.0, 1.0)
    lonely = undefined("x", "one seed", n=1, unit="cell", method="t")
    assert over_both("x", questions, lonely).undefined == "one seed"


def test_an_error_is_read_from_an_interval_and_from_nothing_else() -> None:
    values = np.random.default_rng(8).normal(size=9)
    assert t_error(_estimate(values, "cell"), 8) == pytest.approx(values.std(ddof=1) / 3)
    with pytest.raises(StatisticsError, match="no interval"):
        t_error(undefined("x", "one seed", n=1, unit="cell", method="t"), 3)
