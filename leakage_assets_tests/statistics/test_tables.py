from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from leakage_assets.statistics.categories import category_table
from leakage_assets.statistics.layers import best_layers, correlation_table, layer_sensitivity
from leakage_assets.statistics.result import StatisticsError


@pytest.fixture
def pairs() -> pl.DataFrame:
    """2 layers, 3 sources that are personas, 20 personas in 3 categories; self rows have no cosine."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "layer": layer,
            "source": f"p{s}",
            "persona": f"p{b}",
            "category": "abbbbbbbbbbbbbbbbbcc"[b],
            "related": int((b + s) % 4 == 0),
            "is_source": int(s == b),
            "rate": rng.integers(0, 6) / 5,
            "cosine": None if s == b else rng.normal(),
        }
        for layer in (15, 20)
        for s in range(3)
        for b in range(20)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def test_correlations_per_layer_and_source(pairs) -> None:
    table = correlation_table(pairs)
    assert len(table) == 2 * (3 + 1) * 2
    for row in table.iter_rows(named=True):
        part = pairs.filter((pl.col("layer") == row["layer"]) & (pl.col("is_source") == 0))
        if row["source"] != "pooled":
            part = part.filter(pl.col("source") == row["source"])
        test = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[row["name"]](part["cosine"], part["rate"])
        assert row["estimate"] == pytest.approx(test.statistic)
        assert row["p"] == pytest.approx(test.pvalue)
        assert row["n"] == len(part) == (57 if row["source"] == "pooled" else 19)


def test_layer_sensitivity(pairs) -> None:
    correlations = correlation_table(pairs)
    table = layer_sensitivity(correlations, primary_layer=20)
    best = best_layers(correlations, "spearman")
    for source in ("p0", "p1", "p2", "pooled"):
        own = table.filter((pl.col("source") == source) & (pl.col("name") == "spearman"))
        values = dict(own.select("layer", "estimate").iter_rows())
        assert best[source] == max(values, key=values.__getitem__)
        assert own.filter(pl.col("rank") == 1)["layer"].to_list() == [best[source]]
        assert own.filter(pl.col("primary"))["below_best"][0] == pytest.approx(max(values.values()) - values[20])
    with pytest.raises(StatisticsError, match="layer 7"):
        layer_sensitivity(correlations, primary_layer=7)


def test_an_undefined_source_has_no_best_layer(pairs) -> None:
    silent = pairs.with_columns(rate=pl.when(pl.col("source") == "p1").then(0.0).otherwise("rate"))
    correlations = correlation_table(silent)
    own = correlations.filter((pl.col("source") == "p1") & (pl.col("name") == "spearman"))
    assert own["undefined"].to_list() == ["y is constant"] * 2
    assert "p1" not in best_layers(correlations, "spearman")
    ranked = layer_sensitivity(correlations, primary_layer=20).filter(pl.col("source") == "p1")
    assert ranked["rank"].null_count() == len(ranked) == 4


def test_categories(pairs) -> None:
    one = pairs.filter(pl.col("layer") == 20)
    table = category_table(one)
    assert dict(table.select("category", "n").iter_rows()) == {"a": 2, "b": 49, "c": 6, "all": 57}
    by = {row["category"]: row for row in table.iter_rows(named=True)}
    assert by["a"]["undefined"] == "2 pairs, fewer than 5"
    part = one.filter((pl.col("category") == "b") & (pl.col("is_source") == 0))
    assert by["b"]["estimate"] == pytest.approx(stats.spearmanr(part["cosine"], part["rate"]).statistic)
    assert by["b"]["unit"] == "(source, bystander) pair"


def test_intended_pairs_only(pairs) -> None:
    one = pairs.filter(pl.col("layer") == 15)
    table = category_table(one, intended_only=True, minimum=3)
    part = one.filter((pl.col("related") == 1) & (pl.col("is_source") == 0))
    overall = table.filter(pl.col("category") == "all").row(0, named=True)
    assert overall["n"] == len(part)
    assert overall["estimate"] == pytest.approx(stats.spearmanr(part["cosine"], part["rate"]).statistic)
    assert table["category"].to_list() == ["a", "b", "c", "all"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop("category"), "no column 'category'"),
        (lambda t: t.drop("related"), "no column 'related'"),
        (lambda t: pl.concat([t, t]), "occurs twice"),
        (lambda t: t.with_columns(rate=pl.lit(None, pl.Float64)), "empty cells in 'rate'"),
    ],
)
def test_category_misuse_raises(pairs, change, message) -> None:
    with pytest.raises(StatisticsError, match=message):
        category_table(change(pairs.filter(pl.col("layer") == 20)), intended_only=True)


def test_correlations_need_a_layer(pairs) -> None:
    with pytest.raises(StatisticsError, match="'layer'"):
        correlation_table(pairs.drop("layer"))
