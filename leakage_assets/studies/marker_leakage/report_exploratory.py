"""What the plan of marker leakage did not announce: categories, other predictors, out-of-distribution questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from leakage_assets.reporting.report import ABSENT, Block, Bound, Column, Paragraph, Table
from leakage_assets.statistics.layers import POOLED
from leakage_assets.studies.citations import RATE, RHO, Citations, Row
from leakage_assets.studies.marker_leakage.labels import HEADLINE, source_name


def categories(cite: Citations) -> Table:
    columns = (
        Column("category", "category"),
        Column("n", "pairs"),
        Column("rho", "ρ"),
        Column("p", "p"),
        Column("p_holm", "p, Holm", explanation="adjusted over the categories"),
        Column("n_intended", "intended pairs"),
        Column("rho_intended", "ρ, intended only"),
        Column("p_intended", "p, intended only"),
        Column("p_holm_intended", "p, Holm, intended only"),
    )
    rows = []
    for category in cite.rows("categories")["category"]:
        row: Row = {"category": f"`{category}`"}
        for table, suffix in (("categories", ""), ("intended", "_intended")):
            parts = (("n", "n", "d"), ("rho", "estimate", RHO), ("p", "p", "p"), ("p_holm", "p_holm", "p"))
            for key, column, spec in parts:
                row[key + suffix] = cite.bound(table, column, spec, recipe=cite.recipe, category=category)
        rows.append(row)
    caption = (
        f"Spearman ρ within each category of bystanders (recipe `{cite.recipe}`, primary layer, all sources); a "
        "dash where there are too few pairs or none of them varies. Pairs are taken as independent, which "
        "they are not."
    )
    return Table(caption, columns, tuple(rows))


def predictors(cite: Citations) -> Iterator[Block]:
    tuned = bool(cite.rows("tuned", layer=cite.plan.primary_layer).height)
    columns = [
        Column("source", "source"),
        Column("cosine", "ρ, base cosine"),
        Column(
            "js",
            "ρ, JS divergence",
            explanation="of next-token distributions; a distance, so leakage to close bystanders is negative",
        ),
    ]
    if tuned:
        columns.append(Column("tuned", "ρ, tuned cosine", explanation="centroids of each tuned model itself"))
    rows = []
    for source in (*cite.finished_sources(), POOLED):
        keys = {"recipe": cite.recipe, "source": source, "name": "spearman"}
        row: Row = {
            "source": source_name(source),
            "cosine": cite.bound("correlations", "estimate", RHO, **keys, layer=cite.plan.primary_layer),
            "js": cite.bound("divergence", "estimate", RHO, **keys),
        }
        if tuned:
            row["tuned"] = _tuned(cite, keys)
        rows.append(row)
    yield Table("Spearman ρ of other similarities with the marker rate.", tuple(columns), tuple(rows))
    if not tuned:
        yield Paragraph("The tuned models' own geometry has not been measured for this recipe.")


def _tuned(cite: Citations, keys: Mapping[str, Any]) -> str | Bound:
    """Tuned geometry exists only for some sources."""
    layer = cite.plan.primary_layer
    found = cite.rows("tuned", layer=layer, source=keys["source"]).height
    return cite.bound("tuned", "estimate", RHO, **keys, layer=layer) if found else ABSENT


def shape(cite: Citations) -> Table:
    columns = (
        Column("source", "source"),
        Column("bystanders", "bystanders"),
        Column("look_alike_from", "cosine of look-alikes", explanation="centred cosine to the source, at least"),
        Column("look_alikes", "look-alikes"),
        Column("zero_share", "at zero", explanation="bystanders that never said the marker"),
        Column("all", "ρ, all"),
        Column("rest", "ρ without look-alikes"),
        Column("p", "p without look-alikes"),
    )
    rows = []
    for source in (*cite.finished_sources(), POOLED):
        keys = {"recipe": cite.recipe, "source": source}
        parts = (("bystanders", "d"), ("look_alike_from", ".1f"), ("look_alikes", "d"), ("zero_share", RATE))
        row: Row = {column: cite.bound("shape", column, form, **keys) for column, form in parts}
        row |= {"source": source_name(source), "rest": cite.bound("shape", "estimate", RHO, **keys)}
        row["all"] = cite.bound("correlations", "estimate", RHO, **keys, name="spearman", layer=cite.plan.primary_layer)
        rows.append(row | {"p": cite.bound("shape", "p", "p", **keys)})
    caption = (
        "What the correlation rests on (primary layer). Look-alikes are prompts that the base model hardly tells from "
        "the source; without them ρ says whether the rest is ordered too. Pairs are taken as independent, which "
        "they are not."
    )
    return Table(caption, columns, tuple(rows))


def out_of_distribution(cite: Citations) -> Table:
    columns = (
        Column("question_set", "questions"),
        Column("label", "statistic"),
        Column("estimate", "estimate"),
        Column("ci_low", "low"),
        Column("ci_high", "high"),
        Column("p", "p"),
        Column("n", "n"),
        Column("unit", "counts"),
    )
    rows = []
    for question_set, statistic in cite.rows("ood").select("question_set", "statistic").iter_rows():
        label, spec = HEADLINE[statistic]
        keys = {"recipe": cite.recipe, "question_set": question_set, "statistic": statistic}
        specs = {"estimate": spec, "ci_low": spec, "ci_high": spec, "p": "p", "n": "d", "unit": ""}
        bound: Row = {column: cite.bound("ood", column, form, **keys) for column, form in specs.items()}
        rows.append(bound | {"question_set": f"`{question_set}`", "label": label})
    return Table(f"Questions unlike the training ones (recipe `{cite.recipe}`).", columns, tuple(rows))
