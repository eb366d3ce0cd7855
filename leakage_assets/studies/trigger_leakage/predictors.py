"""H2 and H3: which axis predicts where the marker is said, and does it stay in the family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from leakage_assets.geometry.prompt_axes import AXES, LEXICAL, SEMANTIC
from leakage_assets.statistics.correlation import correlate_rows, ranks
from leakage_assets.statistics.crossed import column_variance_ratio
from leakage_assets.statistics.held_out import HeldOut, Orders, block_orders, held_out_gap
from leakage_assets.statistics.linear_model import regress, standard_errors
from leakage_assets.statistics.multiplicity import with_holm
from leakage_assets.statistics.paired import group_difference, jackknife
from leakage_assets.statistics.pooled import CrossedPairs, persona_clustered
from leakage_assets.statistics.quasi_binomial import quasi_binomial
from leakage_assets.statistics.random_intercept import random_intercept
from leakage_assets.statistics.resampling import Floats, permutations
from leakage_assets.statistics.result import Estimate, StatisticsError
from leakage_assets.studies.trigger_leakage.cells import FIVE_AXES, axis_table, of_recipe
from leakage_assets.studies.trigger_leakage.design import TriggerPlan
from leakage_assets.studies.trigger_leakage.gates import Labelled, labelled, not_run
from leakage_assets.studies.trigger_leakage.panel import DEFINITIONS, FAMILIES, MATE, Definition

AXIS_SETS: Mapping[str, tuple[str, ...]] = {"four": AXES, "five": FIVE_AXES}
"""The published axes, and those with the divergence."""

FORMAT, TASK_FAMILY = "format", "task"
IS_FORMAT = "is_format"
SIDES = ("mates", "family")
"""Which prompts H3 compares: the three family mates a side, as published, or every other prompt of both families."""

NO_LEGACY: Mapping[str, float | None] = dict.fromkeys(("standard_error", "legacy_se", "legacy_p"))

SHUFFLES = ("rows", "pairs", "prompts")
MOVED = {
    "rows": "single rows, as published",
    "pairs": "whole (trigger, prompt) pairs with their seeds",
    "prompts": "whole prompts with all adapters",
}


def predicted_rows(plan: TriggerPlan, cells: pl.DataFrame, axes: pl.DataFrame, definition: Definition) -> pl.DataFrame:
    """The cells of the triggers that H2 predicts, with their axes; ``cells`` are those of one recipe."""
    kept = cells.filter(pl.col("source").is_in(plan.triggers) & pl.col(f"predicted_{definition}"))
    return kept.join(axes, on=["source", "prompt_name"], how="left", maintain_order="left", validate="m:1")


def _columns(rows: pl.DataFrame, axes: Sequence[str]) -> dict[str, Floats]:
    return {axis: rows[axis].to_numpy() for axis in axes}


# ------------------------------------------------------------------ coefficients


def coefficient_table(plan: TriggerPlan, cells: pl.DataFrame, axes: pl.DataFrame) -> pl.DataFrame:
    """Every axis' coefficient under both definitions, with and without the divergence, by model and kind of error.

    Columns: definition, axes (four, five), model (least_squares; fixed_effects: with a level for every trigger and
    prompt; mixed: with a random level of every prompt; both on means over seeds), errors, standard_error, legacy_se and
    legacy_p (of the rows with classical errors only, B4), then those of ``Estimate``.
    """
    rows: list[Labelled] = []
    for definition in DEFINITIONS:
        found = predicted_rows(plan, cells, axes, definition)
        for label, names in AXIS_SETS.items():
            keys = {"definition": definition, "axes": label}
            rows += _least_squares(plan, found, names, keys)
            rows += _fixed_effects(plan, found, names, keys)
            rows += _mixed(plan, found, names, keys)
    return labelled(rows, "definition", "axes", "model", "errors", "standard_error", "legacy_se", "legacy_p")


def _least_squares(
    plan: TriggerPlan, rows: pl.DataFrame, axes: Sequence[str], keys: Mapping[str, Any]
) -> Iterator[Labelled]:
    columns, outcome = _columns(rows, axes), rows["rate"].to_numpy()
    pair = list(rows.select("source", "prompt_name").iter_rows())
    trigger, prompt = rows["source"].to_list(), rows["prompt_name"].to_list()
    ways: Mapping[str, Mapping[str, Sequence[Any]] | None] = {
        "classical": None,
        "pair": {"(trigger, prompt)": pair},
        "prompt": {"prompt": prompt},
        "two_way": {"trigger": trigger, "prompt": prompt},
    }
    plain, legacy = standard_errors(columns, outcome), standard_errors(columns, outcome, legacy=True)
    published = regress(columns, outcome, unit="cell", legacy=True, level=plan.level)
    for errors, clusters in ways.items():
        fitted = regress(columns, outcome, unit="cell", clusters=clusters, level=plan.level)
        for term, estimate in fitted.items():
            beside: Mapping[str, float | None] = NO_LEGACY
            if clusters is None:
                beside = {
                    "standard_error": plain.get(term),
                    "legacy_se": legacy.get(term),
                    "legacy_p": published[term].p,
                }
            yield {**keys, "model": "least_squares", "errors": errors, **beside}, estimate


def _fixed_effects(
    plan: TriggerPlan, rows: pl.DataFrame, axes: Sequence[str], keys: Mapping[str, Any]
) -> Iterator[Labelled]:
    """What is left for the axes once every trigger and every prompt has a level of its own."""
    # Of means over seeds: clusters of pairs are too small for a sandwich when most columns are levels of one prompt.
    means = _over_seeds(rows, axes)
    columns = _columns(means, axes)
    for name in ("source", "prompt_name"):
        for value in means[name].unique(maintain_order=True)[1:]:
            columns[f"{name} {value}"] = (means[name] == value).cast(pl.Float64).to_numpy()
    fitted = regress(columns, means["rate"].to_numpy(), unit="(trigger, prompt)", level=plan.level)
    for axis in axes:
        yield {**keys, "model": "fixed_effects", "errors": "classical", **NO_LEGACY}, fitted[axis]


def _mixed(plan: TriggerPlan, rows: pl.DataFrame, axes: Sequence[str], keys: Mapping[str, Any]) -> Iterator[Labelled]:
    means = _over_seeds(rows, axes)
    fit = random_intercept(
        _columns(means, axes),
        means["rate"].to_numpy(),
        means["prompt_name"].to_list(),
        group_unit="prompt",
        level=plan.level,
    )
    for estimate in fit.coefficients.values():
        yield {**keys, "model": "mixed", "errors": "prompt", **NO_LEGACY}, estimate


def _over_seeds(rows: pl.DataFrame, axes: Sequence[str]) -> pl.DataFrame:
    return rows.group_by("source", "prompt_name", *axes, maintain_order=True).agg(pl.col("rate").mean())


# ------------------------------------------------------------------ prediction of an unseen trigger


def held_out_table(plan: TriggerPlan, cells: pl.DataFrame, axes: pl.DataFrame) -> pl.DataFrame:
    """Leave-one-trigger-out R² of the axes together and of each alone, and the gap to the semantic axis.

    Columns: definition, axes (four, five, or one axis), shuffled (what the p of the gap permutes; null where no gap is
    asked for), then those of ``Estimate``.
    """
    rows: list[Labelled] = []
    for definition in DEFINITIONS:
        found = predicted_rows(plan, cells, axes, definition)
        for label, names in AXIS_SETS.items():
            # Rows and pairs are the published shuffle and its repair; one of whole prompts is enough for five axes.
            for shuffle in SHUFFLES if label == "four" else SHUFFLES[-1:]:
                held = held_out(plan, found, names, shuffle)
                keys = {"definition": definition, "axes": label, "shuffled": shuffle}
                rows += [(keys, estimate) for estimate in (held.full, held.reduced, held.gap, held.rank)]
        for axis in FIVE_AXES:
            alone = held_out(plan, found, (axis,), None)
            single: Mapping[str, str | None] = {"definition": definition, "axes": axis, "shuffled": None}
            rows += [(single, estimate) for estimate in (alone.full, alone.rank)]
    return labelled(rows, "definition", "axes", "shuffled")


def held_out(plan: TriggerPlan, rows: pl.DataFrame, axes: Sequence[str], shuffle: str | None) -> HeldOut:
    """Leave one trigger out; the gap is to the semantic axis alone, or to itself for a single axis."""
    orders: Orders | str = "one axis has no gap"
    if shuffle is not None:
        orders = _orders(plan, rows, shuffle)
    return held_out_gap(
        _columns(rows, axes),
        [SEMANTIC] if shuffle is not None else list(axes),
        rows["rate"].to_numpy(),
        rows["source"].to_list(),
        orders=orders,
        shuffled="" if shuffle is None else MOVED[shuffle],
        group_unit="trigger",
    )


def _orders(plan: TriggerPlan, rows: pl.DataFrame, shuffle: str) -> Orders | str:
    draws, seed = plan.gap_permutations, plan.resampling_seed
    if rows.is_empty():
        return "no rows"
    if shuffle == "rows":
        return permutations(rows.height, draws, seed)
    adapters = list(rows.select("source", "seed").iter_rows())
    if shuffle == "prompts":
        return block_orders(rows["prompt_name"].to_list(), adapters, draws, seed)
    pair = list(rows.select("source", "prompt_name").iter_rows())
    return block_orders(pair, rows["seed"].to_list(), draws, seed)


def fold_table(plan: TriggerPlan, cells: pl.DataFrame, axes: pl.DataFrame) -> pl.DataFrame:
    """R² of every held-out trigger with the four axes: definition, trigger, r2. No rows where it is undefined."""
    rows = [
        {"definition": definition, "trigger": str(trigger), "r2": value}
        for definition in DEFINITIONS
        for trigger, value in held_out(plan, predicted_rows(plan, cells, axes, definition), AXES, None).folds.items()
    ]
    return pl.DataFrame(rows, schema={"definition": pl.String, "trigger": pl.String, "r2": pl.Float64})


def gap_headline(plan: TriggerPlan, cells: pl.DataFrame, axes: pl.DataFrame) -> Iterator[Estimate]:
    """H2 as the plan decides it: the published cells, and whole prompts permuted."""
    names = ("held_out_r2", "held_out_r2_reduced", "held_out_gap", "held_out_rank_correlation")
    rows = predicted_rows(plan, cells, axes, "bucket")
    if rows.is_empty():
        for name in names:
            yield not_run(name, plan.headline_recipe)
        return
    held = held_out(plan, rows, AXES, "prompts")
    yield from (held.full, held.reduced, held.gap, held.rank)


# ------------------------------------------------------------------ the column effect


def rate_matrix(rows: pl.DataFrame) -> tuple[list[str], list[str], Floats]:
    """Triggers, prompts and mean rates over seeds, (T, P). Raises ``StatisticsError`` for a pair that is missing."""
    means = rows.group_by("source", "prompt_name", maintain_order=True).agg(pl.col("rate").mean())
    sources = means["source"].unique(maintain_order=True).to_list()
    prompts = means["prompt_name"].unique(maintain_order=True).to_list()
    values = {(s, p): r for s, p, r in means.iter_rows()}
    missing = [(s, p) for s in sources for p in prompts if (s, p) not in values]
    if missing:
        raise StatisticsError(f"no rate of {missing[0][0]!r} under {missing[0][1]!r}; score its samples again")
    return sources, prompts, np.array([[values[s, p] for p in prompts] for s in sources]).reshape(len(sources), -1)


def column_table(plan: TriggerPlan, cells: pl.DataFrame) -> pl.DataFrame:
    """How much prompts differ whatever the adapter: the variance ratio of prompts, that of triggers, and each family's
    prompts against all others. Columns: statistic, family (null for the ratios), then those of ``Estimate``, with
    p_holm over the families.
    """
    rows = cells.filter(pl.col("source").is_in(plan.triggers) & pl.col("predicted_bucket"))
    if rows.is_empty():
        nothing = [({"statistic": name, "family": None}, not_run(name, plan.headline_recipe)) for name in RATIOS]
        return with_holm(labelled(nothing, "statistic", "family"), tests="family", families=("statistic",))
    _, prompts, table = rate_matrix(rows)
    found: list[Labelled] = [
        (
            {"statistic": RATIOS[0], "family": None},
            column_variance_ratio(RATIOS[0], table, rows="trigger", columns="prompt", level=plan.level),
        ),
        (
            {"statistic": RATIOS[1], "family": None},
            column_variance_ratio(RATIOS[1], table.T, rows="prompt", columns="trigger", level=plan.level),
        ),
    ]
    family = np.array([plan.prompt(name).family for name in prompts])
    means = table.mean(axis=0)
    for name in FAMILIES:
        contrast = group_difference(
            "family_column", means[family == name], means[family != name], unit="prompt", level=plan.level
        )
        found.append(({"statistic": "family_column", "family": name}, contrast))
    return with_holm(labelled(found, "statistic", "family"), tests="family", families=("statistic",))


RATIOS = ("prompt_variance_ratio", "trigger_variance_ratio")


# ------------------------------------------------------------------ H3


def family_table(plan: TriggerPlan, cells: pl.DataFrame, axes: pl.DataFrame) -> pl.DataFrame:
    """H3 by which prompts are compared and how: coefficient of is_format, one-sided p.

    Columns: sides (mates, family), method_used (rows: cells taken as independent, as published; prompts: means over
    seeds; counts: log-odds of the counts of prompts), format_cells, task_cells, then those of ``Estimate``.
    """
    rows: list[Labelled] = []
    for sides in SIDES:
        compared = _compared(plan, cells, axes, sides)
        counted = {
            "format_cells": int((compared[IS_FORMAT] == 1).sum()),
            "task_cells": int((compared[IS_FORMAT] == 0).sum()),
        }
        for method in ("rows", "prompts", "counts"):
            keys = {"sides": sides, "method_used": method, **counted}
            rows.append((keys, _preference(plan, compared, method)))
    return labelled(rows, "sides", "method_used", "format_cells", "task_cells")


def family_headline(plan: TriggerPlan, cells: pl.DataFrame, axes: pl.DataFrame) -> Estimate:
    """H3 as the plan decides it: family mates, with the prompt as unit (B3)."""
    compared = _compared(plan, cells, axes, "mates")
    if compared.is_empty():
        return not_run("family_preference", plan.headline_recipe)
    return _preference(plan, compared, "prompts")


def _compared(plan: TriggerPlan, cells: pl.DataFrame, axes: pl.DataFrame, sides: str) -> pl.DataFrame:
    trained = [p.name for p in plan.prompts if p.name in plan.triggers and p.family == FORMAT]
    chosen = pl.col("bucket") == MATE if sides == "mates" else pl.col("predicted_own")
    kept = cells.filter(
        pl.col("source").is_in(trained) & chosen & pl.col("family").is_in([FORMAT, TASK_FAMILY])
    ).with_columns((pl.col("family") == FORMAT).cast(pl.Float64).alias(IS_FORMAT))
    return kept.join(axes, on=["source", "prompt_name"], how="left", maintain_order="left", validate="m:1")


def _preference(plan: TriggerPlan, rows: pl.DataFrame, method: str) -> Estimate:
    name = "family_preference"
    if rows.is_empty():
        return not_run(name, plan.headline_recipe)
    if method != "rows":
        keys = ["prompt_name", SEMANTIC, IS_FORMAT]
        summed = [pl.col("rate").mean(), pl.col("found", "total").sum()]
        rows = rows.group_by(keys, maintain_order=True).agg(*summed)
    columns = _columns(rows, (SEMANTIC, IS_FORMAT))
    if method == "counts":
        found = quasi_binomial(
            columns, rows["found"], rows["total"], unit="prompt", level=plan.level, alternative="greater"
        )
    else:
        unit = "cell" if method == "rows" else "prompt"
        found = regress(columns, rows["rate"].to_numpy(), unit=unit, level=plan.level, alternative="greater")
    return _renamed(name, found[IS_FORMAT])


def _renamed(name: str, estimate: Estimate) -> Estimate:
    return replace(estimate, name=name)


# ------------------------------------------------------------------ which axis leads, by recipe


def predictor_table(plan: TriggerPlan, cells: pl.DataFrame, axes: pl.DataFrame) -> pl.DataFrame:
    """Rank correlation of every axis with the rate, for the recipes that all triggers have: recipe, axis, then those of
    ``Estimate`` with whole prompts permuted and resampled, and p_holm over the axes of a recipe.
    """
    rows: list[Labelled] = []
    for recipe in (plan.headline_recipe, plan.matched_recipe, plan.gentle_recipe):
        part = predicted_rows(plan, of_recipe(cells, recipe), axes, "bucket")
        rows += [({"recipe": recipe, "axis": a}, _rank_correlation(plan, part, a)) for a in FIVE_AXES if part.height]
    return with_holm(labelled(rows, "recipe", "axis"), tests="axis", families=("recipe",))


def _rank_correlation(plan: TriggerPlan, rows: pl.DataFrame, axis: str) -> Estimate:
    """Of an axis with the rates of one recipe, whole prompts permuted and resampled."""
    sources, prompts, rates = rate_matrix(rows)
    return persona_clustered(
        CrossedPairs(tuple(sources), tuple(prompts), _matrix(rows, axis, sources, prompts), rates),
        "pooled",
        seed=plan.resampling_seed,
        draws=plan.gap_permutations,
        bootstrap_draws=plan.gap_permutations,
        level=plan.level,
        name="spearman",
        unit="prompt",
    )


# ------------------------------------------------------------------ which layer


def layer_table(plan: TriggerPlan, cells: pl.DataFrame, similarity: pl.DataFrame) -> pl.DataFrame:
    """What hangs on the layer of the semantic axis, at every planned one (B11; bucket definition): its coefficient
    beside the other three axes by least squares with errors over prompts, the held-out R² of the four axes and of the
    semantic one, and its rank correlation with the rate. ``cells`` are those of one recipe.

    Columns: layer, then those of ``Estimate``.
    """
    rows: list[Labelled] = []
    for layer in plan.layers:
        found = predicted_rows(plan, cells, axis_table(plan, similarity, layer), "bucket")
        if found.is_empty():
            continue
        prompt = {"prompt": found["prompt_name"].to_list()}
        fitted = regress(
            _columns(found, AXES), found["rate"].to_numpy(), unit="cell", clusters=prompt, level=plan.level
        )
        held = (held_out(plan, found, axes, None).full for axes in (AXES, (SEMANTIC,)))
        estimates = (fitted[SEMANTIC], *held, _rank_correlation(plan, found, SEMANTIC))
        rows += [
            ({"layer": layer}, replace(estimate, name=name))
            for name, estimate in zip(LAYER_STATISTICS, estimates, strict=True)
        ]
    return labelled(rows, "layer")


LAYER_STATISTICS = ("semantic_coefficient", "held_out_r2", "held_out_r2_semantic", "semantic_rank_correlation")


def _matrix(rows: pl.DataFrame, axis: str, sources: Sequence[str], prompts: Sequence[str]) -> Floats:
    values = {(s, p): v for s, p, v in rows.select("source", "prompt_name", axis).unique().iter_rows()}
    return np.array([[values[s, p] for p in prompts] for s in sources])


LEADS = {"semantic_lead_strong": "headline_recipe", "semantic_lead_gentle": "gentle_recipe"}
"""Which recipe each lead is read off."""


def semantic_leads(plan: TriggerPlan, cells: pl.DataFrame, axes: pl.DataFrame) -> Iterator[Estimate]:
    """Spearman of the semantic axis with the rate minus that of wording, under the strong and under the gentle recipe,
    and how much the lead is larger under the gentle one.

    Over the triggers that are finished (for the change, under both); a jackknife over prompts gives interval and p.
    Rates near 0 are noisier, which pulls both correlations and so a lead towards 0, though it cannot turn its sign: the
    change mixes this with a change of the ranking.
    """
    recipes = [getattr(plan, recipe) for recipe in LEADS.values()]
    parts = [predicted_rows(plan, of_recipe(cells, recipe), axes, "bucket") for recipe in recipes]
    for name, recipe, rows in zip(LEADS, recipes, parts, strict=True):
        yield _semantic_lead(plan, (rows,), name, f"recipe {recipe}") if rows.height else not_run(name, recipe)
    shared = set(parts[0]["source"]) & set(parts[1]["source"])
    if not shared:
        yield not_run("semantic_lead_change", " and ".join(recipes))
        return
    strong, gentle = (rows.filter(pl.col("source").is_in(shared)) for rows in parts)
    yield _semantic_lead(plan, (gentle, strong), "semantic_lead_change", f"recipe {recipes[1]} less {recipes[0]}")


def _semantic_lead(plan: TriggerPlan, parts: Sequence[pl.DataFrame], name: str, of: str) -> Estimate:
    """The lead in one table of rows, or that of the first less that of the second."""
    sources, prompts, _ = rate_matrix(parts[0])
    grids = [
        (rate_matrix(rows)[2], *(_matrix(rows, axis, sources, prompts) for axis in (SEMANTIC, LEXICAL)))
        for rows in parts
    ]

    def lead(keep: NDArray[np.intp]) -> float:
        found = []
        for rates, *axes in grids:
            y = ranks(rates[:, keep].ravel())
            first, second = (float(correlate_rows(ranks(x[:, keep].ravel()), y)) for x in axes)
            found.append(first - second)
        return found[0] - sum(found[1:])

    everyone = np.arange(len(prompts), dtype=np.intp)
    what = f"Spearman of {SEMANTIC} with the rate minus that of {LEXICAL}, {of}, {len(sources)} triggers"
    without = [lead(np.delete(everyone, place)) for place in everyone]
    return jackknife(name, lead(everyone), without, unit="prompt", what=what, level=plan.level, left_out=prompts)
