from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from leakage_assets.statistics.result import StatisticsError
from leakage_assets.statistics.seeds import no_spread, seed_spread


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


def test_an_interval_stays_within_what_is_possible() -> None:
    rates = {1: 0.95, 2: 1.0, 3: 1.0}
    free, cut = seed_spread("rate", rates), seed_spread("rate", rates, bounds=(0, 1))
    assert free.mean.ci_high > 1
    assert (cut.mean.ci_low, cut.mean.ci_high) == (free.mean.ci_low, 1.0)
    assert cut.mean.estimate == free.mean.estimate
    assert cut.mean.method == "t interval over seeds 1, 2, 3; clipped to the possible range 0 to 1"
    wide = seed_spread("rho", {1: -0.9, 2: 0.9}, bounds=(-1, 1))
    assert (wide.mean.ci_low, wide.mean.ci_high) == (-1.0, 1.0)
    within = seed_spread("rate", {1: 0.5, 2: 0.51}, bounds=(0, 1))
    assert "clipped" not in within.mean.method
    with pytest.raises(StatisticsError, match=r"1\.2 at seed 2 is outside 0 to 1"):
        seed_spread("rate", {1: 0.5, 2: 1.2}, bounds=(0, 1))


def test_a_spread_that_does_not_exist_says_why() -> None:
    spread = no_spread("rho", "the seeds cover different sources", [256, 42])
    assert [e.undefined for e in spread.estimates()] == ["the seeds cover different sources"] * 4
    assert (spread.mean.n, spread.mean.method) == (2, "over seeds 42, 256")
    assert "left out: 7" in seed_spread("rho", {1: 0.1, 2: 0.2}, note="left out: 7").mean.method
