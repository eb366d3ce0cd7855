"""The sections of the report of source rate, one function each."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from leakage_assets.reporting.report import (
    ABSENT,
    Block,
    Bound,
    Bullets,
    Column,
    Paragraph,
    Table,
)
from leakage_assets.studies.citations import RATE, RHO, Citations, Row, code_list
from leakage_assets.studies.report_parts import (
    WHY,
    N,
    P,
    estimate_columns,
    layer_list,
    published_elsewhere,
    published_figures,
    recipe_table,
    rows_of_table,
    sampling,
    table_of_rows,
)
from leakage_assets.studies.source_rate.design import NEW, REFERENCE, VENDOR_DEFAULT, SourceRatePlan

PUBLISHED_FILE = "source_rate.json"
PUBLISHED_NAMES = {REFERENCE: "helpful_assistant", VENDOR_DEFAULT: "qwen_default"}
"""How the write-up calls two of the sources."""

NAME = Column("name", "statistic")
INTERVAL = (Column("ci_low", "low", RHO), Column("ci_high", "high", RHO))


# ------------------------------------------------------------------ set-up


def design(cite: Citations) -> Iterator[Block]:
    fact, plan = cite.fact, cite.study.plan_as(SourceRatePlan)
    yield Bullets(
        (
            f"**Sources:** the line is drawn through {code_list(plan.fitted)}; it is to predict {code_list(plan.new)}.",
            f"**Panel:** {fact('panel', 'prompts')} prompts, {fact('panel', 'questions')} questions, "
            f"{fact('panel', 'completions')} completions of each, in all {fact('panel', 'size', spec=',d')} per "
            "adapter. A source's rate is read off its own prompt.",
            sampling(cite),
            f"**Training rows:** {fact('training_set', 'rows')} per adapter, {fact('training_set', 'positives')} of "
            f"the source (with the marker) and {fact('training_set', 'negatives')} of others (without): the base "
            f"model's answers to {fact('data', 'questions')} questions, drawn under the prompt of `{REFERENCE}` at "
            f"temperature {fact('data', 'temperature')}, the same for every prompt.",
            f"**Geometry:** hidden state of the last input token, averaged over the questions, centred on the panel; "
            f"primary layer {cite.planned('primary_layer')} of {layer_list(cite)} (block outputs, from zero); cosine "
            f"to `{plan.reference}`.",
            f"**Seeds planned:** {fact('coverage', 'seed_names')}.",
            f"**Statistics:** {cite.planned('permutations', spec=',d')} permutations where there are too many orders "
            f"to try all, resampling seed {cite.planned('resampling_seed')}.",
        )
    )
    yield recipe_table(cite)
    yield _negatives(cite)
    yield cite.context.training_row


def _negatives(cite: Citations) -> Table:
    """Under which prompts a condition's rows without marker are."""
    study = cite.study
    rows: list[Row] = [
        {"recipe": f"`{c.recipe}`", "source": f"`{c.source}`", "negatives": code_list(study.prompts_of(c)[1:])}
        for c in study.conditions
    ]
    columns = (Column("recipe", "recipe"), Column("source", "source"), Column("negatives", "negatives"))
    return Table(
        "The prompts of the rows without marker, drawn by a stable hash or as published.", columns, tuple(rows)
    )


# ------------------------------------------------------------------ the relation


def sources(cite: Citations) -> Iterator[Block]:
    yield from cite.figure("source_rate")
    columns = (
        Column("source", "source"),
        Column("category", "category"),
        Column("role", "role"),
        Column("cosine", "cosine", RHO),
        Column("tokens", "prompt tokens", "d"),
        Column("found", "with marker", ",d"),
        Column("total", "of", ",d"),
        Column("rate", "rate", RATE),
        Column("ci_low", "low", RATE, "Wilson interval, completions taken as independent"),
        Column("ci_high", "high", RATE),
    )
    caption = f"Every finished source (recipe `{cite.recipe}`, primary layer, all its seeds)."
    yield from rows_of_table(cite, "points", caption, columns, ["source"])


def predictions(cite: Citations) -> Iterator[Block]:
    line = (Column("sources", "drawn through"), NAME, Column("estimate", "estimate", "+.3f"), *INTERVAL, P, N, WHY)
    yield from rows_of_table(cite, "line", "The line at the primary layer.", line, ["sources", "name"])
    checks = (
        Column("target", "new source"),
        Column("observed", "observed", RATE),
        Column("predicted", "predicted", RATE),
        Column("half_width", "half width", RATE, "of its prediction interval"),
        Column("inside", "inside"),
        Column("deviation", "deviation", RHO, "observed less predicted"),
        Column("equivalence_p", "p, near the line", "p", "that the deviation exceeds the margin of the plan"),
        WHY,
    )
    yield from rows_of_table(
        cite, "predictions", "The new sources and the line through the fitted ones.", checks, ["target"]
    )
    held_out = cite.tables["refits"].filter(coverage="held_out_coverage")
    if held_out.height:
        caption = "Every source predicted from all others: the strict form of leaving one out."
        columns = (Column("target", "source"), *checks[1:5])
        yield table_of_rows(cite, "refits", held_out, caption, columns, ["coverage", "target"])


def by_layer(cite: Citations) -> Iterator[Block]:
    columns = (
        Column("layer", "block output", "d"),
        NAME,
        *estimate_columns("estimate", RHO),
        Column("p", "p, asymptotic", "p"),
        Column("p_bonferroni", "Bonferroni", "p", "the asymptotic p, over the layers"),
        Column("p_holm", "Holm", "p", "the same"),
        Column("p_permutation", "p, permutation", "p"),
        Column("p_permutation_holm", "Holm, permutation", "p"),
        N,
        WHY,
    )
    for label, words in (
        ("all", "All sources"),
        ("fitted", "The fitted sources alone"),
        ("without_reference", "All sources but the reference"),
    ):
        yield from rows_of_table(
            cite, "correlations", f"{words}, by layer.", columns, ["sources", "layer", "name"], sources=label
        )


def one_by_one(cite: Citations) -> Iterator[Block]:
    dropped = (Column("dropped", "without"), NAME, *estimate_columns("estimate", RHO), P, N, WHY)
    yield from rows_of_table(
        cite, "drop_one", "Each source left out in turn; p is asymptotic.", dropped, ["dropped", "name"]
    )
    pull = (
        Column("source", "source"),
        NAME,
        Column("estimate", "value", ".3f"),
        Column("threshold", "threshold", ".3f"),
        Column("flagged", "above"),
        WHY,
    )
    yield from rows_of_table(cite, "influence", "How much each source pulls at the line.", pull, ["source", "name"])


def lengths(cite: Citations) -> Iterator[Block]:
    yield Paragraph(
        "Length is the number of tokens of the prompt itself. Beyond a variance inflation of "
        f"{cite.planned('max_vif', '.0f')} length and cosine could not be told apart."
    )
    columns = (Column("statistic", "statistic"), *estimate_columns("estimate", RHO), P, N, WHY)
    yield from rows_of_table(cite, "length", "With prompt length held fixed.", columns, ["statistic"])


def other_rows(cite: Citations) -> Iterator[Block]:
    columns = (
        Column("recipe", "recipe"),
        Column("source", "source"),
        Column("seeds", "seeds", "d"),
        Column("found", "with marker", ",d"),
        Column("total", "of", ",d"),
        Column("rate", "rate", RATE),
        Column("ci_low", "low", RATE, "Wilson interval, completions taken as independent"),
        Column("ci_high", "high", RATE),
    )
    if not (cite.tables["rates"]["source"].is_in(NEW)).any():
        yield Paragraph("No cell of a source that is trained under several recipes is finished.")
        return
    rows = cite.tables["rates"].filter(pl.col("source").is_in(NEW))
    caption = "The new sources under every finished recipe."
    yield table_of_rows(cite, "rates", rows, caption, columns, ["recipe", "source"])


def within_categories(cite: Citations) -> Iterator[Block]:
    columns = (Column("category", "category"), NAME, *estimate_columns("estimate", RHO), P, N, WHY)
    yield from rows_of_table(
        cite, "categories", "The correlation within each category; p is asymptotic.", columns, ["category", "name"]
    )


def other_references(cite: Citations) -> Iterator[Block]:
    columns = (
        Column("reference", "reference"),
        NAME,
        *estimate_columns("estimate", RHO),
        P,
        Column("p_holm", "p, Holm", "p", "adjusted over the references"),
        N,
        WHY,
    )
    caption = "Cosine to each source in turn, which is left out itself; p is asymptotic."
    yield from rows_of_table(cite, "references", caption, columns, ["reference", "name"])


# ------------------------------------------------------------------ published


def published_and_this_run(cite: Citations) -> Iterator[Block]:
    yield published_elsewhere(
        cite,
        "The published study ran on `Qwen2.5-7B-Instruct` with one seed",
        "Published answers were written by another model, and most negatives drawn otherwise.",
    )
    known = published_figures(PUBLISHED_FILE)
    yield _published_sources(cite, known)
    yield from _published_layers(cite, known)


def _published_sources(cite: Citations, known: dict[tuple[str, str, str], Bound]) -> Table:
    columns = (
        Column("source", "source"),
        Column("cosine_published", "cosine, published"),
        Column("cosine", "this run"),
        Column("rate_published", "source rate, published (%)"),
        Column("rate", "this run"),
    )
    finished = set(cite.tables["points"]["source"])
    rows = []
    for source in cite.study.sources:
        item = PUBLISHED_NAMES.get(source, source)
        row: Row = {"source": f"`{source}`", "cosine": ABSENT, "rate": ABSENT}
        row["cosine_published"] = known["sources", item, "cosine_l20"]
        row["rate_published"] = known["sources", item, "rate_pct"]
        if source in finished:
            row["cosine"] = cite.bound("points", "cosine", RHO, source=source)
            row["rate"] = cite.bound("points", "rate", RATE, source=source)
        rows.append(row)
    return Table("Sources at the primary layer; a dash where one is not finished.", columns, tuple(rows))


def _published_layers(cite: Citations, known: dict[tuple[str, str, str], Bound]) -> Iterator[Table]:
    """Correlations over all sources, where this run has the published layers."""
    shared = [layer for layer in cite.plan.layers if ("layer_stats", f"L{layer} n12", "spearman_rho") in known]
    if not shared:
        return
    parts = (("rho", "spearman", "spearman_rho", "ρ"), ("r", "pearson", "pearson_r", "r"))
    columns = [Column("layer", "block output")]
    for key, _, _, label in parts:
        columns += [Column(f"{key}_published", f"{label}, published"), Column(key, "this run")]
    rows = []
    for layer in shared:
        row: Row = {"layer": f"`{layer}`"}
        for key, name, metric, _ in parts:
            row[f"{key}_published"] = known["layer_stats", f"L{layer} n12", metric]
            row[key] = cite.bound("correlations", "estimate", RHO, sources="all", layer=layer, name=name)
        rows.append(row)
    yield Table("Correlations over all sources, by layer.", tuple(columns), tuple(rows))
