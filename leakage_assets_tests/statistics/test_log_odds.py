"""Telling words: against a calculation by hand, and planted vocabulary is found."""

from __future__ import annotations

import random
from math import log, sqrt

import pytest

from leakage_assets.statistics.log_odds import counted, log_odds_scores, vocabulary, words
from leakage_assets.statistics.result import StatisticsError


def test_words_are_small_and_without_marks() -> None:
    assert words("It’s A-1, isn't it? B2B!") == ["it’s", "a", "isn't", "it", "b", "b"]


def test_the_score_is_that_of_the_paper() -> None:
    found = log_odds_scores({"x": 8, "y": 2}, {"x": 1, "y": 9}, {"x": 2, "y": 3})
    first, second = log(10 / (10 + 5 - 10)), log(3 / (10 + 5 - 3))
    assert found["x"] == pytest.approx((first - second) / sqrt(1 / 10 + 1 / 3))
    assert found["y"] < 0 < found["x"]


def test_planted_words_are_found_and_common_ones_are_not() -> None:
    rng = random.Random(1)
    common = [f"w{chr(97 + i)}" for i in range(20)]
    own = ["shelf", "hush", "catalogue"]
    plain = [" ".join(rng.choices(common, k=20)) for _ in range(100)]
    voiced = [" ".join([*rng.choices(common, k=18), *rng.choices(own, k=2)]) for _ in range(100)]
    assert set(vocabulary(voiced, plain, least_score=3.0, most=50)) == set(own)
    assert len(vocabulary(voiced, plain, least_score=3.0, most=2)) == 2
    assert vocabulary(plain, plain, least_score=1.0, most=50) == ()


def test_misuse_is_named() -> None:
    with pytest.raises(StatisticsError, match="both bodies"):
        log_odds_scores({}, {"x": 1}, {"x": 1, "y": 1})
    with pytest.raises(StatisticsError, match="at least two words"):
        log_odds_scores({"x": 1}, {"x": 1}, {"x": 1})
    assert counted(["a b", "b"]) == {"a": 1, "b": 2}
