from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from leakage_assets.statistics.correlation import COEFFICIENTS
from leakage_assets.statistics.points import (
    Points,
    as_points,
    correlate_points,
    count_above,
    drop_one,
    least_extreme,
    within_groups,
)
from leakage_assets.statistics.result import StatisticsError

SCIPY = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}
GROUPS = dict(zip("abcdefghij", "xxxxxyyyyz", strict=True))


@pytest.fixture
def points() -> Points:
    x, y = np.random.default_rng(0).normal(size=(2, 10))
    return Points(tuple("abcdefghij"), x, y, "source")


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_within_groups_is_the_correlation_of_each(points: Points, coefficient) -> None:
    found = within_groups(points, GROUPS, coefficient)
    assert list(found) == ["x", "y", "z"]
    for group, part in (("x", slice(0, 5)), ("y", slice(5, 9))):
        theirs = SCIPY[coefficient](points.x[part], points.y[part])
        assert found[group].estimate == pytest.approx(theirs.statistic)
        assert found[group].p == pytest.approx(theirs.pvalue)
        assert found[group].n == len(points.x[part])
    assert found["z"].undefined == "1 points, fewer than 4"


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_drop_one_leaves_each_out(points: Points, coefficient) -> None:
    found = drop_one(points, coefficient)
    assert list(found) == list(points.names)
    for i, name in enumerate(points.names):
        theirs = SCIPY[coefficient](np.delete(points.x, i), np.delete(points.y, i))
        assert found[name].estimate == pytest.approx(theirs.statistic)
        assert found[name].n == 9


def test_what_the_result_hangs_on_is_the_largest_p(points: Points) -> None:
    dropped = drop_one(points, "pearson")
    worst = least_extreme("worst", dropped)
    assert worst.p == max(e.p for e in dropped.values())
    name = next(name for name, e in dropped.items() if e.p == worst.p)
    assert f"largest: {name};" in worst.method and worst.estimate == dropped[name].estimate
    middle = float(np.median([e.p for e in dropped.values()]))
    above = count_above("above", dropped, middle)
    assert (above.estimate, above.n) == (sum(e.p > middle for e in dropped.values()), 10)


def test_a_point_without_which_nothing_can_be_said_decides() -> None:
    dropped = drop_one(as_points("abcde", [0, 0, 0, 0, 1], [1, 2, 3, 4, 5], unit="source"), "pearson")
    assert dropped["e"].undefined == "x is constant"
    assert least_extreme("worst", dropped).undefined == "without e: x is constant"
    assert "without e" in count_above("above", dropped, 0.05).undefined
    for refuse in (lambda: least_extreme("worst", {}), lambda: count_above("above", {}, 0.05)):
        with pytest.raises(StatisticsError):
            refuse()


def test_three_points_have_no_correlation(points: Points) -> None:
    assert correlate_points("r", points.only("abc"), "pearson").undefined == "3 points, fewer than 4"
    assert correlate_points("r", points.only("abcd"), "pearson").estimate is not None


def test_parts_keep_their_order(points: Points) -> None:
    assert points.only({"d", "b"}).names == ("b", "d")
    assert points.without("a", "nobody").names == tuple("bcdefghij")
    assert points.only("c").x[0] == points.x[2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.only(["zz"]), "no 'zz'"),
        (lambda p: as_points("aa", [1, 2], [1, 2], unit="u"), "'a' occurs twice"),
        (lambda p: as_points("ab", [1], [1, 2], unit="u"), "2 names"),
        (lambda p: as_points("ab", [1, 2], [1, float("nan")], unit="u"), "y of 'b' is nan"),
        (lambda p: within_groups(p, {"a": "x"}, "pearson"), "none for 'b'"),
    ],
)
def test_misuse_raises(points: Points, make, message) -> None:
    with pytest.raises(StatisticsError, match=message):
        make(points)
