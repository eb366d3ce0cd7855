from __future__ import annotations

from fractions import Fraction
from itertools import permutations
from operator import mul

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats

from leakage_assets.statistics.correlation import COEFFICIENTS
from leakage_assets.statistics.permutation import EXACT_LIMIT, exact_p, permutation_test
from leakage_assets.statistics.resampling import TIE
from leakage_assets.statistics.result import StatisticsError

SCIPY = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}


def of(x, y, coefficient="pearson", **options):
    return permutation_test("r", x, y, coefficient=coefficient, unit="source", seed=0, **options)


@st.composite
def few(draw) -> tuple[list[float], list[float]]:
    """4 to 6 pairs, with many ties or none: few enough to arrange them one by one."""
    n = draw(st.integers(4, 6))
    values = draw(st.sampled_from([st.integers(0, 3).map(float), st.integers(-(10**6), 10**6).map(float)]))
    return draw(st.lists(values, min_size=n, max_size=n)), draw(st.lists(values, min_size=n, max_size=n))


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
@given(pair=few())
@example(pair=([-34641.0, 0.0, 0.0, 0.0, 1.0, 0.0], [-34641.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
@settings(max_examples=25, deadline=None)
def test_exact_p_is_the_share_of_all_arrangements(coefficient, pair) -> None:
    x, y = (np.array(values) for values in pair)
    assume(np.ptp(x) > 0 and np.ptp(y) > 0)
    if coefficient == "spearman":
        x, y = stats.rankdata(x), stats.rankdata(y)
    # Whole or half numbers: sums of products, which order arrangements as the correlation does, are exact.
    u, v = ([2 * len(x) * Fraction(value) - 2 * sum(map(Fraction, values)) for value in values] for values in (x, y))
    sums = [abs(sum(map(mul, u, order))) for order in permutations(v)]
    largest = (sum(map(mul, u, u)) * sum(map(mul, v, v))) ** 0.5
    assume(all(one == sums[0] or abs(float(one - sums[0])) / largest > 2 * TIE for one in sums))
    expected = np.mean([one >= sums[0] for one in sums])
    ours = of(*pair, coefficient)
    assert ours.p == pytest.approx(expected, abs=1e-12)
    assert ours.estimate == pytest.approx(SCIPY[coefficient](*pair).statistic)
    assert f"all {len(x)}! arrangements" in ours.method


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_exact_p_is_that_of_scipy(coefficient) -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 6))
    theirs = stats.permutation_test(
        (x,),
        lambda v: abs(SCIPY[coefficient](v, y).statistic),
        permutation_type="pairings",
        alternative="greater",
        n_resamples=np.inf,
    )
    assert of(x, y, coefficient).p == pytest.approx(theirs.pvalue, abs=1e-12)


def test_a_monotone_dozen_has_two_extreme_arrangements_of_479_001_600() -> None:
    x = np.arange(12.0)
    assert exact_p(x, x) == 2 / 479_001_600
    assert of(x, np.exp(x), "spearman").p == 2 / 479_001_600


def test_exact_and_drawn_p_agree() -> None:
    x, y = np.random.default_rng(2).normal(size=(2, EXACT_LIMIT))
    exact, drawn = of(x, y), of(x, y, exact_limit=0, draws=50_000)
    assert "50000 draws, seed 0" in drawn.method
    assert drawn.p == pytest.approx(exact.p, abs=4 * np.sqrt(exact.p * (1 - exact.p) / 50_000))


def test_beyond_the_limit_arrangements_are_drawn() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, EXACT_LIMIT + 1))
    found = of(x, y, draws=999)
    assert "999 draws" in found.method
    assert found.p * 1000 == pytest.approx(round(found.p * 1000))
    assert found == of(x, y, draws=999)


def test_null_p_is_uniform_and_an_effect_is_found() -> None:
    rng = np.random.default_rng(4)
    p = [of(*rng.normal(size=(2, 8))).p for _ in range(200)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    x = rng.normal(size=10)
    assert of(x, -2 * x + 0.3 * rng.normal(size=10)).p < 0.001


def test_degenerate_pairs() -> None:
    assert of([1, 1, 1, 1], [1, 2, 3, 4]).undefined == "x is constant"
    assert of([1, 2, 3, 4], [0, 0, 0, 0], "spearman").undefined == "y is constant"
    assert of([1, 2, 3], [3, 1, 2]).undefined == "3 points, fewer than 4"
    with pytest.raises(StatisticsError, match="at least 3"):
        of([1, 2], [1, 2])
    # No arrangement is less extreme than r = 0.
    assert of([-1, 0, 0, 1], [1, -1, -1, 1]).p == 1.0
