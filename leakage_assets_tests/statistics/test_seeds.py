from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from leakage_assets.statistics.result import StatisticsError
from leakage_assets.statistics.seeds import seed_spread


def test_spread_is_that_of_scipy() -> None:
    values = {42: 0.6, 137: 0.55, 256: 0.71}
    spread = seed_spread("rho", values, level=0.9)
    plain = list(values.values())
    expected = stats.t.interval(0.9, 2, loc=np.mean(plain), scale=stats.sem(plain))
    assert (spread.mean.ci_low, spread.mean.ci_high) == pytest.approx(expected)
    assert [e.estimate for e in spread.estimates()] == pytest.approx(
        [np.mean(plain), np.std(plain, ddof=1), 0.55, 0.71]
    )
    assert {(e.n, e.unit) for e in spread.estimates()} == {(3, "seed")}
    assert "42, 137, 256" in spread.mean.method
    assert spread.sd.name == "rho_sd_over_seeds"


def test_the_order_of_seeds_does_not_matter() -> None:
    assert seed_spread("rho", {1: 0.1, 2: 0.7, 3: 0.2}) == seed_spread("rho", {3: 0.2, 1: 0.1, 2: 0.7})


def test_one_seed_says_nothing_about_seeds() -> None:
    spread = seed_spread("rho", {42: 0.6})
    assert {e.undefined for e in spread.estimates()} == {"one seed: no spread over seeds"}


def test_a_seed_without_a_value_is_not_left_out() -> None:
    spread = seed_spread("rho", {42: 0.6, 137: None, 256: 0.5})
    assert {e.undefined for e in spread.estimates()} == {"undefined at seed 137"}
    assert spread.mean.n == 3


def test_equal_seeds_have_no_zero_width_interval() -> None:
    spread = seed_spread("rho", {1: 0.25, 2: 0.25})
    assert (spread.mean.estimate, spread.mean.ci_low, spread.sd.estimate) == (0.25, None, 0.0)
    assert "no variation" in spread.mean.method


def test_no_seeds_raises() -> None:
    with pytest.raises(StatisticsError, match="no seeds"):
        seed_spread("rho", {})
