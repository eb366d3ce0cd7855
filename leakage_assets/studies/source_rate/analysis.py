"""The planned analysis of source rates: from counts, cosines and prompt lengths to estimates and verdicts.

A source's rate is that of its adapter under its own prompt, counts of its seeds added up. The unit of every n is in the
estimate itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from leakage_assets.statistics.binomial import clustered_slope, overdispersed_slope
from leakage_assets.statistics.correlation import COEFFICIENTS, Coefficient
from leakage_assets.statistics.intervals import wilson_rate, with_wilson
from leakage_assets.statistics.multiplicity import with_bonferroni, with_holm
from leakage_assets.statistics.partial import partial_spearman, spearman_of_rank_residuals, variance_inflation
from leakage_assets.statistics.permutation import permutation_test
from leakage_assets.statistics.points import (
    MIN_POINTS,
    Points,
    as_points,
    correlate_points,
    count_above,
    drop_one,
    least_extreme,
    within_groups,
)
from leakage_assets.statistics.regression import (
    PredictionCheck,
    check_predictions,
    check_table,
    fit_line,
    influence,
    leave_one_out,
)
from leakage_assets.statistics.result import Estimate, StatisticsError, estimate_table, undefined
from leakage_assets.statistics.seeds import SeedSpread, no_spread, seed_spread
from leakage_assets.studies.source_rate.design import SourceRatePlan
from leakage_assets.studies.verdicts import headline_table, verdict_table

UNIT = "source"
OWN = ["recipe", "source", "seed", "question_name", "found", "total"]


@dataclass(frozen=True)
class SourceRateTables:
    """What the analysis reads.

    ``counts``: completions with the marker and in all of every adapter under its own prompt, by question (recipe,
    source, seed, question_name, found, total). ``cosines``: layer, reference, source, cosine, centred on the panel.
    ``tokens``: length of each source's prompt.
    """

    counts: pl.DataFrame
    cosines: pl.DataFrame
    tokens: Mapping[str, int]


def own_counts(scores: pl.DataFrame) -> pl.DataFrame:
    """The counts of adapters under their own prompts, from one row per sample (recipe, source, seed, prompt_name,
    question_name, marker_present).
    """
    own = scores.filter(pl.col("prompt_name") == pl.col("source"))
    keys = ["recipe", "source", "seed", "question_name"]
    counts = own.group_by(keys).agg(
        pl.col("marker_present").sum().cast(pl.Int64).alias("found"), pl.len().cast(pl.Int64).alias("total")
    )
    return counts.select(OWN).sort(keys)


def cosine_table(similarity: pl.DataFrame) -> pl.DataFrame:
    """``cosines`` from the similarities of the base model (measure, layer, source, prompt_name, value): there the
    source is what similarity is taken to.
    """
    return similarity.filter(pl.col("measure") == "cosine").select(
        "layer",
        pl.col("source").alias("reference"),
        pl.col("prompt_name").alias("source"),
        pl.col("value").alias("cosine"),
    )


def analyse(plan: SourceRatePlan, tables: SourceRateTables) -> dict[str, pl.DataFrame]:
    """Every table of the study, by name; ``headline`` and ``verdicts`` are read by the report first.

    Sources that are not finished are left out, and what needs them is undefined for that reason.
    """
    kept = tables.counts.filter(pl.col("recipe") == plan.headline_recipe)
    points = point_table(plan, tables, kept)
    by_layer = {layer: points_at(plan, tables, kept, layer) for layer in plan.layers}
    primary = by_layer[plan.primary_layer]
    correlations = correlation_table(plan, by_layer)
    checks, covered = _checks(plan, primary), coverages(plan, primary)
    headline = list(_headline_estimates(plan, tables, kept, primary, correlations, checks, covered))
    return {
        "headline": headline_table(plan.hypotheses, headline),
        "verdicts": verdict_table(plan.hypotheses, headline, plan.digest),
        "points": points,
        "rates": rate_table(plan, tables.counts),
        "correlations": correlations,
        "line": estimate_table(_lines(plan, primary)),
        "predictions": check_table([(None, check) for check in checks]),
        "refits": pl.concat([t.select(pl.lit(name).alias("coverage"), pl.all()) for name, (_, t) in covered.items()]),
        "influence": influence_table(primary),
        "length": estimate_table(({"statistic": e.name}, e) for e in length_estimates(plan, tables, primary)),
        "categories": _categories(plan, primary),
        "drop_one": _dropped(plan, primary),
        "references": reference_table(plan, tables, kept),
        "seeds": seed_table(plan, tables, kept),
    }


def points_at(
    plan: SourceRatePlan, tables: SourceRateTables, counts: pl.DataFrame, layer: int, reference: str | None = None
) -> Points:
    """Cosine to the reference (the plan's by default) and rate of every finished source, in the plan's order.

    Raises ``StatisticsError`` for a finished source without cosine.
    """
    towards = plan.reference if reference is None else reference
    rows = tables.cosines.filter(layer=layer, reference=towards).select("source", "cosine").iter_rows()
    cosine = dict(rows)
    rates = _pooled(counts)
    names = [name for name in plan.sources if name in rates]
    absent = [name for name in names if name not in cosine]
    if absent:
        raise StatisticsError(f"cosines: layer {layer} has none of {absent[0]!r} to {towards!r}")
    return as_points(names, [cosine[n] for n in names], [rates[n][0] / rates[n][1] for n in names], unit=UNIT)


def _pooled(counts: pl.DataFrame) -> dict[str, tuple[int, int]]:
    """Found and total of every source that has completions, over seeds and questions."""
    summed = counts.group_by("source").agg(pl.col("found", "total").sum()).filter(pl.col("total") > 0)
    return {name: (found, total) for name, found, total in summed.iter_rows()}


def point_table(plan: SourceRatePlan, tables: SourceRateTables, counts: pl.DataFrame) -> pl.DataFrame:
    """One row per finished source of the headline recipe: what the figure shows and the sheet's first table prints.

    Columns: source, category, role (fitted or new), cosine (primary layer), tokens, seeds, found, total, rate, ci_low,
    ci_high (Wilson).
    """
    points = points_at(plan, tables, counts, plan.primary_layer)
    category = plan.category_of
    described = pl.DataFrame(
        {
            "source": list(points.names),
            "category": [category[name] for name in points.names],
            "role": ["new" if name in plan.new else "fitted" for name in points.names],
            "cosine": points.x,
            "tokens": _tokens(tables, points.names),
        },
        schema={
            "source": pl.String,
            "category": pl.String,
            "role": pl.String,
            "cosine": pl.Float64,
            "tokens": pl.Int64,
        },
    )
    rates = rate_table(plan, counts).drop("recipe")
    return described.join(rates, on="source", how="left", maintain_order="left", validate="1:1")


def _tokens(tables: SourceRateTables, names: Collection[str]) -> list[int]:
    for name in names:
        if tables.tokens.get(name, 0) < 1:
            raise StatisticsError(f"prompt lengths: none of {name!r}; count the tokens of its system prompt")
    return [tables.tokens[name] for name in names]


def rate_table(plan: SourceRatePlan, counts: pl.DataFrame) -> pl.DataFrame:
    """Rate of every (recipe, source), seeds together: recipe, source, seeds, found, total, rate, ci_low, ci_high."""
    summed = (
        counts.group_by("recipe", "source")
        .agg(pl.col("seed").n_unique().cast(pl.Int64).alias("seeds"), pl.col("found", "total").sum())
        .filter(pl.col("total") > 0)
        .sort("recipe", pl.col("source").cast(pl.Enum(list(plan.sources))))
    )
    return with_wilson(summed, level=plan.level)


# ------------------------------------------------------------------ correlations


def correlation_table(plan: SourceRatePlan, by_layer: Mapping[int, Points]) -> pl.DataFrame:
    """Both coefficients at every layer: over all sources, over the fitted ones, and without the reference.

    Columns: sources (all, fitted, without_reference), layer, then those of ``Estimate`` (p is asymptotic), with
    p_bonferroni and p_holm (over the layers, of p), p_permutation (exact where there are few sources) with its
    p_permutation_holm and permutation_method.
    """
    rows, permuted = [], []
    for layer, everyone in by_layer.items():
        for label, points in _subsets(plan, everyone):
            for coefficient in COEFFICIENTS:
                rows.append(
                    (
                        {"sources": label, "layer": layer},
                        correlate_points(coefficient, points, coefficient, level=plan.level),
                    )
                )
                permuted.append(_permuted(plan, coefficient, points, coefficient))
    by = {"tests": "layer", "families": ["sources", "name"]}
    table = with_bonferroni(with_holm(estimate_table(rows), **by), **by)  # type: ignore[arg-type]
    drawn = table.select("sources", "layer", "name").with_columns(
        pl.Series("p", [e.p for e in permuted], dtype=pl.Float64)
    )
    adjusted = with_holm(drawn, **by)  # type: ignore[arg-type]
    return table.with_columns(
        adjusted["p"].alias("p_permutation"),
        adjusted["p_holm"].alias("p_permutation_holm"),
        pl.Series("permutation_method", [e.method for e in permuted], dtype=pl.String),
    )


def _subsets(plan: SourceRatePlan, points: Points) -> Iterator[tuple[str, Points]]:
    yield "all", points
    yield "fitted", points.without(*plan.new)
    yield "without_reference", points.without(plan.reference)


def _permuted(plan: SourceRatePlan, name: str, points: Points, coefficient: Coefficient) -> Estimate:
    if len(points) < MIN_POINTS:
        return correlate_points(name, points, coefficient)  # undefined, with the reason
    return permutation_test(
        name,
        points.x,
        points.y,
        coefficient=coefficient,
        unit=UNIT,
        seed=plan.resampling_seed,
        draws=plan.permutations,
    )


def _with_permutation_p(plan: SourceRatePlan, name: str, points: Points, coefficient: Coefficient) -> Estimate:
    """The correlation with its Fisher interval and, in place of the asymptotic p, that of the permutation test."""
    plain = correlate_points(name, points, coefficient, level=plan.level)
    if plain.estimate is None:
        return plain
    tested = _permuted(plan, name, points, coefficient)
    return replace(plain, p=tested.p, method=f"{tested.method}; interval: {plain.method}")


def reference_table(plan: SourceRatePlan, tables: SourceRateTables, counts: pl.DataFrame) -> pl.DataFrame:
    """Exploratory: the correlation with each source as reference, which is left out itself: its cosine is 1 whatever
    the data. Columns: reference, then those of ``Estimate``, with p_holm over the references.
    """
    there = set(tables.cosines["reference"].unique())
    rows = []
    for reference in (name for name in plan.sources if name in there):
        points = points_at(plan, tables, counts, plan.primary_layer, reference).without(reference)
        rows += [({"reference": reference}, correlate_points(c, points, c, level=plan.level)) for c in COEFFICIENTS]
    table = estimate_table(rows)
    return with_holm(table, tests="reference", families=["name"]) if rows else table


def _categories(plan: SourceRatePlan, points: Points) -> pl.DataFrame:
    """Both coefficients within each category of sources."""
    return estimate_table(
        ({"category": category}, estimate)
        for coefficient in COEFFICIENTS
        for category, estimate in within_groups(points, plan.category_of, coefficient, level=plan.level).items()
    )


def _dropped(plan: SourceRatePlan, points: Points) -> pl.DataFrame:
    """Both coefficients without each source in turn; p is asymptotic."""
    return estimate_table(
        ({"dropped": dropped}, estimate)
        for coefficient in COEFFICIENTS
        for dropped, estimate in drop_one(points, coefficient, level=plan.level).items()
    )


# ------------------------------------------------------------------ the line and what it predicts


def _checks(plan: SourceRatePlan, points: Points) -> tuple[PredictionCheck, ...]:
    """The new sources that are finished against the line through the fitted ones."""
    fitted, new = points.without(*plan.new), points.without(*plan.fitted)
    return check_predictions(fitted, new, margin=plan.margin, level=plan.level)


def _lines(plan: SourceRatePlan, points: Points) -> Iterator[tuple[dict[str, str], Estimate]]:
    for label, part in _subsets(plan, points):
        for estimate in fit_line(part, level=plan.level).estimates():
            yield {"sources": label}, estimate


def coverages(plan: SourceRatePlan, points: Points) -> dict[str, tuple[Estimate, pl.DataFrame]]:
    """Three meanings of leave-one-out coverage (D5), each with its checks.

    ``refit_coverage_published``: one of all sources is left out, the others fitted, the new ones checked, though they
    are among the fitted. ``refit_coverage_fitted``: one of the fitted ones is left out, the new ones checked.
    ``held_out_coverage``: each source is predicted from all others.
    """
    fitted, new = points.without(*plan.new), points.without(*plan.fitted)
    variants = {
        "refit_coverage_published": (points, new),
        "refit_coverage_fitted": (fitted, new),
        "held_out_coverage": (points, None),
    }
    found = {}
    for name, (pool, checked) in variants.items():
        if checked is not None and not len(checked):
            reason = f"none of {', '.join(plan.new)} is finished"
            found[name] = (undefined(name, reason, n=0, unit=UNIT, method="not run"), check_table([]))
            continue
        refits = leave_one_out(name, pool, checked=checked, margin=plan.margin, level=plan.level)
        found[name] = (refits.coverage, check_table(refits.checks))
    return found


def influence_table(points: Points) -> pl.DataFrame:
    """Leverage and Cook's distance of every source: source, threshold, flagged, then those of ``Estimate``."""
    rows = []
    for one in influence(points):
        rows.append(
            ({"source": one.name, "threshold": one.leverage_threshold, "flagged": one.high_leverage}, one.leverage)
        )
        rows.append(({"source": one.name, "threshold": one.cooks_threshold, "flagged": one.influential}, one.cooks_d))
    return estimate_table(rows)


def length_estimates(plan: SourceRatePlan, tables: SourceRateTables, points: Points) -> Iterator[Estimate]:
    """The correlation with the number of prompt tokens held fixed, the published form of it (D6), and the variance
    inflation of the cosine by the logarithm of that number.
    """
    names = ("partial_spearman", "partial_spearman_published", "variance_inflation")
    if len(points) < MIN_POINTS:
        for name in names:
            reason = f"{len(points)} points, fewer than {MIN_POINTS}"
            yield undefined(name, reason, n=len(points), unit=UNIT, method="not run")
        return
    length = np.log(_tokens(tables, points.names))
    yield partial_spearman(names[0], points.x, points.y, length, unit=UNIT, level=plan.level)
    yield spearman_of_rank_residuals(names[1], points.x, points.y, length, unit=UNIT)
    yield variance_inflation(names[2], points.x, length, unit=UNIT)


# ------------------------------------------------------------------ headline


def _headline_estimates(
    plan: SourceRatePlan,
    tables: SourceRateTables,
    counts: pl.DataFrame,
    points: Points,
    correlations: pl.DataFrame,
    checks: Collection[PredictionCheck],
    covered: Mapping[str, tuple[Estimate, pl.DataFrame]],
) -> Iterator[Estimate]:
    """What the hypotheses and the summary of the report are read from, for the headline recipe."""
    yield _with_permutation_p(plan, "spearman", points, "spearman")
    yield _with_permutation_p(plan, "pearson", points, "pearson")
    without = points.without(plan.reference)
    yield _with_permutation_p(plan, "spearman_without_reference", without, "spearman")
    yield from _prediction_estimates(plan, checks)
    yield from (coverage for coverage, _ in covered.values())
    yield from length_estimates(plan, tables, points)
    yield layers_significant(plan, correlations)
    yield from _drop_one_estimates(plan, points)
    yield from slope_estimates(plan, counts, points)
    yield control_rate(plan, tables.counts)


def _prediction_estimates(plan: SourceRatePlan, checks: Collection[PredictionCheck]) -> Iterator[Estimate]:
    """How many new sources lie inside, how many are shown to be near the line, and the widest half width."""
    names = ("new_sources_inside", "new_sources_equivalent", "widest_half_width")
    absent = [name for name in plan.new if name not in {check.name for check in checks}]
    without = [check for check in checks if check.half_width is None]
    if absent or without:
        reason = f"not finished: {', '.join(absent)}" if absent else without[0].predicted.undefined or "no interval"
        for name in names:
            yield undefined(name, reason, n=len(checks), unit="new source", method="prediction of the new sources")
        return
    inside = sum(bool(check.inside) for check in checks)
    near = sum(check.deviation.p is not None and check.deviation.p < plan.alpha for check in checks)
    widest = max(check.half_width or 0.0 for check in checks)
    methods = (
        f"new sources within the {plan.level:.0%} prediction interval of the line through the fitted ones",
        f"new sources shown to be within {plan.margin:g} of that line: equivalence p < {plan.alpha:g}",
        f"widest half of the {plan.level:.0%} prediction intervals of the new sources",
    )
    for name, value, method in zip(names, (inside, near, widest), methods, strict=True):
        yield Estimate(name, value, None, None, None, None, len(checks), "new source", method)


def layers_significant(plan: SourceRatePlan, correlations: pl.DataFrame) -> Estimate:
    """Number of layers at which Spearman over all sources is negative with an adjusted permutation p below alpha.

    Undefined where one of the layers has no p.
    """
    rows = correlations.filter(sources="all", name="spearman")
    method = f"layers with ρ < 0 and Holm-adjusted permutation p < {plan.alpha:g}"
    if rows["p_permutation_holm"].null_count() or rows.is_empty():
        reason = rows["undefined"].drop_nulls().first() or "no layers"
        return undefined("layers_significant", str(reason), n=rows.height, unit="layer", method=method)
    count = rows.filter((pl.col("estimate") < 0) & (pl.col("p_permutation_holm") < plan.alpha)).height
    return Estimate("layers_significant", count, None, None, None, None, rows.height, "layer", method)


def _drop_one_estimates(plan: SourceRatePlan, points: Points) -> Iterator[Estimate]:
    """Spearman without the source that costs it most, by permutation p; and without how many its p exceeds alpha."""
    if not len(points):
        for name in ("drop_one_spearman", "drops_above_alpha"):
            yield undefined(name, "no source is finished", n=0, unit=UNIT, method="not run")
        return
    dropped = {name: _with_permutation_p(plan, "spearman", points.without(name), "spearman") for name in points.names}
    yield least_extreme("drop_one_spearman", dropped)
    yield count_above("drops_above_alpha", dropped, plan.alpha)


def slope_estimates(plan: SourceRatePlan, counts: pl.DataFrame, points: Points) -> Iterator[Estimate]:
    """Change of the log-odds of the marker per unit of cosine, with intervals over questions and over sources."""
    cosine = dict(zip(points.names, points.x.tolist(), strict=True))
    rows = (
        counts.filter(pl.col("source").is_in(list(points.names)))
        .group_by("source", "question_name")
        .agg(pl.col("found", "total").sum())
        .sort("source", "question_name")
    )
    x = [cosine[name] for name in rows["source"]]
    yield clustered_slope(
        "log_odds_slope_over_questions",
        x,
        rows["found"],
        rows["total"],
        rows["question_name"],
        unit="question cluster",
        level=plan.level,
    )
    summed = _pooled(rows)
    found, total = ([summed[name][i] for name in points.names] for i in (0, 1))
    yield overdispersed_slope("log_odds_slope_over_sources", points.x, found, total, unit=UNIT, level=plan.level)


def control_rate(plan: SourceRatePlan, counts: pl.DataFrame) -> Estimate:
    """Share of the completions of the control recipe with the marker; completions are taken as independent."""
    name, rows = "control_marker_rate", rate_table(plan, counts.filter(pl.col("recipe") == plan.control_recipe))
    found, total = int(rows["found"].sum()), int(rows["total"].sum())
    if not total:
        reason = f"no finished cell of recipe {plan.control_recipe}"
        return undefined(name, reason, n=0, unit="completion", method="not run")
    return wilson_rate(name, found, total, of="the control", level=plan.level)


# ------------------------------------------------------------------ seeds and verdicts


def seed_table(plan: SourceRatePlan, tables: SourceRateTables, counts: pl.DataFrame) -> pl.DataFrame:
    """Spread over seeds of both correlations at the primary layer and of every source's rate.

    A correlation is compared only between seeds with the same sources: between others it would differ even if seeds did
    not matter. Columns: recipe (the headline's), statistic, source ("all" for the correlations), then those of
    ``Estimate``.
    """
    by_seed: dict[tuple[str, str], dict[int, float | None]] = {}
    covered: dict[int, tuple[str, ...]] = {}
    for (seed,), part in counts.group_by("seed", maintain_order=True):
        points = points_at(plan, tables, part, plan.primary_layer)
        covered[int(seed)] = points.names
        for coefficient in COEFFICIENTS:
            found = correlate_points(coefficient, points, coefficient).estimate
            by_seed.setdefault((coefficient, "all"), {})[int(seed)] = found
        for name, rate in zip(points.names, points.y.tolist(), strict=True):
            by_seed.setdefault(("source_rate", name), {})[int(seed)] = rate
    return estimate_table(
        ({"recipe": plan.headline_recipe, "statistic": statistic, "source": source}, estimate)
        for (statistic, source), values in by_seed.items()
        for estimate in _spread(statistic, values, covered).estimates()
    )


def _spread(statistic: str, values: Mapping[int, float | None], covered: Mapping[int, tuple[str, ...]]) -> SeedSpread:
    if statistic == "source_rate":
        return seed_spread(statistic, values, bounds=(0.0, 1.0))
    if len({covered[seed] for seed in values}) > 1:
        return no_spread(statistic, "the seeds cover different sources", values)
    return seed_spread(statistic, values, bounds=(-1.0, 1.0))
