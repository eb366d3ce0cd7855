"""How often the marker is emitted: rates of cells and sources, and what the headline says of them.

A source's rate is the mean over its seeds, and the headline rates are means over sources: neither a source with more
finished seeds nor one with more completions weighs more than another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import polars as pl

from leakage_assets.statistics.intervals import mean_rates, question_bootstrap_rate, wilson_rate
from leakage_assets.statistics.resampling import Floats, cluster_weights, percentile_interval
from leakage_assets.statistics.result import Estimate, estimate_table, undefined, with_interval
from leakage_assets.studies.marker_leakage.specification import MarkerLeakagePlan
from leakage_assets.studies.study import Study

LEVEL = 0.95
MEANS = ("mean_source_rate", "mean_bystander_rate", "bystander_to_source_ratio")
OVER_SOURCES = tuple(f"{name}_source_bootstrap" for name in MEANS)
DECIMALS = 12
"""Means are rounded to these, so that a mean that equals a threshold is not put beside it by floating point."""

COUNTS = ("sources_learned", "sources_gated")
"""Statistics that count sources, so that a source that is not finished could still change them."""


def rate_table(study: Study, counts: pl.DataFrame) -> pl.DataFrame:
    """Source rate and mean bystander rate of every cell and of all seeds together, by question-cluster bootstrap."""
    plan = study.plan_as(MarkerLeakagePlan)
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


def _question_counts(counts: pl.DataFrame, own: bool) -> tuple[np.ndarray, np.ndarray]:
    """Found and total per question, over sources' own prompts or over all bystanders: (Q,) each."""
    which = (pl.col("persona") == pl.col("source")) == own
    per_question = counts.filter(which).group_by("question_name").agg(pl.col("found", "total").sum())
    ordered = per_question.sort("question_name")
    return ordered["found"].to_numpy(), ordered["total"].to_numpy()


def gating_table(study: Study, counts: pl.DataFrame) -> pl.DataFrame:
    """Both rates of every (recipe, source), their ratio (null where the source never says the marker), and whether
    the plan calls the source learned and its leakage gated. Sources in the order of the study.
    """
    plan = study.plan_as(MarkerLeakagePlan)
    own = pl.col("persona") == pl.col("source")
    cells = counts.group_by("recipe", "source", "seed").agg(
        (pl.col("found").filter(which).sum() / pl.col("total").filter(which).sum()).fill_nan(None).alias(name)
        for name, which in (("source_rate", own), ("mean_bystander_rate", ~own))
    )
    means = pl.col("source_rate", "mean_bystander_rate").mean().round(DECIMALS)
    seeds = pl.len().cast(pl.Int64).alias("seeds")
    rates = cells.sort("seed").group_by("recipe", "source").agg(seeds, means)
    ratio = pl.when(pl.col("source_rate") > 0).then(pl.col("mean_bystander_rate") / pl.col("source_rate"))
    return rates.with_columns(
        ratio.alias("ratio"),
        (pl.col("source_rate") >= plan.learned_rate).alias("learned"),
        (pl.col("mean_bystander_rate") < plan.gated_ratio * pl.col("source_rate")).alias("gated"),
    ).sort("recipe", pl.col("source").cast(pl.Enum(list(study.sources))))


def rate_headline(study: Study, counts: pl.DataFrame) -> Iterator[Estimate]:
    """Means over sources, their intervals over questions and over sources, and how many sources pass by themselves.

    ``counts`` are those of the headline recipe.
    """
    plan = study.plan_as(MarkerLeakagePlan)
    if counts.is_empty():
        for name in (*MEANS, *OVER_SOURCES, *COUNTS):
            yield no_cell(name, plan.headline_recipe)
        return
    yield from means_over_questions(plan, counts)
    table = gating_table(study, counts)
    yield from _over_sources(plan, table)
    words = {
        "sources_learned": f"number of sources whose rate, mean over seeds, is at least {plan.learned_rate:.0%}",
        "sources_gated": f"number of sources whose mean bystander rate is below {plan.gated_ratio:g} times their rate",
    }
    for name, column in zip(COUNTS, ("learned", "gated"), strict=True):
        yield Estimate(name, int(table[column].sum()), None, None, None, None, table.height, "source", words[name])


def means_over_questions(plan: MarkerLeakagePlan, counts: pl.DataFrame) -> Iterator[Estimate]:
    """Mean source rate, mean bystander rate and their ratio, with percentile intervals over questions.

    ``counts`` are those of one recipe. Every cell and both rates see the same draw of questions.
    """
    cells = counts.select("source", "seed").unique().sort("source", "seed")
    questions = counts.select("question_name").unique().sort("question_name")
    seeds = cells.select(pl.len().over("source"))["len"].to_numpy()
    share = 1 / (cells["source"].n_unique() * seeds)

    def rates(own: bool) -> Callable[[Floats], Floats]:
        which = (pl.col("persona") == pl.col("source")) == own
        keys = ["source", "seed", "question_name"]
        summed = counts.filter(which).group_by(keys).agg(pl.col("found", "total").sum())
        whole = cells.join(questions, how="cross").join(summed, on=keys, how="left", maintain_order="left").fill_null(0)
        found, total = (whole[c].to_numpy().astype(np.float64).reshape(len(cells), -1) for c in ("found", "total"))
        return lambda weights: mean_rates(found, total, share, weights)

    own, others = rates(own=True), rates(own=False)
    once, weights = (
        np.ones((1, len(questions))),
        cluster_weights(len(questions), plan.bootstrap_draws, plan.resampling_seed),
    )
    method = _method(plan, "question-cluster", "questions resampled, sources and seeds held fixed")
    observed, drawn = (own(once), others(once)), (own(weights), others(weights))
    yield from _means(MEANS, observed, drawn, n=len(questions), unit="question cluster", method=method)


def _over_sources(plan: MarkerLeakagePlan, table: pl.DataFrame) -> Iterator[Estimate]:
    """The same means with percentile intervals over sources."""
    rates = [table[column].to_numpy() for column in ("source_rate", "mean_bystander_rate")]
    weights = cluster_weights(table.height, plan.bootstrap_draws, plan.resampling_seed) / table.height
    held = "sources resampled, seeds and questions held fixed; too narrow where sources are few"
    method = _method(plan, "source-cluster", held)
    own, others = ((rate.mean(keepdims=True), weights @ rate) for rate in rates)
    yield from _means(
        OVER_SOURCES, (own[0], others[0]), (own[1], others[1]), n=table.height, unit="source", method=method
    )


def _method(plan: MarkerLeakagePlan, cluster: str, held: str) -> str:
    drawn = f"{plan.bootstrap_draws} resamples, seed {plan.resampling_seed}"
    return f"mean over sources of each one's mean over its seeds; {cluster} bootstrap, percentile, {drawn}; {held}"


def _means(
    names: tuple[str, ...],
    observed: tuple[Floats, Floats],
    drawn: tuple[Floats, Floats],
    *,
    n: int,
    unit: str,
    method: str,
) -> Iterator[Estimate]:
    """Source rate, bystander rate and their ratio, from (1,) observed and (B,) drawn means of both."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, ratios = (np.where(own > 0, others / own, np.nan) for own, others in (observed, drawn))
    values, draws = (*observed, ratio), (*drawn, ratios)
    reasons = ("no completions", "no completions", "the source rate is 0")
    methods = (method, method, f"ratio of the two means; {method}")
    for name, value, draw, reason, how in zip(names, values, draws, reasons, methods, strict=True):
        if np.isnan(value[0]):
            yield undefined(name, reason, n=n, unit=unit, method=how)
            continue
        interval = percentile_interval(draw, LEVEL)
        rounded = round(float(value[0]), DECIMALS)
        yield with_interval(name, rounded, interval, level=LEVEL, p=None, n=n, unit=unit, method=how)


def control_rate(study: Study, counts: pl.DataFrame) -> Estimate:
    """Share of all completions of the control cells; its completions are taken as independent (see the caveats)."""
    name = "control_marker_rate"
    if counts.is_empty():
        return no_cell(name, study.plan.control_recipe)
    found, total = int(counts["found"].sum()), int(counts["total"].sum())
    return wilson_rate(name, found, total, of="the control cells", level=LEVEL)


def no_cell(name: str, recipe: str) -> Estimate:
    """A headline statistic of a recipe of which nothing is finished."""
    return undefined(name, f"no finished cell of recipe {recipe}", n=0, unit="cell", method="not run")
