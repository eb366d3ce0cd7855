from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leakage_assets.statistics.multiplicity import bonferroni, holm
from leakage_assets.statistics.result import StatisticsError

FAMILY = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0, 1), min_size=1, max_size=8)

SLOW = settings(max_examples=15, deadline=None)
"""statsmodels imports slowly and collects garbage in every call."""


@given(FAMILY)
@SLOW
def test_holm_is_its_definition(family: dict[str, float]) -> None:
    running, expected = 0.0, {}
    for i, name in enumerate(sorted(family, key=family.__getitem__)):
        running = max(running, min(1.0, (len(family) - i) * family[name]))
        expected[name] = running
    assert holm(family) == pytest.approx(expected)


@given(FAMILY)
@SLOW
def test_bonferroni_is_its_definition(family: dict[str, float]) -> None:
    assert bonferroni(family) == pytest.approx({k: min(1.0, len(family) * p) for k, p in family.items()})


def test_an_undefined_test_still_counts() -> None:
    assert holm({"a": 0.01, "b": None, "c": 0.02}) == pytest.approx({"a": 0.03, "b": None, "c": 0.04})
    assert bonferroni({"a": 0.01, "b": None}) == pytest.approx({"a": 0.02, "b": None})


@pytest.mark.parametrize("family", [{}, {"a": 1.2}, {"a": float("nan")}])
def test_misuse_raises(family) -> None:
    with pytest.raises(StatisticsError):
        holm(family)
