"""The planned results in the report of marker leakage, one function per section.

By source, by layer, over seeds, by recipe, and where in the answer the marker stands.
"""

from __future__ import annotations

from collections.abc import Iterator

from leakage_assets.reporting.report import ABSENT, Block, Bound, Column, Table
from leakage_assets.statistics.layers import POOLED
from leakage_assets.studies.citations import RATE, RHO, Citations, Row
from leakage_assets.studies.marker_leakage.labels import source_name
from leakage_assets.studies.report_parts import table_of_rows


def geometry(cite: Citations) -> Iterator[Block]:
    yield from cite.figure("scatter_by_source")
    yield _by_source(cite)
    yield from cite.figure("scatter_pooled")


def _by_source(cite: Citations) -> Table:
    """The sheet's table: coefficients at the primary layer and rates, per source and pooled."""
    columns = (
        Column("source", "source"),
        Column("rho", "ρ", explanation="Spearman, over bystanders"),
        Column(
            "p",
            "p",
            explanation="asymptotic; for all pairs it takes them as independent, so prefer the headline table",
        ),
        Column("p_holm", "p, Holm", explanation="p of ρ adjusted over the sources of this table (exploratory)"),
        Column("r", "r", explanation="Pearson"),
        Column("n", "n", explanation="bystanders; pairs in the pooled row"),
        Column("own", "source rate"),
        Column("others", "mean bystander rate"),
        Column("ratio", "ratio", explanation="mean bystander rate over the source's own rate"),
    )
    rows = [source_row(cite, source) for source in (*cite.finished_sources(), POOLED)]
    return Table(f"Each source at the primary layer (recipe `{cite.recipe}`, all seeds).", columns, tuple(rows))


def source_row(cite: Citations, source: str) -> Row:
    """Coefficients and rates of a finished source, or of all pairs."""
    keys = {"recipe": cite.recipe, "layer": cite.plan.primary_layer, "source": source}
    row: Row = {
        "source": source_name(source),
        "rho": cite.bound("correlations", "estimate", RHO, **keys, name="spearman"),
        "p": cite.bound("correlations", "p", "p", **keys, name="spearman"),
        "p_holm": cite.bound("correlations", "p_holm", "p", **keys, name="spearman"),
        "r": cite.bound("correlations", "estimate", RHO, **keys, name="pearson"),
        "n": cite.bound("correlations", "n", "d", **keys, name="spearman"),
    }
    rates: Row = {"own": _rate(cite, source, "source"), "others": _rate(cite, source, "mean_bystander")}
    return row | rates | {"ratio": _ratio(cite, source)}


def _ratio(cite: Citations, source: str) -> Bound:
    if source == POOLED:
        return cite.bound("headline", "estimate", ".2f", statistic="bystander_to_source_ratio")
    return cite.bound("gating", "ratio", ".2f", recipe=cite.recipe, source=source)


def _rate(cite: Citations, source: str, role: str) -> Bound:
    if source == POOLED:
        statistic = {"source": "mean_source_rate", "mean_bystander": "mean_bystander_rate"}[role]
        return cite.bound("headline", "estimate", RATE, statistic=statistic)
    return cite.bound("rates", "estimate", RATE, recipe=cite.recipe, source=source, seed="all", role=role)


def leakage(cite: Citations) -> Iterator[Block]:
    yield from cite.figure("rates")
    yield from cite.figure("top_bystanders")


def by_layer(cite: Citations) -> Iterator[Block]:
    yield from cite.figure("layer_sensitivity")
    primary = cite.plan.primary_layer
    layers = [f"`{layer}`{' (primary)' if layer == primary else ''}" for layer in cite.plan.layers]
    columns = [Column("source", "source"), *(Column(str(i), label) for i, label in enumerate(layers))]
    rows = []
    for source in (*cite.finished_sources(), POOLED):
        row: Row = {"source": source_name(source)}
        for i, layer in enumerate(cite.plan.layers):
            row[str(i)] = cite.bound(
                "layers", "estimate", RHO, recipe=cite.recipe, source=source, name="spearman", layer=layer
            )
        rows.append(row)
    yield Table(
        f"Spearman ρ of cosine and marker rate by block output (recipe `{cite.recipe}`).",
        tuple(columns),
        tuple(rows),
    )


def by_recipe(cite: Citations) -> Iterator[Block]:
    yield from cite.figure("rates_by_recipe")
    columns = (
        Column("recipe", "recipe"),
        Column("source", "source"),
        Column("own", "source rate"),
        Column("others", "mean bystander rate"),
        Column("rho", "ρ", explanation="Spearman at the primary layer; not computed for the control"),
        Column("p", "p"),
        Column("p_holm", "p, Holm", explanation="adjusted over the sources of the recipe (exploratory)"),
    )
    cells = cite.tables["rates"].filter(seed="all").select("recipe", "source").unique()
    present = set(cells.iter_rows())
    order = [(r.name, source) for r in cite.study.recipes for source in cite.study.sources]
    rows = tuple(_recipe_row(cite, *cell) for cell in order if cell in present)
    yield Table("Every finished condition, all its seeds together.", columns, rows)


def _recipe_row(cite: Citations, recipe: str, source: str) -> Row:
    keys = {"recipe": recipe, "source": source}
    row: Row = {"recipe": f"`{recipe}`{cite.role(recipe)}", "source": f"`{source}`"}
    for key, role in (("own", "source"), ("others", "mean_bystander")):
        row[key] = cite.bound("rates", "estimate", RATE, **keys, seed="all", role=role)
    if recipe == cite.plan.control_recipe:
        return row | {"rho": ABSENT, "p": ABSENT, "p_holm": ABSENT}
    at = {"layer": cite.plan.primary_layer, "name": "spearman"}
    return row | {
        "rho": cite.bound("correlations", "estimate", RHO, **keys, **at),
        "p": cite.bound("correlations", "p", "p", **keys, **at),
        "p_holm": cite.bound("correlations", "p_holm", "p", **keys, **at),
    }


def positions(cite: Citations) -> Table:
    columns = (
        Column("recipe", "recipe"),
        Column("role", "prompt"),
        Column("position_class", "position of the marker"),
        Column("completions", "completions", ",d"),
        Column("share", "share", RATE),
        Column("truncated", "cut off", ",d", "completions that ran into the token limit, so that an end is missing"),
    )
    caption = "Position of the marker; shares add up within a recipe and role."
    keys = ["recipe", "role", "position_class"]
    return table_of_rows(cite, "positions", cite.tables["positions"], caption, columns, keys)
