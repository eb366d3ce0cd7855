from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leakage_assets.statistics.paired import jackknife, paired_difference
from leakage_assets.statistics.result import StatisticsError


@given(st.integers(0, 10**6), st.integers(4, 30), st.sampled_from(["two-sided", "greater"]))
@settings(deadline=None)
def test_it_is_the_paired_t_test_of_scipy(seed: int, n: int, alternative: str) -> None:
    a, b = np.random.default_rng(seed).uniform(size=(2, n))
    ours = paired_difference("prompt_effect", a, b, unit="question", alternative=alternative)
    theirs = stats.ttest_rel(a, b, alternative=alternative)
    bounds = stats.ttest_rel(a, b).confidence_interval()
    assert ours.estimate == pytest.approx(a.mean() - b.mean())
    assert ours.p == pytest.approx(theirs.pvalue)
    assert (ours.ci_low, ours.ci_high) == pytest.approx((bounds.low, bounds.high))
    assert (ours.n, ours.unit) == (n, "question")


def test_too_few_pairs_and_pairs_that_do_not_differ() -> None:
    assert paired_difference("d", [1, 2, 3], [0, 0, 1], unit="prompt").undefined == "3 pairs, fewer than 4"
    same = paired_difference("d", [0.0] * 8, [0.0] * 8, unit="prompt")
    assert (same.estimate, same.ci_low, same.p) == (0, None, None)
    assert "do not vary" in same.method
    for a, b in (([1.0], [1.0, 2]), ([1.0, np.nan, 3, 4], [0.0] * 4)):
        with pytest.raises(StatisticsError):
            paired_difference("d", a, b, unit="prompt")


@given(st.integers(0, 10**6), st.integers(4, 30))
@settings(deadline=None)
def test_the_jackknife_of_a_mean_is_its_t_interval(seed: int, n: int) -> None:
    values = np.random.default_rng(seed).normal(size=n)
    without = (values.sum() - values) / (n - 1)
    ours = jackknife("mean", float(values.mean()), without, unit="prompt", what="mean")
    bounds = stats.ttest_1samp(values, 0)
    interval = bounds.confidence_interval()
    assert (ours.ci_low, ours.ci_high) == pytest.approx((interval.low, interval.high))
    assert ours.p == pytest.approx(bounds.pvalue)


def test_a_jackknife_that_is_not_defined_everywhere_is_not_defined() -> None:
    assert jackknife("m", 1.0, [1.0, 2, 3], unit="prompt", what="m").undefined == "3 prompts, fewer than 4"
    lost = jackknife("m", 1.0, [1.0, np.nan, 3, 4], unit="prompt", what="m", left_out=list("abcd"))
    assert lost.undefined == "not defined without b"
    assert jackknife("m", np.nan, [1.0, 2, 3, 4], unit="prompt", what="m").undefined == "not defined"
    flat = jackknife("m", 1.0, [1.0] * 4, unit="prompt", what="m")
    assert flat.ci_low is None and "no prompt changes it" in flat.method
