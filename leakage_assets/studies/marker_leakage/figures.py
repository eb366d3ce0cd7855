"""The figures of marker leakage, from the tables of its analysis.

Plotly is imported where a figure is drawn: the definitions load this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from leakage_assets.statistics.result import Estimate, estimate_of
from leakage_assets.studies.drawings import Drawing, Tables, of_recipe
from leakage_assets.studies.study import Study

if TYPE_CHECKING:
    import plotly.graph_objects as go

TOP_BYSTANDERS = 10
ROLES = {"source": "the source itself", "mean_bystander": "mean bystander"}


def drawings(study: Study) -> tuple[Drawing[Study], ...]:
    """The planned figures in reading order."""
    recipe = study.plan.headline_recipe
    headline = f"a finished cell of recipe `{recipe}`"
    layer = f"`block_output({study.plan.primary_layer})`"
    return (
        Drawing(
            "scatter_by_source",
            f"**Leakage against base-model geometry, one panel per source** (recipe `{recipe}`, {layer}). A point is a "
            "bystander; intended ones were written to be related to the source. In each panel n counts bystanders.",
            _scatter_by_source,
            headline,
        ),
        Drawing(
            "scatter_pooled",
            f"**All pairs of source and bystander** (recipe `{recipe}`, {layer}). Bystanders repeat over sources, so "
            "p comes from a permutation of whole personas, and n counts personas.",
            _scatter_pooled,
            headline,
        ),
        Drawing(
            "layer_sensitivity",
            f"**The same correlation at every layer** (recipe `{recipe}`). The plan fixed {layer} beforehand.",
            _layer_sensitivity,
            f"a defined correlation of recipe `{recipe}` at two points or more",
        ),
        Drawing(
            "rates",
            f"**How often the marker is emitted** (recipe `{recipe}`, all seeds). Bars are bootstrap intervals over "
            "questions; a rate that no question varies has none.",
            _rates,
            headline,
        ),
        Drawing(
            "rates_by_recipe",
            "**The same rates for every finished recipe**, sources side by side.",
            _rates_by_recipe,
            "finished cells of two recipes",
        ),
        Drawing(
            "top_bystanders",
            f"**Who leaks most** (recipe `{recipe}`). Each panel shows a source and its bystanders with the highest "
            "rates, with Wilson intervals.",
            _top_bystanders,
            headline,
        ),
    )


def estimates(rows: pl.DataFrame, key: str) -> dict[str, Estimate]:
    """The estimates of a table by the value of a key column."""
    return {row[key]: estimate_of(row) for row in rows.iter_rows(named=True)}


def _bystander_pairs(study: Study, tables: Tables) -> pl.DataFrame:
    """Pairs of the headline recipe at the primary layer. Their intervals would hide the points: see the bars."""
    relation = pl.when(pl.col("related")).then(pl.lit("intended")).otherwise(pl.lit("not intended"))
    where = {"layer": study.plan.primary_layer, "is_source": False}
    pairs = of_recipe(tables["pairs"], study.plan.headline_recipe, **where)
    return pairs.with_columns(relation.alias("relation"))


def _scatter_by_source(study: Study, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.figures import scatter_by_source

    plan = study.plan
    pairs = _bystander_pairs(study, tables)
    rows = of_recipe(tables["correlations"], plan.headline_recipe, layer=plan.primary_layer, name="spearman")
    # Unrelated first: the few intended points are then drawn on top.
    ordered = pairs.sort("related", maintain_order=True)
    order = pl.Enum(list(study.sources))
    return scatter_by_source(
        ordered.sort(pl.col("source").cast(order), maintain_order=True),
        title="Bystanders: base-model cosine to the source and marker rate",
        x_title="centred cosine to the source",
        group="relation",
        estimates=estimates(rows, "source"),
    )


def _scatter_pooled(study: Study, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.figures import scatter_pooled

    return scatter_pooled(
        _bystander_pairs(study, tables),
        title="All pairs of source and bystander",
        x_title="centred cosine to the source",
        estimate=estimates(tables["headline"], "statistic")["pooled_spearman"],
    )


def _layer_sensitivity(study: Study, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.figures import layer_sensitivity

    rows = of_recipe(tables["correlations"], study.plan.headline_recipe, name="spearman")
    wanted = ["layer", "source", "estimate", "n"]
    return layer_sensitivity(
        rows.select(wanted) if rows.height else pl.DataFrame(schema=wanted),
        title="Rank correlation of cosine and marker rate, by layer",
    )


def _named_rates(study: Study, tables: Tables) -> pl.DataFrame:
    """Rates over all seeds, sources and roles in reading order."""
    rates = tables["rates"].filter(seed="all").rename({"estimate": "rate"})
    recipes = pl.Enum([r.name for r in study.recipes])
    order = [pl.col("source").cast(pl.Enum(list(study.sources))), pl.col("recipe").cast(recipes)]
    return rates.sort(order, maintain_order=True).with_columns(pl.col("role").replace(ROLES)).drop("n")


def _rates(study: Study, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.figures import rate_bars

    rates = of_recipe(_named_rates(study, tables), study.plan.headline_recipe)
    return rate_bars(rates.with_columns(pl.col("source").alias("condition")), title="Marker rate by source")


def _rates_by_recipe(study: Study, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.figures import MissingRowsError, rate_bars

    rates = _named_rates(study, tables)
    if rates["recipe"].n_unique() < 2:
        raise MissingRowsError("rates by recipe: one recipe")
    condition = pl.concat_str("source", pl.lit(" · "), "recipe").alias("condition")
    return rate_bars(rates.with_columns(condition), title="Marker rate by source and recipe")


def _top_bystanders(study: Study, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.figures import bystander_bars

    rates = of_recipe(tables["prompt_rates"], study.plan.headline_recipe)
    role = pl.when("is_source").then(pl.lit("the source itself")).when("related").then(pl.lit("intended bystander"))
    table = rates.with_columns(role.otherwise(pl.lit("other bystander")).alias("role"))
    parts = [
        pl.concat(
            [
                table.filter(source=source, is_source=True),
                table.filter(source=source, is_source=False)
                .sort("rate", descending=True, maintain_order=True)
                .head(TOP_BYSTANDERS),
            ]
        )
        for source in study.sources
    ]
    bars = pl.concat(parts).with_columns(pl.col("source").alias("condition"))
    return bystander_bars(bars, title="The bystanders that emit the marker most")
