from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leakage_assets.statistics.quasi_binomial import quasi_binomial
from leakage_assets.statistics.result import StatisticsError

X = {"cosine": np.linspace(-0.3, 0.9, 12), "is_format": np.array([0.0, 1] * 6)}


def counts(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    total = rng.integers(50, 300, size=12)
    return rng.binomial(total, rng.uniform(0.1, 0.9, size=12)), total


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_it_is_a_glm_with_a_scale(seed: int) -> None:
    found, total = counts(seed)
    matrix = sm.add_constant(np.column_stack(list(X.values())))
    theirs = sm.GLM(np.column_stack([found, total - found]), matrix, family=sm.families.Binomial()).fit()
    # By hand: statsmodels' own scale="X2" forgets the numbers of trials.
    expected = total * theirs.mu
    scale = np.sum((found - expected) ** 2 / (expected * (1 - theirs.mu))) / 9
    assert scale > 1  # rates drawn at random vary more than completions do
    ours = quasi_binomial(X, found, total, unit="cell")
    for place, estimate in enumerate(ours.values(), start=1):
        assert estimate.estimate == pytest.approx(theirs.params[place], rel=1e-5, abs=1e-7)
        error = theirs.bse[place] * np.sqrt(scale)
        half = stats.t.ppf(0.975, 9) * error
        assert estimate.ci_high - estimate.estimate == pytest.approx(half, rel=1e-5)
        assert estimate.p == pytest.approx(2 * stats.t.sf(abs(theirs.params[place]) / error, 9), rel=1e-5)
        assert (estimate.n, estimate.unit) == (12, "cell")


def test_degenerate_counts_are_undefined_with_a_reason() -> None:
    total = np.full(12, 200)
    split = np.where(X["is_format"] == 1, 0, 80)

    def reason(found: np.ndarray, columns: dict[str, np.ndarray] = X) -> str | None:
        (one,) = {e.undefined for e in quasi_binomial(columns, found, total, unit="cell").values()}
        return one

    assert reason(np.zeros(12)) == "no completion has the marker"
    assert reason(total) == "every completion has the marker"
    assert "separates" in reason(split)
    assert reason(counts(1)[0] // 2, {"is_format": np.ones(12)}) == "is_format does not vary"
    for found, many in ((total + 1, total), (split, np.zeros(12)), (split[:3], total)):
        with pytest.raises(StatisticsError):
            quasi_binomial(X, found, many, unit="cell")
