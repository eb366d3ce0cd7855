"""The planned analysis of trigger leakage: every table by name, the headline estimates, and the plan's verdicts.

Every function takes and returns polars tables; the unit of every n is in the estimate itself. Cells that are not
finished are left out, and what needs them is undefined for that reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import polars as pl

from leakage_assets.statistics.intervals import with_wilson
from leakage_assets.statistics.result import Estimate, estimate_of
from leakage_assets.statistics.seeds import seed_spread
from leakage_assets.studies.trigger_leakage.cells import (
    TriggerTables,
    axis_table,
    count_markers,
    of_recipe,
    rate_cells,
)
from leakage_assets.studies.trigger_leakage.design import TITRATED, TriggerPlan
from leakage_assets.studies.trigger_leakage.followups import (
    declarative_headline,
    declarative_table,
    dissociation_headline,
    dissociation_table,
)
from leakage_assets.studies.trigger_leakage.gates import (
    Labelled,
    change,
    change_over_sources,
    change_table,
    control_estimates,
    gating_headline,
    gating_table,
    labelled,
    persona_against_triggers,
    persona_table,
    pilot_table,
    titration_table,
)
from leakage_assets.studies.trigger_leakage.predictors import (
    RATIOS,
    coefficient_table,
    column_table,
    family_headline,
    family_table,
    fold_table,
    gap_headline,
    held_out_table,
    layer_table,
    predictor_table,
    semantic_leads,
)
from leakage_assets.studies.verdicts import headline_table, verdict_table


def analyse(plan: TriggerPlan, tables: TriggerTables) -> dict[str, pl.DataFrame]:
    """Every table of the study, by name; ``headline`` and ``verdicts`` are read by the report first."""
    counts = count_markers(plan, tables.scores)
    cells = rate_cells(plan, counts)
    axes = axis_table(plan, tables.similarity, plan.primary_layer)
    main = of_recipe(cells, plan.headline_recipe)
    columns = column_table(plan, main)
    headline = list(_headline(plan, tables, counts, cells, axes))
    headline.append(estimate_of(columns.row(by_predicate=pl.col("name") == RATIOS[0], named=True)))
    return {
        "headline": headline_table(plan.hypotheses, headline),
        "verdicts": verdict_table(plan.hypotheses, headline, plan.digest),
        "gating": gating_table(plan, counts),
        "pilot": pilot_table(plan, counts),
        "titration": titration_table(plan, counts),
        "changes": change_table(plan, counts),
        "persona": persona_table(plan, counts),
        "coefficients": coefficient_table(plan, main, axes),
        "held_out": held_out_table(plan, main, axes),
        "folds": fold_table(plan, main, axes),
        "columns": columns,
        "families": family_table(plan, main, axes),
        "layers": layer_table(plan, main, tables.similarity),
        "predictors": predictor_table(plan, cells, axes),
        "dissociation": dissociation_table(plan, tables.dissociation),
        "declarative": declarative_table(plan, cells, tables.declarative),
        "prompt_rates": prompt_rate_table(plan, cells),
        "axes": axes,
        "positions": position_table(plan, tables.scores),
        "seeds": seed_table(cells),
    }


def _headline(
    plan: TriggerPlan, tables: TriggerTables, counts: pl.DataFrame, cells: pl.DataFrame, axes: pl.DataFrame
) -> Iterator[Estimate]:
    main = of_recipe(cells, plan.headline_recipe)
    yield from gating_headline(plan, counts)
    yield from control_estimates(plan, counts)
    yield from gap_headline(plan, main, axes)
    yield family_headline(plan, main, axes)
    yield from semantic_leads(plan, cells, axes)
    yield persona_against_triggers(plan, counts, plan.matched_recipe)
    low, high = plan.titration[2:]
    yield from change_over_sources(plan, counts, low, high)
    for estimate in change(plan, counts, TITRATED, low, high):
        yield replace(estimate, name=f"{estimate.name}_titrated")
    yield from dissociation_headline(plan, tables.dissociation)
    yield declarative_headline(plan, cells, tables.declarative)


def prompt_rate_table(plan: TriggerPlan, cells: pl.DataFrame) -> pl.DataFrame:
    """Every (recipe, source, prompt), seeds together: what the heatmaps show.

    Columns: recipe, source, prompt_name, source_family, family, bucket, role_own, seeds, found, total, rate, ci_low,
    ci_high (Wilson, completions taken as independent).
    """
    keys = ["recipe", "source", "prompt_name", "source_family", "family", "bucket", "role_own"]
    summed = cells.group_by(keys, maintain_order=True).agg(
        pl.col("seed").n_unique().cast(pl.Int64).alias("seeds"), pl.col("found", "total").sum()
    )
    return with_wilson(summed, level=plan.level)


def position_table(plan: TriggerPlan, scores: pl.DataFrame) -> pl.DataFrame:
    """Where in the completion the marker stands, and how many completions were cut by the token limit (B13).

    Columns: recipe, source, prompt (own, other), position_class, completions, truncated, share.
    """
    own = pl.when(pl.col("prompt_name") == pl.col("source")).then(pl.lit("own")).otherwise(pl.lit("other"))
    keys = ["recipe", "source", "prompt"]
    counted = (
        scores.with_columns(own.alias("prompt"))
        .group_by(*keys, "position_class")
        .agg(pl.len().cast(pl.Int64).alias("completions"), pl.col("truncated").sum().cast(pl.Int64))
    )
    share = (pl.col("completions") / pl.col("completions").sum().over(keys)).alias("share")
    order = pl.col("source").cast(pl.Enum([*plan.triggers, plan.persona]))
    return counted.with_columns(share).sort("recipe", order, "prompt", "position_class")


def seed_table(cells: pl.DataFrame) -> pl.DataFrame:
    """How much the own rate and the mean bystander rate of a source vary over seeds: recipe, source, statistic, then
    those of ``Estimate``.
    """
    rows: list[Labelled] = []
    for (recipe, source), part in cells.group_by("recipe", "source", maintain_order=True):
        for name, kind in (("own_rate", "matched"), ("bystander_rate", "bystander")):
            means = part.filter(pl.col("role_own") == kind).group_by("seed").agg(pl.col("rate").mean())
            by_seed = {int(seed): float(rate) for seed, rate in means.iter_rows()}
            keys = {"recipe": recipe, "source": source, "statistic": name}
            rows += [(keys, e) for e in seed_spread(name, by_seed, bounds=(0.0, 1.0)).estimates()]
    return labelled(rows, "recipe", "source", "statistic")
