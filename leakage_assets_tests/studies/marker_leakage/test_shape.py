"""What the correlation rests on: look-alikes of the source, zeros, and the order of the rest."""

from __future__ import annotations

import polars as pl
import pytest
from scipy.stats import spearmanr

from leakage_assets.studies.marker_leakage.shape import LOOK_ALIKE, shape_table


def pairs(source: str, cosines: list[float], rates: list[float]) -> pl.DataFrame:
    rows = [(source, False, c, r) for c, r in zip(cosines, rates, strict=True)]
    return pl.DataFrame(
        [(source, True, 1.0, 0.9), *rows], schema=["source", "is_source", "cosine", "rate"], orient="row"
    )


def test_look_alikes_and_zeros_are_counted_and_the_source_is_not() -> None:
    villain = pairs("villain", [LOOK_ALIKE, 0.95, 0.4, 0.1, -0.2], [0.8, 0.7, 0.1, 0.2, 0.0])
    pirate = pairs("pirate", [0.5, 0.2, 0.1, -0.3], [0.3, 0.0, 0.0, 0.0])
    table = {row["source"]: row for row in shape_table(pl.concat([villain, pirate])).iter_rows(named=True)}
    assert [table[name]["bystanders"] for name in ("villain", "pirate", "pooled")] == [5, 4, 9]
    assert [table[name]["look_alikes"] for name in ("villain", "pirate", "pooled")] == [2, 0, 2]
    assert [table[name]["zero_share"] for name in ("villain", "pirate", "pooled")] == [0.2, 0.75, 4 / 9]
    assert table["villain"]["estimate"] == pytest.approx(spearmanr([0.4, 0.1, -0.2], [0.1, 0.2, 0.0])[0])
    assert (table["villain"]["n"], table["pooled"]["n"]) == (3, 7)
    assert table["pooled"]["ci_low"] is None


def test_a_correlation_that_only_look_alikes_make_is_seen_through() -> None:
    found = shape_table(pairs("villain", [0.95, 0.96, 0.97, 0.1, 0.2, 0.3], [0.9, 0.8, 0.7, 0.2, 0.1, 0.0]))
    assert found.filter(source="villain")["estimate"].to_list() == [pytest.approx(-1.0)]


def test_without_enough_others_it_is_undefined_and_says_why() -> None:
    (row,) = shape_table(pairs("villain", [0.95, 0.96, 0.1], [0.9, 0.8, 0.2])).filter(source="villain").to_dicts()
    assert row["estimate"] is None
    assert row["undefined"] == "fewer than 3 pairs"
