"""Recomputes every published statistic of marker_leakage (#66) from its published counts and cosines.

The correlations come from the functions that analyse a live run, so agreement here is agreement there.
Headline figures that the write-up prints stand in ``data/published/marker_leakage.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from leakage_assets.paths import DATA
from leakage_assets.statistics.categories import ALL, category_table
from leakage_assets.statistics.layers import POOLED, best_layers, correlation_table
from leakage_assets.statistics.result import StatisticsError
from leakage_assets.studies.published import (
    Figure,
    FigureKey,
    Headline,
    ReproductionError,
    comparison,
    comparison_table,
    figure_row,
    read_headline,
    read_published,
)

if TYPE_CHECKING:
    import polars as pl

HEADLINE_LAYER = 20
METRIC = {"spearman": "spearman_rho", "pearson": "pearson_r"}
"""The published name of each coefficient."""

FIGURES = DATA / "published" / "marker_leakage.json"

RHO_TOLERANCE = 5e-4
"""Cosines are published with 4 decimals, which makes ties that the originals lack (sheet section 9)."""

P_TOLERANCE = {"spearman": 0.04, "pearson": 0.01}
"""Relative. That rounding moves ρ by up to 2.6e-4 and r by 5e-5; at n = 550, d ln p / dρ is near -500."""

COLUMNS: Mapping[str, Mapping[str, type]] = {
    "i66_cosines.csv": {"layer": int, "source": str, "persona": str, "category": str, "cosine": float},
    "i66_marker_rates.csv": {
        "source": str, "persona": str, "category": str, "related": int, "is_source": int,
        "found": int, "total": int, "rate": float,
    },
    "i66_correlations.csv": {
        "layer": int, "source": str, "n": int, "spearman_rho": float, "spearman_p": float,
        "pearson_r": float, "pearson_p": float,
    },
    "i66_personas.csv": {"persona": str, "category": str, "related_to": str, "prompt_words": int},
}  # fmt: skip
MAY_BE_EMPTY = {"related_to"}


def reproduce(published: Path) -> pl.DataFrame:
    """Published beside recomputed, one row per statistic.

    Columns: block, item, metric, published, recomputed, difference (recomputed - published), tolerance
    (absolute), verdict: ``ok``, ``DIFFERS``, ``undefined`` (the data give no number), or ``known: A4`` where
    the write-up contradicts its own data as the sheet says. ``published`` is the folder of the ``i66_*.csv``
    files.

    Raises ``ReproductionError`` for a missing folder or file, missing columns, or cells that are not numbers.
    """
    tables = {
        name: read_published(published, name, columns, may_be_empty=MAY_BE_EMPTY) for name, columns in COLUMNS.items()
    }
    pairs = _pairs(published, tables)
    try:
        correlations = correlation_table(pairs)
        recomputed = _recomputed(tables, pairs, correlations)
    except StatisticsError as error:
        raise ReproductionError(
            f"{published}: {error}; fetch i66_cosines.csv and i66_marker_rates.csv again"
        ) from error
    rows = [
        *_correlation_rows(published, tables["i66_correlations.csv"], correlations),
        *_consistency_rows(tables),
        *(figure_row(f, recomputed, tolerance=_tolerance(f), path=FIGURES) for f in headline_figures().figures),
    ]
    return comparison_table(rows)


def headline_figures(path: Path = FIGURES) -> Headline:
    """The typed-in figures, validated. Raises ``ReproductionError`` naming the file and the field."""
    return read_headline(path)


def _tolerance(figure: Figure) -> float:
    """Half a printed unit, or what the rounded cosines cost where that is more."""
    rounding = {
        "spearman_rho": RHO_TOLERANCE,
        "pearson_r": RHO_TOLERANCE,
        "spearman_p": P_TOLERANCE["spearman"] * figure.value,
    }
    return max(figure.precision / 2, rounding.get(figure.metric, 0.0))


def _pairs(published: Path, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """One row per (layer, source, bystander): what the live analysis is given."""
    import polars as pl

    rates = tables["i66_marker_rates.csv"]
    cosines = tables["i66_cosines.csv"].drop("category")
    pairs = cosines.join(rates, on=["source", "persona"], how="left", maintain_order="left")
    lost = pairs.filter(pl.col("rate").is_null())
    if len(lost):
        source, persona = lost["source"][0], lost["persona"][0]
        raise ReproductionError(
            f"{published / 'i66_marker_rates.csv'}: no rate for source {source!r}, persona {persona!r}, "
            f"which i66_cosines.csv has; fetch both files again"
        )
    return pairs


def _correlation_rows(
    published: Path, expected: pl.DataFrame, correlations: pl.DataFrame
) -> Iterator[dict[str, object]]:
    ours = {(r["layer"], r["source"], r["name"]): r for r in correlations.iter_rows(named=True)}
    theirs = set(expected.select("layer", "source").iter_rows())
    unmatched = theirs ^ {(layer, source) for layer, source, _ in ours}
    if unmatched:
        layer, source = min(unmatched)
        raise ReproductionError(
            f"{published / 'i66_correlations.csv'}: layer {layer}, source {source!r} is in only one of "
            f"this file and i66_cosines.csv; fetch both again"
        )
    for row in expected.iter_rows(named=True):
        item = f"{row['source']} L{row['layer']}"
        for coefficient, metric in METRIC.items():
            found = ours[row["layer"], row["source"], coefficient]
            metric_p = f"{coefficient}_p"
            tolerance = P_TOLERANCE[coefficient] * row[metric_p]
            yield comparison(FigureKey("correlations", item, metric), row[metric], found["estimate"], RHO_TOLERANCE)
            yield comparison(FigureKey("correlations", item, metric_p), row[metric_p], found["p"], tolerance)
        yield comparison(FigureKey("correlations", item, "n"), row["n"], found["n"], 0.0)


def _consistency_rows(tables: Mapping[str, pl.DataFrame]) -> Iterator[dict[str, object]]:
    """Within the published files: rates are found / total, and ``related`` is the panel's relation."""
    import polars as pl

    relation = tables["i66_personas.csv"].select("persona", pl.col("related_to").fill_null("").str.split(";"))
    rates = tables["i66_marker_rates.csv"].join(relation, on="persona", how="left")
    checked = rates.group_by("source", maintain_order=True).agg(
        pl.len().alias("rows"),
        (pl.col("rate") == pl.col("found") / pl.col("total")).sum().alias("rates_equal_to_counts"),
        (pl.col("related_to").list.contains(pl.col("source")) == (pl.col("related") == 1))
        .sum()
        .alias("related_as_designed"),
    )
    for row in checked.iter_rows(named=True):
        for metric in ("rates_equal_to_counts", "related_as_designed"):
            yield comparison(FigureKey("rates", row["source"], metric), row["rows"], row[metric], 0.0)


def _recomputed(
    tables: Mapping[str, pl.DataFrame], pairs: pl.DataFrame, correlations: pl.DataFrame
) -> dict[FigureKey, float | None]:
    """Every statistic that a figure may name."""
    rates = tables["i66_marker_rates.csv"]
    facts = [
        *_correlation_facts(correlations),
        *_category_facts(pairs),
        *_rate_facts(rates),
        *_panel_facts(tables["i66_personas.csv"], rates),
    ]
    return {FigureKey(block, item, metric): value for block, item, metric, value in facts}


Fact = tuple[str, str, str, float | None]


def _correlation_facts(correlations: pl.DataFrame) -> Iterator[Fact]:
    for row in correlations.iter_rows(named=True):
        source, coefficient = row["source"], row["name"]
        yield "layers", f"{source} L{row['layer']}", METRIC[coefficient], row["estimate"]
        if row["layer"] == HEADLINE_LAYER:
            yield "headline", source, METRIC[coefficient], row["estimate"]
            yield "headline", source, f"{coefficient}_p", row["p"]
    best = best_layers(correlations, "spearman")
    for source in (*correlations["source"].unique(), POOLED):
        yield "layers", source, "best_layer", best.get(source)


def _category_facts(pairs: pl.DataFrame) -> Iterator[Fact]:
    import polars as pl

    headline = pairs.filter(pl.col("layer") == HEADLINE_LAYER)
    categories = category_table(headline).filter(pl.col("category") != ALL)
    ranked = categories.with_columns(pl.col("estimate").rank("min", descending=True).alias("rank"))
    for row in ranked.iter_rows(named=True):
        yield "categories", row["category"], "spearman_rho", row["estimate"]
        yield "categories", row["category"], "rank", row["rank"]
    for row in category_table(headline, intended_only=True).iter_rows(named=True):
        for metric, field in (("spearman_rho", "estimate"), ("spearman_p", "p"), ("n", "n")):
            yield "intended", row["category"], metric, row[field]


def _rate_facts(rates: pl.DataFrame) -> Iterator[Fact]:
    import polars as pl

    for (source,), own in rates.group_by("source", maintain_order=True):
        bystanders = own.filter(pl.col("is_source") == 0)
        itself = own.filter(pl.col("is_source") == 1)["rate"]
        share = bystanders["rate"]
        name = str(source)
        yield "headline", name, "source_pct", 100 * itself[0] if len(itself) else None
        yield "headline", name, "mean_bystander_pct", _percent(share.mean())
        yield "shape", name, "zero_bystanders", int((bystanders["found"] == 0).sum())
        yield "shape", name, "max_bystander_pct", _percent(share.max())
        yield (
            "shape",
            name,
            "bystanders_above_source",
            int((share > itself[0]).sum()) if len(itself) else None,
        )
        for persona, rate in bystanders.select("persona", "rate").iter_rows():
            yield "shape", f"{name} → {persona}", "rate_pct", _percent(rate)


def _panel_facts(personas: pl.DataFrame, rates: pl.DataFrame) -> Iterator[Fact]:
    import polars as pl

    bystanders = rates.filter(pl.col("is_source") == 0)
    intended = bystanders.filter(pl.col("related") == 1)
    yield "panel", ALL, "pairs", len(bystanders)
    yield "panel", ALL, "intended_pairs", len(intended)
    yield "panel", ALL, "personas", len(personas)
    for source, count in intended["source"].value_counts().iter_rows():
        yield "panel", source, "intended_pairs", count
    for category, count in personas["category"].value_counts().iter_rows():
        yield "panel", category, "personas", count
    words = personas["prompt_words"]
    yield "panel", "shortest prompt", "words", _number(words.min())
    yield "panel", "longest prompt", "words", _number(words.max())
    yield "panel", "median prompt", "words", _number(words.median())
    adapters = rates.group_by("source").agg(pl.col("total").sum())["total"]
    yield "panel", "all adapters", "completions", _number(adapters.sum())
    # One number for "each adapter" exists only where all adapters were asked as much.
    yield "panel", "each adapter", "completions", adapters[0] if adapters.n_unique() == 1 else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _percent(value: object) -> float | None:
    share = _number(value)
    return None if share is None else 100 * share
