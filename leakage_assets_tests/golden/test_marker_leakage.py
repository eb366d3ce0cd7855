"""The published numbers of #66 come out of the functions that analyse a live run."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from leakage_assets.statistics.layers import correlation_table
from leakage_assets.statistics.pooled import crossed_pairs, persona_clustered
from leakage_assets.studies.marker_leakage import reproduction
from leakage_assets.studies.marker_leakage.reproduction import (
    COLUMNS,
    ReproductionError,
    headline_figures,
    reproduce,
)
from leakage_assets_tests.golden.conftest import edit


@pytest.fixture(scope="module")
def table(published: Path) -> pl.DataFrame:
    return reproduce(published)


@pytest.fixture(scope="module")
def pairs(published: Path) -> pl.DataFrame:
    """Joined here, not by the code under test."""
    rates = pl.read_csv(published / "i66_marker_rates.csv")
    cosines = pl.read_csv(published / "i66_cosines.csv").drop("category")
    return cosines.join(rates, on=["source", "persona"])


def test_every_published_statistic_reproduces(table: pl.DataFrame) -> None:
    wrong = table.filter(~pl.col("verdict").str.starts_with("ok") & ~pl.col("verdict").str.starts_with("known"))
    assert wrong.is_empty(), str(wrong)
    assert table.columns == [
        "block", "item", "metric", "published", "recomputed", "difference", "tolerance", "verdict", "basis"
    ]  # fmt: skip
    assert len(table) == 24 * 5 + 5 * 2 + len(headline_figures().figures)


def test_only_the_two_claims_that_the_sheet_refutes_are_refuted(table: pl.DataFrame) -> None:
    known = table.filter(pl.col("verdict").str.starts_with("known"))
    assert known.select("item", "metric", "published", "recomputed", "verdict").rows() == [
        ("pooled", "best_layer", 20, 25, "known: A4"),
        ("each adapter", "completions", 111_000, 22_200, "known: A3"),
    ]


def test_the_24_correlations_are_within_the_sheets_tolerance(published: Path, pairs: pl.DataFrame) -> None:
    expected = pl.read_csv(published / "i66_correlations.csv")
    ours = correlation_table(pairs)
    assert len(expected) == 24
    for row in expected.iter_rows(named=True):
        own = ours.filter((pl.col("layer") == row["layer"]) & (pl.col("source") == row["source"]))
        by = {r["name"]: r for r in own.iter_rows(named=True)}
        for name, symbol in (("spearman", "rho"), ("pearson", "r")):
            assert by[name]["n"] == row["n"]
            assert by[name]["estimate"] == pytest.approx(row[f"{name}_{symbol}"], abs=5e-4)
            # The file's second opinion comes from the same rounded cosines: it must agree to its digits.
            assert by[name]["estimate"] == pytest.approx(row[f"recomputed_{name}_{symbol}"], abs=1e-6)
            assert by[name]["p"] == pytest.approx(row[f"recomputed_{name}_p"], rel=1e-5)


def test_rates_are_exact(table: pl.DataFrame) -> None:
    rates = table.filter(pl.col("block") == "rates")
    assert rates["recomputed"].to_list() == [111.0] * 10


def test_leakage_follows_geometry_when_the_persona_is_the_unit(pairs: pl.DataFrame) -> None:
    """A9: the headline survives, and ranks within sources make it stronger."""
    headline = crossed_pairs(pairs.filter(pl.col("layer") == 20))
    whole = persona_clustered(headline, "pooled", seed=42)
    within = persona_clustered(headline, "within_source", seed=42)
    assert whole.p == within.p == 1 / 10_001
    assert whole.estimate == pytest.approx(0.6016, abs=5e-4)
    assert 0.4 < whole.ci_low < whole.estimate < within.ci_low


@pytest.mark.parametrize(
    ("name", "change", "where"),
    [
        ("i66_cosines.csv", lambda t: t.with_columns(cosine=-pl.col("cosine")), {"correlations", "headline"}),
        ("i66_marker_rates.csv", lambda t: t.with_columns(found=pl.col("found") + 1), {"rates", "shape"}),
        (
            "i66_marker_rates.csv",
            lambda t: t.with_columns(related=1 - pl.col("related")),
            {"rates", "intended"},
        ),
        ("i66_correlations.csv", lambda t: t.with_columns(pl.col("spearman_rho") + 0.001), {"correlations"}),
        ("i66_correlations.csv", lambda t: t.with_columns(pl.col("spearman_p") * 1.1), {"correlations"}),
        ("i66_personas.csv", lambda t: t.head(110), {"panel"}),
    ],
)
def test_changed_data_are_noticed(copy: Path, name: str, change, where: set[str]) -> None:
    differs = reproduce(edit(copy, name, change)).filter(pl.col("verdict") == "DIFFERS")
    assert where <= set(differs["block"])


def test_a_wrong_claim_is_excused_only_by_the_right_value(copy: Path) -> None:
    # With the layers swapped, L10 would be best: neither the write-up's 20 nor the sheet's 25.
    swap = {10: 25, 25: 10}
    changed = edit(copy, "i66_cosines.csv", lambda t: t.with_columns(pl.col("layer").replace(swap)))
    row = reproduce(changed).filter((pl.col("item") == "pooled") & (pl.col("metric") == "best_layer"))
    assert (row["recomputed"][0], row["verdict"][0]) == (10, "DIFFERS")


def test_silent_data_are_undefined_not_nan(copy: Path) -> None:
    silence = {"found": 0, "rate": 0.0}
    changed = edit(copy, "i66_marker_rates.csv", lambda t: t.with_columns(**{k: pl.lit(v) for k, v in silence.items()}))
    correlations = reproduce(changed).filter((pl.col("block") == "correlations") & (pl.col("metric") != "n"))
    assert set(correlations["verdict"]) == {"undefined"}
    assert correlations["recomputed"].null_count() == len(correlations)


@pytest.mark.parametrize("name", list(COLUMNS))
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ReproductionError, match=rf"{name}: no such file; give the folder"):
        reproduce(copy)


@pytest.mark.parametrize(("name", "column"), [(n, c) for n, columns in COLUMNS.items() for c in columns])
def test_a_missing_column_is_named(copy: Path, name: str, column: str) -> None:
    with pytest.raises(ReproductionError, match=rf"{name}: no column '{column}'"):
        reproduce(edit(copy, name, lambda t: t.drop(column)))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("i66_cosines.csv", lambda t: t.with_columns(cosine=pl.lit("high")), r"i66_cosines\.csv: .*high"),
        (
            "i66_marker_rates.csv",
            lambda t: t.with_columns(pl.when(pl.int_range(pl.len()) != 4).then("rate").alias("rate")),
            r"i66_marker_rates\.csv:6: 'rate' is empty",
        ),
        ("i66_marker_rates.csv", lambda t: t.filter(pl.col("persona") != "hero"), "persona 'hero'"),
        ("i66_marker_rates.csv", lambda t: pl.concat([t, t.head(1)]), "occurs twice"),
        ("i66_cosines.csv", lambda t: t.slice(1), "no similarity for source 'villain'"),
        ("i66_correlations.csv", lambda t: t.head(20), "only one of this file"),
        ("i66_cosines.csv", lambda t: t.filter(pl.col("layer") > 10), "layer 10"),
        ("i66_personas.csv", lambda t: t.head(100), "give no panel / unrelated_baseline / personas"),
    ],
)
def test_damaged_files_are_refused(copy: Path, name: str, change, message: str) -> None:
    with pytest.raises(ReproductionError, match=message):
        reproduce(edit(copy, name, change))


def test_an_empty_file_is_refused(copy: Path) -> None:
    (copy / "i66_cosines.csv").write_text("")
    with pytest.raises(ReproductionError, match=r"i66_cosines\.csv"):
        reproduce(copy)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReproductionError, match=r"nowhere: no such folder; give the folder"):
        reproduce(tmp_path / "nowhere")


def test_typed_in_figures_are_validated(tmp_path: Path) -> None:
    figures = json.loads(reproduction.FIGURES.read_text(encoding="utf-8"))
    figures["figures"][3]["value"] = "many"
    path = tmp_path / "marker_leakage.json"
    path.write_text(json.dumps(figures))
    with pytest.raises(ReproductionError, match=r"marker_leakage\.json: figures\.3\.value"):
        headline_figures(path)
    with pytest.raises(ReproductionError, match=r"gone\.json: missing"):
        headline_figures(tmp_path / "gone.json")


def test_a_figure_that_nothing_recomputes_is_refused(published: Path, tmp_path: Path, monkeypatch) -> None:
    figures = headline_figures()
    stray = figures.figures[0].model_copy(update={"metric": "kendall_tau"})
    monkeypatch.setattr(reproduction, "headline_figures", lambda: figures.model_copy(update={"figures": (stray,)}))
    with pytest.raises(ReproductionError, match="kendall_tau"):
        reproduce(published)
