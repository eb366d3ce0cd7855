from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from leakage_assets.statistics.multiplicity import bonferroni, holm, with_bonferroni, with_holm
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
@settings(max_examples=5, deadline=None)
def test_adjusted_p_are_those_of_statsmodels(family: dict[str, float]) -> None:
    for adjust, method in ((holm, "holm"), (bonferroni, "bonferroni")):
        theirs = multipletests(list(family.values()), method=method)[1]
        assert list(adjust(family).values()) == pytest.approx(list(theirs), abs=1e-12)


def test_an_undefined_test_still_counts() -> None:
    assert holm({"a": 0.01, "b": None, "c": 0.02}) == pytest.approx({"a": 0.03, "b": None, "c": 0.04})


@pytest.mark.parametrize("family", [{}, {"a": 1.2}, {"a": float("nan")}])
def test_misuse_raises(family) -> None:
    with pytest.raises(StatisticsError):
        holm(family)


def test_each_family_of_a_table_is_adjusted_by_itself_and_the_total_not_at_all() -> None:
    table = pl.DataFrame(
        {
            "layer": [1, 1, 1, 1, 2, 2],
            "source": ["a", "pooled", "b", "c", "a", "b"],
            "p": [0.01, 0.5, 0.02, None, 0.01, 0.04],
            "n": range(6),
        }
    )
    adjusted = with_holm(table, tests="source", families=["layer"], total="pooled")
    assert adjusted.columns == ["layer", "source", "p", "p_holm", "n"]
    expected = [0.03, None, 0.04, None, 0.02, 0.04]
    assert adjusted["p_holm"].is_null().to_list() == [value is None for value in expected]
    assert adjusted["p_holm"].drop_nulls().to_list() == pytest.approx([v for v in expected if v is not None])
    assert adjusted.drop("p_holm").equals(table)
    assert with_holm(table.clear(), tests="source", families=["layer"], total="pooled").columns == adjusted.columns
    with pytest.raises(StatisticsError, match="'a' occurs twice"):
        with_holm(table.with_columns(layer=1), tests="source", families=["layer"], total="pooled")


@given(FAMILY)
@SLOW
def test_bonferroni_is_its_definition(family: dict[str, float]) -> None:
    assert bonferroni(family) == pytest.approx({name: min(1.0, len(family) * p) for name, p in family.items()})


def test_without_a_total_every_row_is_a_test() -> None:
    table = pl.DataFrame({"layer": [10, 15, 10, 15], "name": list("aabb"), "p": [0.01, 0.02, 0.3, None]})
    adjusted = with_bonferroni(with_holm(table, tests="layer", families=["name"]), tests="layer", families=["name"])
    assert adjusted.columns == ["layer", "name", "p", "p_bonferroni", "p_holm"]
    assert adjusted["p_holm"].to_list() == [0.02, 0.02, 0.6, None]
    assert adjusted["p_bonferroni"].to_list() == [0.02, 0.04, 0.6, None]
    for refuse in (lambda: bonferroni({}), lambda: bonferroni({"a": -0.1})):
        with pytest.raises(StatisticsError, match="bonferroni"):
            refuse()
