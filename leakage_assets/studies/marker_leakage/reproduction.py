"""Recomputes every published statistic of marker_leakage (#66) from its published counts and cosines.

The correlations come from the functions that analyse a live run, so agreement here is agreement there.
Headline figures that the write-up prints stand in ``data/published/marker_leakage.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from leakage_assets.exceptions import ExpectedError
from leakage_assets.paths import DATA
from leakage_assets.statistics.categories import ALL, category_table
from leakage_assets.statistics.layers import POOLED, best_layers, correlation_table
from leakage_assets.statistics.result import StatisticsError

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


class ReproductionError(ExpectedError):
    """The published files or the typed-in figures cannot be used. Names the file and the remedy."""


class Known(BaseModel):
    """Where the sheet itself says that the write-up is wrong: the ambiguity's number and the right value."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    by: str
    value: float


class Figure(BaseModel):
    """A printed number: ``precision`` is one unit of its last printed digit, 0 for a count."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    block: str
    item: str
    metric: str
    value: float
    precision: float
    where: str
    relation: Literal["equals", "at_least"] = "equals"
    known: Known | None = None

    @property
    def key(self) -> FigureKey:
        return FigureKey(self.block, self.item, self.metric)

    @property
    def tolerance(self) -> float:
        """Half a printed unit, or what the rounded cosines cost where that is more."""
        rounding = {
            "spearman_rho": RHO_TOLERANCE,
            "pearson_r": RHO_TOLERANCE,
            "spearman_p": P_TOLERANCE["spearman"] * self.value,
        }
        return max(self.precision / 2, rounding.get(self.metric, 0.0))


class FigureKey(NamedTuple):
    """What a figure is about."""

    block: str
    item: str
    metric: str


class Headline(BaseModel):
    """The figures of one study."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    study: str
    issue: int
    sheet: str
    figures: tuple[Figure, ...]


def reproduce(published: Path) -> pl.DataFrame:
    """Published beside recomputed, one row per statistic.

    Columns: block, item, metric, published, recomputed, difference (recomputed - published), tolerance
    (absolute), verdict: ``ok``, ``DIFFERS``, ``undefined`` (the data give no number), or ``known: A4`` where
    the write-up contradicts its own data as the sheet says. ``published`` is the folder of the ``i66_*.csv``
    files.

    Raises ``ReproductionError`` for a missing folder or file, missing columns, or cells that are not numbers.
    """
    import polars as pl

    tables = {name: _read(published, name) for name in COLUMNS}
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
        *(_figure_row(figure, recomputed) for figure in headline_figures().figures),
    ]
    number = dict.fromkeys(("published", "recomputed", "difference", "tolerance"), pl.Float64)
    return pl.DataFrame(rows, schema_overrides=number, infer_schema_length=None)


def headline_figures(path: Path = FIGURES) -> Headline:
    """The typed-in figures, validated. Raises ``ReproductionError`` naming the file and the field."""
    if not path.is_file():
        raise ReproductionError(f"{path}: missing; it is part of the repository: git checkout -- {path.name}")
    try:
        return Headline.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "top level"
        raise ReproductionError(f"{path}: {place}: {first['msg']}") from error


def _read(published: Path, name: str) -> pl.DataFrame:
    import polars as pl

    remedy = "give the folder that holds the published i66_*.csv files (see its README)"
    if not published.is_dir():
        raise ReproductionError(f"{published}: no such folder; {remedy}")
    path = published / name
    if not path.is_file():
        raise ReproductionError(f"{path}: no such file; {remedy}")
    try:
        header = pl.read_csv(path, n_rows=0).columns
        absent = [column for column in COLUMNS[name] if column not in header]
        if absent:
            raise ReproductionError(
                f"{path}: no column {', '.join(map(repr, absent))}; it has {', '.join(header)}; {remedy}"
            )
        types = {int: pl.Int64, float: pl.Float64, str: pl.String}
        schema = {column: types[kind] for column, kind in COLUMNS[name].items()}
        table = pl.read_csv(path, schema_overrides=schema, columns=list(schema))
    except pl.exceptions.PolarsError as error:
        raise ReproductionError(f"{path}: {str(error).splitlines()[0]}; {remedy}") from error
    for column in table.columns:
        if column not in MAY_BE_EMPTY and table[column].null_count():
            line = int(table[column].is_null().arg_true()[0]) + 2
            raise ReproductionError(f"{path}:{line}: {column!r} is empty; fetch the file again")
    return table


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
            yield _row(FigureKey("correlations", item, metric), row[metric], found["estimate"], RHO_TOLERANCE)
            yield _row(FigureKey("correlations", item, metric_p), row[metric_p], found["p"], tolerance)
        yield _row(FigureKey("correlations", item, "n"), row["n"], found["n"], 0.0)


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
            yield _row(FigureKey("rates", row["source"], metric), row["rows"], row[metric], 0.0)


def _figure_row(figure: Figure, recomputed: Mapping[FigureKey, float | None]) -> dict[str, object]:
    if figure.key not in recomputed:
        raise ReproductionError(
            f"{FIGURES}: the published files give no {' / '.join(figure.key)}; fetch them again, or correct the entry"
        )
    ours = recomputed[figure.key]
    row = _row(figure.key, figure.value, ours, figure.tolerance, at_least=figure.relation == "at_least")
    # Only the correction that the sheet gives excuses a claim of the write-up; any other differs.
    if figure.known and ours is not None and _within(ours - figure.known.value, figure.tolerance, ours):
        row["verdict"] = f"known: {figure.known.by}"
    return row


def _row(
    key: FigureKey, published: float, recomputed: float | None, tolerance: float, *, at_least: bool = False
) -> dict[str, object]:
    difference, verdict = None, "undefined"
    if recomputed is not None:
        difference = recomputed - published
        if at_least:
            difference = min(0.0, difference)
        verdict = "ok" if _within(difference, tolerance, published) else "DIFFERS"
    numbers = {"published": published, "recomputed": recomputed, "difference": difference}
    return {**key._asdict(), **numbers, "tolerance": tolerance, "verdict": verdict}


def _within(difference: float, tolerance: float, scale: float) -> bool:
    """Up to the last bits of a number of that size: 10.75 printed as 10.8 is within half a unit."""
    return abs(difference) <= tolerance + 1e-12 * abs(scale)


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
