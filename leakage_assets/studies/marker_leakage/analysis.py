"""The planned analysis of marker leakage: rates, correlations with base-model geometry, and verdicts.

Every function takes and returns polars tables; the unit of every n is in the estimate itself. The rate of a (source,
persona) adds the counts of its seeds, all of which answer the same questions as often; the spread over seeds is
reported beside. Headline rates are means over sources (see ``rates``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import polars as pl

from leakage_assets.statistics.categories import ALL, category_table
from leakage_assets.statistics.centroid_bootstrap import QuestionCounts, centroid_bootstrap
from leakage_assets.statistics.intervals import wilson_bounds
from leakage_assets.statistics.layers import POOLED, correlation_table
from leakage_assets.statistics.layers import layer_sensitivity as sensitivity
from leakage_assets.statistics.multiplicity import with_holm
from leakage_assets.statistics.pooled import crossed_pairs, persona_clustered
from leakage_assets.statistics.result import Estimate, estimate_table
from leakage_assets.statistics.seeds import SeedSpread, no_spread, seed_spread
from leakage_assets.studies.marker_leakage.rates import (
    COUNTS,
    control_rate,
    gating_table,
    means_over_questions,
    no_cell,
    rate_headline,
    rate_table,
)
from leakage_assets.studies.marker_leakage.shape import shape_table
from leakage_assets.studies.marker_leakage.specification import MarkerLeakagePlan
from leakage_assets.studies.study import Study
from leakage_assets.studies.tables import StudyTables
from leakage_assets.studies.verdicts import headline_table, verdict_row

if TYPE_CHECKING:
    from leakage_assets.stimuli import Stimuli

COSINE, JS = "cosine", "js_divergence"
SEED_RANGES = {"spearman": (-1.0, 1.0), "source_rate": (0.0, 1.0)}
"""What is compared over seeds, and the values it can take."""

OOD_RATES = ("mean_source_rate", "mean_bystander_rate")


def analyse(study: Study, tables: StudyTables) -> dict[str, pl.DataFrame]:
    """Every table of the study, by name; ``headline`` and ``verdicts`` are read by the report first."""
    counts = count_markers(tables.scores)
    pairs = pair_table(study, tables.stimuli, counts, tables.similarity)
    headline = headline_estimates(study, tables, counts, pairs)
    results = {
        "headline": headline_table(study.plan.hypotheses, headline),
        "verdicts": verdict_table(study, {e.name: e for e in headline}),
        "rates": rate_table(study, counts),
        "gating": gating_table(study, counts),
        "prompt_rates": prompt_rate_table(pairs),
        "pairs": pairs,
        "correlations": by_recipe(study, pairs, _correlations),
        "categories": by_recipe(study, _primary(study, pairs), _categories),
        "intended": by_recipe(study, _primary(study, pairs), lambda t: _categories(t, intended_only=True)),
        "layers": by_recipe(study, pairs, lambda t: _sensitivity(study, t)),
        "shape": by_recipe(study, _primary(study, pairs), shape_table),
        "seeds": seed_table(study, tables),
        "positions": position_table(tables.scores),
        "divergence": by_recipe(study, divergence_pairs(study, tables, counts), _js_correlations),
    }
    if tables.tuned_similarity.height:
        results["tuned"] = by_recipe(study, tuned_pairs(study, tables, counts), _correlations)
    if tables.extra_scores.height:
        results["ood"] = ood_table(study, tables)
    return results


def count_markers(scores: pl.DataFrame) -> pl.DataFrame:
    """Completions with the marker and in all, per (recipe, source, seed, persona, question)."""
    keys = ["recipe", "source", "seed", "prompt_name", "question_name"]
    return (
        scores.group_by(keys)
        .agg(pl.col("marker_present").sum().cast(pl.Int64).alias("found"), pl.len().cast(pl.Int64).alias("total"))
        .rename({"prompt_name": "persona"})
        .sort("recipe", "source", "seed", "persona", "question_name")
    )


def pair_table(study: Study, stimuli: Stimuli, counts: pl.DataFrame, similarity: pl.DataFrame) -> pl.DataFrame:
    """One row per (recipe, layer, source, persona), seeds pooled: counts, rate, cosine, category, relation."""
    rates = _rates(stimuli, counts)
    cosines = similarity.filter(pl.col("measure") == COSINE).select(
        "layer", "source", pl.col("prompt_name").alias("persona"), pl.col("value").alias("cosine")
    )
    return _in_panel_order(study, rates.join(cosines, on=["source", "persona"], how="inner"))


def _rates(stimuli: Stimuli, counts: pl.DataFrame) -> pl.DataFrame:
    described = pl.DataFrame(
        {
            "persona": [p.name for p in stimuli.personas],
            "category": [p.category for p in stimuli.personas],
            "related_to": [list(p.related_to) for p in stimuli.personas],
        },
        schema_overrides={"related_to": pl.List(pl.String)},
    )
    rates = counts.group_by("recipe", "source", "persona").agg(
        pl.col("found").sum(), pl.col("total").sum(), pl.col("seed").n_unique().alias("seeds")
    )
    return (
        rates.join(described, on="persona", how="left", validate="m:1")
        .with_columns(
            (pl.col("found") / pl.col("total")).alias("rate"),
            (pl.col("persona") == pl.col("source")).alias("is_source"),
            pl.col("related_to").list.contains(pl.col("source")).alias("related"),
        )
        .drop("related_to")
    )


def _in_panel_order(study: Study, table: pl.DataFrame) -> pl.DataFrame:
    """Sources in the order of the study, personas in that of the panel, so that every run prints alike."""
    sources = pl.Enum(list(study.sources))
    personas = pl.Enum(list(study.panel.prompts))
    keys = [name for name in ("recipe", "layer") if name in table.columns]
    return table.sort(*map(pl.col, keys), pl.col("source").cast(sources), pl.col("persona").cast(personas))


def _primary(study: Study, pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.filter(pl.col("layer") == study.plan.primary_layer)


def by_recipe(study: Study, table: pl.DataFrame, make: Callable[[pl.DataFrame], pl.DataFrame]) -> pl.DataFrame:
    """``make`` applied to the rows of each recipe, with the recipe as first column; the control is left out."""
    parts = [
        make(part).select(pl.lit(recipe).alias("recipe"), pl.all())
        for (recipe,), part in table.group_by("recipe", maintain_order=True)
        if recipe != study.plan.control_recipe
    ]
    return pl.concat(parts) if parts else pl.DataFrame(schema={"recipe": pl.String})


def _correlations(pairs: pl.DataFrame, similarity: str = COSINE) -> pl.DataFrame:
    """Each coefficient at each layer, with p adjusted over the sources."""
    found = correlation_table(pairs, similarity=similarity)
    return with_holm(found, tests="source", families=["layer", "name"], total=POOLED)


def _categories(pairs: pl.DataFrame, *, intended_only: bool = False) -> pl.DataFrame:
    """Coefficients of all categories, with p adjusted over them."""
    found = category_table(pairs, intended_only=intended_only)
    return with_holm(found, tests="category", families=["name"], total=ALL)


def _sensitivity(study: Study, pairs: pl.DataFrame) -> pl.DataFrame:
    return sensitivity(correlation_table(pairs), primary_layer=study.plan.primary_layer)


def divergence_pairs(study: Study, tables: StudyTables, counts: pl.DataFrame) -> pl.DataFrame:
    """As ``pair_table`` with the JS divergence of next-token distributions in place of the cosine."""
    divergence = tables.similarity.filter(pl.col("measure") == JS).select(
        "source", pl.col("prompt_name").alias("persona"), pl.col("value").alias(JS)
    )
    rates = _rates(tables.stimuli, counts)
    joined = rates.join(divergence, on=["source", "persona"], how="inner", validate="m:1")
    return _in_panel_order(study, joined)


def _js_correlations(pairs: pl.DataFrame) -> pl.DataFrame:
    return _correlations(pairs.with_columns(pl.lit(None, pl.Int64).alias("layer")), JS)


def tuned_pairs(study: Study, tables: StudyTables, counts: pl.DataFrame) -> pl.DataFrame:
    """As ``pair_table`` with cosines read off each tuned model, averaged over its seeds.

    The rates are of the same cells: a seed whose tuned geometry was not measured does not count.
    """
    tuned = tables.tuned_similarity.filter((pl.col("measure") == COSINE) & (pl.col("source") == pl.col("cell_source")))
    cosines = tuned.group_by("recipe", "layer", "source", pl.col("prompt_name").alias("persona")).agg(
        pl.col("value").mean().alias("cosine")
    )
    measured = tuned.select("recipe", pl.col("cell_source").alias("source"), "seed").unique()
    rates = _rates(tables.stimuli, counts.join(measured, on=["recipe", "source", "seed"], how="semi"))
    joined = rates.join(cosines, on=["recipe", "source", "persona"], how="inner", validate="1:m")
    return _in_panel_order(study, joined)


def prompt_rate_table(pairs: pl.DataFrame) -> pl.DataFrame:
    """Every (recipe, source, persona) with its Wilson interval, seeds pooled."""
    rates = pairs.drop("layer", "cosine").unique(["recipe", "source", "persona"], maintain_order=True)
    low, high = wilson_bounds(rates["found"], rates["total"])
    return rates.with_columns(pl.Series("ci_low", low), pl.Series("ci_high", high))


def headline_estimates(study: Study, tables: StudyTables, counts: pl.DataFrame, pairs: pl.DataFrame) -> list[Estimate]:
    """What the hypotheses and the summary of the report are read from, for the headline recipe."""
    plan = study.plan
    kept = counts.filter(pl.col("recipe") == plan.headline_recipe)
    control = counts.filter(pl.col("recipe") == plan.control_recipe)
    return [
        *_correlation_headline(study, tables, kept, pairs),
        *rate_headline(study, kept),
        control_rate(study, control),
    ]


def _correlation_headline(
    study: Study, tables: StudyTables, counts: pl.DataFrame, pairs: pl.DataFrame
) -> Iterator[Estimate]:
    plan = study.plan_as(MarkerLeakagePlan)
    primary = _primary(study, pairs).filter(pl.col("recipe") == plan.headline_recipe)
    names = ("pooled_spearman", "within_source_spearman")
    if primary.is_empty():
        for name in (*names, "pooled_spearman_question_bootstrap", "pooled_spearman_js"):
            yield no_cell(name, plan.headline_recipe)
        return
    crossed = crossed_pairs(primary)
    for name, ranking in zip(names, ("pooled", "within_source"), strict=True):
        yield persona_clustered(
            crossed,
            ranking,  # type: ignore[arg-type]
            seed=plan.resampling_seed,
            draws=plan.permutations,
            bootstrap_draws=plan.bootstrap_draws,
            name=name,
        )
    sources = list(crossed.sources)
    yield centroid_bootstrap(
        sources,
        study.panel.prompts,
        tables.vectors(plan.primary_layer),
        _counts_array(study, tables.stimuli, counts, sources),
        seed=plan.resampling_seed,
        draws=plan.bootstrap_draws,
        name="pooled_spearman_question_bootstrap",
    )["pooled"]
    yield persona_clustered(
        crossed_pairs(divergence_pairs(study, tables, counts), similarity=JS),
        "pooled",
        seed=plan.resampling_seed,
        draws=plan.permutations,
        bootstrap_draws=plan.bootstrap_draws,
        name="pooled_spearman_js",
    )


def _counts_array(study: Study, stimuli: Stimuli, counts: pl.DataFrame, sources: list[str]) -> QuestionCounts:
    """Counts as (sources, personas, questions) in the order of the hidden vectors."""
    order = (
        pl.DataFrame({"source": sources})
        .join(pl.DataFrame({"persona": list(study.panel.prompts)}), how="cross")
        .join(pl.DataFrame({"question_name": [q.name for q in study.questions(stimuli)]}), how="cross")
    )
    summed = counts.group_by("source", "persona", "question_name").agg(pl.col("found", "total").sum())
    keys = ["source", "persona", "question_name"]
    table = order.join(summed, on=keys, how="left", maintain_order="left").fill_null(0)
    shape = (len(sources), len(study.panel.prompts), -1)
    return QuestionCounts(table["found"].to_numpy().reshape(shape), table["total"].to_numpy().reshape(shape))


def verdict_table(study: Study, headline: Mapping[str, Estimate]) -> pl.DataFrame:
    """Each hypothesis of the plan against its threshold; an undefined statistic decides nothing."""
    rows = []
    for hypothesis in study.plan.hypotheses:
        estimate = headline[hypothesis.statistic]
        to_come = _sources_to_come(study, estimate)
        rows.append(verdict_row(hypothesis, estimate, study.plan.digest, sources_to_come=to_come))
    return pl.DataFrame(rows)


def _sources_to_come(study: Study, estimate: Estimate) -> int:
    """By how much a count of sources could still rise."""
    return len(study.sources) - estimate.n if estimate.name in COUNTS else 0


def seed_table(study: Study, tables: StudyTables) -> pl.DataFrame:
    """Spread over seeds of the correlations at the primary layer and of the source rates.

    A correlation over all pairs is compared only between seeds with the same sources: between others it would differ
    even if seeds did not matter.
    """
    by_seed: dict[tuple[str, str, str], dict[int, float | None]] = {}
    covered: dict[str, dict[int, set[str]]] = {}
    for (recipe, seed), scores in tables.scores.group_by("recipe", "seed", maintain_order=True):
        if recipe == study.plan.control_recipe:
            continue
        pairs = _primary(study, pair_table(study, tables.stimuli, count_markers(scores), tables.similarity))
        covered.setdefault(recipe, {})[seed] = set(pairs["source"])
        correlations = correlation_table(pairs).filter(pl.col("name") == "spearman")
        for row in correlations.iter_rows(named=True):
            by_seed.setdefault((recipe, "spearman", row["source"]), {})[seed] = row["estimate"]
        for row in pairs.filter("is_source").iter_rows(named=True):
            by_seed.setdefault((recipe, "source_rate", row["source"]), {})[seed] = row["rate"]
    return estimate_table(
        ({"recipe": recipe, "statistic": statistic, "source": source}, estimate)
        for (recipe, statistic, source), values in by_seed.items()
        for estimate in _spread(statistic, source, values, covered[recipe]).estimates()
    )


def _spread(
    statistic: str, source: str, values: Mapping[int, float | None], covered: Mapping[int, set[str]]
) -> SeedSpread:
    bounds = SEED_RANGES[statistic]
    if source != POOLED:
        return seed_spread(statistic, values, bounds=bounds)
    every = set().union(*covered.values())
    alike = {seed: value for seed, value in values.items() if covered[seed] == every}
    partial = sorted(values.keys() - alike.keys())
    if not partial:
        return seed_spread(statistic, values, bounds=bounds)
    if len(alike) < 2:
        return no_spread(statistic, "the seeds cover different sources", values)
    note = f"left out, because a source is missing: {', '.join(map(str, partial))}"
    return seed_spread(statistic, alike, bounds=bounds, note=note)


def position_table(scores: pl.DataFrame) -> pl.DataFrame:
    """Where in the completion the marker stands, per recipe and role; completions cut by the token limit beside."""
    role = pl.when(pl.col("prompt_name") == pl.col("source")).then(pl.lit("source")).otherwise(pl.lit("bystander"))
    grouped = scores.with_columns(role.alias("role")).group_by("recipe", "role", "position_class")
    counted = grouped.agg(pl.len().cast(pl.Int64).alias("completions"), pl.col("truncated").sum().cast(pl.Int64))
    whole = pl.col("completions").sum().over("recipe", "role")
    return counted.with_columns((pl.col("completions") / whole).alias("share")).sort("recipe", "role", "position_class")


def ood_table(study: Study, tables: StudyTables) -> pl.DataFrame:
    """Exploratory: source and bystander rates and pooled correlation on each out-of-distribution question set."""
    plan = study.plan_as(MarkerLeakagePlan)
    rows = []
    for (recipe, question_set), scores in tables.extra_scores.group_by("recipe", "question_set", maintain_order=True):
        if recipe == plan.control_recipe:
            continue
        counts = count_markers(scores)
        pairs = _primary(study, pair_table(study, tables.stimuli, counts, tables.similarity))
        crossed = crossed_pairs(pairs)
        keys = {"recipe": recipe, "question_set": question_set}
        rows += [(keys | {"statistic": e.name}, e) for e in means_over_questions(plan, counts) if e.name in OOD_RATES]
        rho = "pooled_spearman"
        found_rho = persona_clustered(
            crossed,
            "pooled",
            seed=plan.resampling_seed,
            draws=plan.permutations,
            bootstrap_draws=plan.bootstrap_draws,
            name=rho,
        )
        rows.append((keys | {"statistic": rho}, found_rho))
    return estimate_table(rows)
