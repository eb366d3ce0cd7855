"""The planned analysis of marker leakage: rates, correlations with base-model geometry, and verdicts.

Every function takes and returns polars tables; the unit of every n is in the estimate itself. Seeds are pooled by
adding counts, and their spread is reported beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from leakage_assets.statistics.categories import category_table
from leakage_assets.statistics.centroid_bootstrap import QuestionCounts, centroid_bootstrap
from leakage_assets.statistics.intervals import question_bootstrap_rate, wilson_bounds
from leakage_assets.statistics.layers import correlation_table
from leakage_assets.statistics.layers import layer_sensitivity as sensitivity
from leakage_assets.statistics.pooled import crossed_pairs, persona_clustered
from leakage_assets.statistics.resampling import cluster_weights, percentile_interval
from leakage_assets.statistics.result import Estimate, estimate_table, undefined, with_interval
from leakage_assets.statistics.seeds import seed_spread
from leakage_assets.studies.study import Hypothesis, Study
from leakage_assets.studies.tables import StudyTables

if TYPE_CHECKING:
    from leakage_assets.stimuli import Stimuli

COSINE, JS = "cosine", "js_divergence"
ENOUGH = 0.4
"""The source rate from which a marker counts as learned (hypothesis H3)."""


def analyse(study: Study, tables: StudyTables) -> dict[str, pl.DataFrame]:
    """Every table of the study, by name; ``headline`` and ``verdicts`` are read by the report first."""
    counts = count_markers(tables.scores)
    pairs = pair_table(study, tables.stimuli, counts, tables.similarity)
    headline = headline_estimates(study, tables, counts, pairs)
    results = {
        "headline": estimate_table(({"statistic": e.name}, e) for e in headline),
        "verdicts": verdict_table(study, {e.name: e for e in headline}),
        "rates": rate_table(study, counts),
        "prompt_rates": prompt_rate_table(pairs),
        "pairs": pairs,
        "correlations": by_recipe(study, pairs, correlation_table),
        "categories": by_recipe(study, _primary(study, pairs), category_table),
        "intended": by_recipe(study, _primary(study, pairs), lambda t: category_table(t, intended_only=True)),
        "layers": by_recipe(study, pairs, lambda t: _sensitivity(study, t)),
        "seeds": seed_table(study, tables),
        "positions": position_table(tables.scores),
        "divergence": by_recipe(study, divergence_pairs(study, tables, counts), _js_correlations),
    }
    if tables.tuned_similarity.height:
        results["tuned"] = by_recipe(study, tuned_pairs(study, tables, counts), correlation_table)
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
    return correlation_table(pairs.with_columns(pl.lit(None, pl.Int64).alias("layer")), similarity=JS)


def tuned_pairs(study: Study, tables: StudyTables, counts: pl.DataFrame) -> pl.DataFrame:
    """As ``pair_table`` with cosines read off each tuned model, averaged over its seeds."""
    tuned = tables.tuned_similarity.filter((pl.col("measure") == COSINE) & (pl.col("source") == pl.col("cell_source")))
    cosines = tuned.group_by("recipe", "layer", "source", pl.col("prompt_name").alias("persona")).agg(
        pl.col("value").mean().alias("cosine")
    )
    rates = _rates(tables.stimuli, counts)
    joined = rates.join(cosines, on=["recipe", "source", "persona"], how="inner", validate="1:m")
    return _in_panel_order(study, joined)


def prompt_rate_table(pairs: pl.DataFrame) -> pl.DataFrame:
    """Every (recipe, source, persona) with its Wilson interval, seeds pooled."""
    rates = pairs.drop("layer", "cosine").unique(["recipe", "source", "persona"], maintain_order=True)
    low, high = wilson_bounds(rates["found"], rates["total"])
    return rates.with_columns(pl.Series("ci_low", low), pl.Series("ci_high", high))


def _question_counts(counts: pl.DataFrame, own: bool) -> tuple[np.ndarray, np.ndarray]:
    """Found and total per question, over sources' own prompts or over all bystanders: (Q,) each."""
    which = (pl.col("persona") == pl.col("source")) == own
    per_question = counts.filter(which).group_by("question_name").agg(pl.col("found", "total").sum())
    ordered = per_question.sort("question_name")
    return ordered["found"].to_numpy(), ordered["total"].to_numpy()


def rate_table(study: Study, counts: pl.DataFrame) -> pl.DataFrame:
    """Source rate and mean bystander rate of every cell and of all seeds together, by question-cluster bootstrap."""
    plan = study.plan
    rows = []
    for (recipe, source), cell in counts.group_by("recipe", "source", maintain_order=True):
        seeds = [(str(seed), part) for (seed,), part in cell.group_by("seed", maintain_order=True)]
        for label, part in [("all", cell), *seeds]:
            for role, own in (("source", True), ("mean_bystander", False)):
                found, total = _question_counts(part, own)
                estimate = question_bootstrap_rate(
                    role, found, total, seed=plan.resampling_seed, draws=plan.bootstrap_draws
                )
                keys = {"recipe": recipe, "source": source, "seed": label, "role": role}
                rows.append((keys | {"found": int(found.sum()), "total": int(total.sum())}, estimate))
    return estimate_table(rows)


def headline_estimates(study: Study, tables: StudyTables, counts: pl.DataFrame, pairs: pl.DataFrame) -> list[Estimate]:
    """What the hypotheses and the summary of the report are read from, for the headline recipe."""
    plan = study.plan
    kept = counts.filter(pl.col("recipe") == plan.headline_recipe)
    control = counts.filter(pl.col("recipe") == plan.control_recipe)
    return [
        *_correlation_headline(study, tables, kept, pairs),
        *_rate_headline(study, kept),
        _control(study, control),
    ]


def _correlation_headline(
    study: Study, tables: StudyTables, counts: pl.DataFrame, pairs: pl.DataFrame
) -> Iterator[Estimate]:
    plan = study.plan
    primary = _primary(study, pairs).filter(pl.col("recipe") == plan.headline_recipe)
    names = ("pooled_spearman", "within_source_spearman")
    if primary.is_empty():
        for name in (*names, "pooled_spearman_question_bootstrap", "pooled_spearman_js"):
            yield _nothing(name, plan.headline_recipe)
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


def _rate_headline(study: Study, counts: pl.DataFrame) -> Iterator[Estimate]:
    plan = study.plan
    if counts.is_empty():
        for name in ("mean_source_rate", "mean_bystander_rate", "bystander_to_source_ratio", "sources_learned"):
            yield _nothing(name, plan.headline_recipe)
        return
    own, others = _question_counts(counts, own=True), _question_counts(counts, own=False)
    for name, (found, total) in (("mean_source_rate", own), ("mean_bystander_rate", others)):
        yield question_bootstrap_rate(name, found, total, seed=plan.resampling_seed, draws=plan.bootstrap_draws)
    yield _ratio(study, own, others)
    rates = counts.filter(pl.col("persona") == pl.col("source")).group_by("source").agg(pl.col("found", "total").sum())
    learned = int((rates["found"] / rates["total"] >= ENOUGH).sum())
    method = f"number of sources whose rate over all seeds is at least {ENOUGH:.0%}"
    yield Estimate("sources_learned", learned, None, None, None, None, rates.height, "source", method)


def _ratio(study: Study, own: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> Estimate:
    """Mean bystander rate over source rate; both rates see the same draw of questions."""
    plan, name = study.plan, "bystander_to_source_ratio"
    questions = len(own[0])
    resamples = f"{plan.bootstrap_draws} resamples, seed {plan.resampling_seed}"
    method = f"ratio of rates; question-cluster bootstrap, percentile, {resamples}"
    if own[0].sum() == 0:
        return undefined(name, "the source rate is 0", n=questions, unit="question cluster", method=method)
    weights = cluster_weights(questions, plan.bootstrap_draws, plan.resampling_seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        top, bottom = ((weights @ found) / (weights @ total) for found, total in (others, own))
        draws = np.where(bottom > 0, top / bottom, np.nan)
    value = (others[0].sum() / others[1].sum()) / (own[0].sum() / own[1].sum())
    interval = percentile_interval(draws, 0.95)
    return with_interval(name, value, interval, level=0.95, p=None, n=questions, unit="question cluster", method=method)


def _control(study: Study, counts: pl.DataFrame) -> Estimate:
    name = "control_marker_rate"
    if counts.is_empty():
        return _nothing(name, study.plan.control_recipe)
    found, total = int(counts["found"].sum()), int(counts["total"].sum())
    low, high = wilson_bounds([found], [total])
    method = "share of all completions of the control cells; Wilson score interval"
    return Estimate(name, found / total, float(low[0]), float(high[0]), 0.95, None, total, "completion", method)


def _nothing(name: str, recipe: str) -> Estimate:
    return undefined(name, f"no finished cell of recipe {recipe}", n=0, unit="cell", method="not run")


def verdict_table(study: Study, headline: Mapping[str, Estimate]) -> pl.DataFrame:
    """Each hypothesis of the plan against its threshold; an undefined statistic decides nothing."""
    return pl.DataFrame([_verdict(study, h, headline[h.statistic]) for h in study.plan.hypotheses])


def _verdict(study: Study, hypothesis: Hypothesis, estimate: Estimate) -> dict[str, object]:
    return {
        "hypothesis": hypothesis.name,
        "claim": hypothesis.claim,
        "statistic": hypothesis.statistic,
        "estimate": estimate.estimate,
        "p": estimate.p,
        "threshold": hypothesis.threshold,
        "direction": hypothesis.direction,
        "max_p": hypothesis.max_p,
        "verdict": decide(hypothesis, estimate),
        "plan_digest": study.plan.digest,
    }


def decide(hypothesis: Hypothesis, estimate: Estimate) -> str:
    """``supported``, ``not supported`` or ``undecided``, from the plan's threshold and nothing else."""
    value = estimate.estimate
    if value is None or (hypothesis.max_p is not None and estimate.p is None):
        return "undecided"
    beyond = {
        "greater": value > hypothesis.threshold,
        "at_least": value >= hypothesis.threshold,
        "less": value < hypothesis.threshold,
        "at_most": value <= hypothesis.threshold,
    }[hypothesis.direction]
    certain = hypothesis.max_p is None or (estimate.p is not None and estimate.p < hypothesis.max_p)
    return "supported" if beyond and certain else "not supported"


def seed_table(study: Study, tables: StudyTables) -> pl.DataFrame:
    """Spread over seeds of the correlations at the primary layer and of the source rates."""
    by_seed: dict[tuple[str, str, str], dict[int, float | None]] = {}
    for (recipe, seed), scores in tables.scores.group_by("recipe", "seed", maintain_order=True):
        if recipe == study.plan.control_recipe:
            continue
        pairs = _primary(study, pair_table(study, tables.stimuli, count_markers(scores), tables.similarity))
        correlations = correlation_table(pairs).filter(pl.col("name") == "spearman")
        for row in correlations.iter_rows(named=True):
            by_seed.setdefault((recipe, "spearman", row["source"]), {})[seed] = row["estimate"]
        for row in pairs.filter("is_source").iter_rows(named=True):
            by_seed.setdefault((recipe, "source_rate", row["source"]), {})[seed] = row["rate"]
    return estimate_table(
        ({"recipe": recipe, "statistic": statistic, "source": source}, estimate)
        for (recipe, statistic, source), values in by_seed.items()
        for estimate in seed_spread(statistic, values).estimates()
    )


def position_table(scores: pl.DataFrame) -> pl.DataFrame:
    """Where in the completion the marker stands, per recipe and role; completions cut by the token limit beside."""
    role = pl.when(pl.col("prompt_name") == pl.col("source")).then(pl.lit("source")).otherwise(pl.lit("bystander"))
    grouped = scores.with_columns(role.alias("role")).group_by("recipe", "role", "position_class")
    counted = grouped.agg(pl.len().cast(pl.Int64).alias("completions"), pl.col("truncated").sum().cast(pl.Int64))
    whole = pl.col("completions").sum().over("recipe", "role")
    return counted.with_columns((pl.col("completions") / whole).alias("share")).sort("recipe", "role", "position_class")


def ood_table(study: Study, tables: StudyTables) -> pl.DataFrame:
    """Exploratory: source and bystander rates and pooled correlation on each out-of-distribution question set."""
    plan = study.plan
    rows = []
    for (recipe, question_set), scores in tables.extra_scores.group_by("recipe", "question_set", maintain_order=True):
        if recipe == plan.control_recipe:
            continue
        counts = count_markers(scores)
        pairs = _primary(study, pair_table(study, tables.stimuli, counts, tables.similarity))
        crossed = crossed_pairs(pairs)
        keys = {"recipe": recipe, "question_set": question_set}
        for name, own in (("source_rate", True), ("mean_bystander_rate", False)):
            found, total = _question_counts(counts, own)
            rate = question_bootstrap_rate(name, found, total, seed=plan.resampling_seed, draws=plan.bootstrap_draws)
            rows.append((keys | {"statistic": name}, rate))
        rho = "pooled_spearman"
        found_rho = persona_clustered(crossed, "pooled", seed=plan.resampling_seed, draws=plan.permutations, name=rho)
        rows.append((keys | {"statistic": rho}, found_rho))
    return estimate_table(rows)
