"""H1 and what belongs to it: gating, the control, the pilot, titration (#208), and a persona beside the triggers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import polars as pl

from leakage_assets.statistics.gating import (
    DIFFERENCES,
    QUESTION,
    SHARES,
    Gating,
    PromptGrid,
    Shuffled,
    gating,
    gating_over_sources,
    mean_over_questions,
    own_against_other_triggers,
    specificity,
    specificity_terms,
)
from leakage_assets.statistics.intervals import wilson_rate
from leakage_assets.statistics.paired import paired_difference
from leakage_assets.statistics.resampling import Floats
from leakage_assets.statistics.result import Estimate, estimate_table, undefined
from leakage_assets.studies.trigger_leakage.cells import by_question, gating_cells, of_recipe, prompt_grid
from leakage_assets.studies.trigger_leakage.design import (
    PILOT_SEED,
    PILOT_SOURCE,
    TriggerPlan,
    pilot_verdict,
)
from leakage_assets.studies.trigger_leakage.panel import DEFINITIONS, Definition

Labelled = tuple[Mapping[str, Any], Estimate]
NUMBERS = {"matched_cells", "bystander_cells", "format_cells", "task_cells", "seeds", "layer"}
"""Label columns that count."""

ERRORS = {"standard_error", "legacy_se", "legacy_p"}

TOGETHER, EVERY_SOURCE = "triggers", "sources"

SHUFFLES: tuple[Shuffled | Literal["prompts"], ...] = ("prompts", "pairs", "cells")
"""What the p of gating rearranges; the plan's first (see ``statistics.gating.gating``)."""


def gating_table(plan: TriggerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """Matched and bystander rates, difference and ratio, of all triggers together and of each source alone.

    Columns: recipe, definition (own, bucket), sources, shuffled (prompts: whole prompts with all adapters; of all
    triggers together also pairs: (source, prompt), and cells: within each seed, as published), matched_cells,
    bystander_cells, then those of ``Estimate``. A persona has no bucket version: the buckets are made for triggers.
    """
    rows: list[Labelled] = []
    for (recipe,), part in counts.group_by("recipe", maintain_order=True):
        finished = [s for s in (*plan.triggers, plan.persona) if (part["source"] == s).any()]
        together = [s for s in finished if s in plan.triggers]
        groups = [(TOGETHER, together)] * bool(together) + [(source, [source]) for source in finished]
        for label, sources in groups:
            for definition in DEFINITIONS[: 1 if plan.persona in sources else 2]:
                for shuffled in SHUFFLES[: None if label == TOGETHER else 1]:
                    keys = {"recipe": recipe, "definition": definition, "sources": label, "shuffled": shuffled}
                    rows += _gating_rows(plan, part, sources, definition, keys)
    return labelled(rows, "recipe", "definition", "sources", "shuffled", "matched_cells", "bystander_cells")


def _gating_rows(
    plan: TriggerPlan,
    counts: pl.DataFrame,
    sources: Sequence[str],
    definition: Definition,
    keys: Mapping[str, Any],
) -> Iterator[Labelled]:
    cells = gating_cells(counts, sources, definition)
    matched = int(cells.matched.sum())
    counted = {"matched_cells": matched, "bystander_cells": len(cells.matched) - matched}
    for estimate in _gating(plan, counts, sources, definition, keys["shuffled"]).estimates():
        yield {**keys, **counted}, estimate


def _gating(
    plan: TriggerPlan,
    counts: pl.DataFrame,
    sources: Sequence[str],
    definition: Definition,
    shuffled: Shuffled | Literal["prompts"] = "prompts",
    suffix: str = "",
) -> Gating:
    cells = gating_cells(counts, sources, definition)
    # Without both kinds of cells nothing is defined, and there is no grid either.
    exchanged: Shuffled | PromptGrid = "pairs"
    if shuffled != "prompts":
        exchanged = shuffled
    elif not isinstance(cells.weights(), str):
        exchanged = prompt_grid(plan, counts, sources, definition)
    return gating(
        cells,
        seed=plan.resampling_seed,
        draws=plan.permutations,
        shuffled=exchanged,
        level=plan.level,
        suffix=suffix,
    )


def gating_headline(plan: TriggerPlan, counts: pl.DataFrame) -> Iterator[Estimate]:
    """H1 of the headline recipe under both definitions, over triggers, and against other triggers' prompts."""
    part = of_recipe(counts, plan.headline_recipe).filter(pl.col("source").is_in(plan.triggers))
    for definition in DEFINITIONS:
        yield from _gating(plan, part, plan.triggers, definition, suffix=f"_{definition}").estimates()
    rates = {source: _rates(part, source) for source in plan.triggers}
    there = {source: found for source, found in rates.items() if found is not None}
    yield gating_over_sources("gating_ratio_over_triggers", there, level=plan.level)
    yield _own_against_others(plan, part)


def _rates(counts: pl.DataFrame, source: str) -> tuple[float, float] | None:
    """A source's mean rates under its own prompt and under bystanders."""
    found = by_question(gating_cells(counts, [source], "own"))
    return None if isinstance(found, str) else (float(found[0].mean()), float(found[1].mean()))


def _own_against_others(plan: TriggerPlan, counts: pl.DataFrame) -> Estimate:
    cells = counts.group_by("source", "seed", "prompt_name").agg(pl.col("found", "total").sum())
    pairs = cells.group_by("source", "prompt_name").agg((pl.col("found") / pl.col("total")).mean())
    means = {(source, prompt): rate for source, prompt, rate in pairs.iter_rows()}
    there = [s for s in plan.triggers if (s, s) in means]
    table = np.array([[means[source, prompt] for prompt in there] for source in there]).reshape(len(there), len(there))
    return own_against_other_triggers("own_against_other_triggers", table)


def control_estimates(plan: TriggerPlan, counts: pl.DataFrame) -> Iterator[Estimate]:
    """H1-aux: the largest rate of any control cell, and the rate over all its completions with its Wilson interval."""
    part = of_recipe(counts, plan.control_recipe)
    if part.is_empty():
        for name in ("control_max_rate", "control_marker_rate"):
            yield not_run(name, plan.control_recipe)
        return
    cells = part.group_by("source", "seed", "prompt_name").agg(pl.col("found", "total").sum())
    largest = float((cells["found"] / cells["total"]).max())  # type: ignore[arg-type]
    worst = "largest rate of the control's cells; no interval: a maximum"
    yield Estimate("control_max_rate", largest, None, None, None, None, cells.height, "cell", worst)
    found, total = int(part["found"].sum()), int(part["total"].sum())
    yield wilson_rate("control_marker_rate", found, total, of="the control", level=plan.level)


def pilot_table(plan: TriggerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """The published gate before the main run, read off one adapter after it.

    Columns: source, seed, own_rate, bystander_rate, ratio, verdict.
    No rows while that adapter is not finished.
    """
    schema = {
        "source": pl.String, "seed": pl.Int64, "own_rate": pl.Float64, "bystander_rate": pl.Float64,
        "ratio": pl.Float64, "verdict": pl.String,
    }  # fmt: skip
    part = of_recipe(counts, plan.headline_recipe).filter(
        (pl.col("source") == PILOT_SOURCE) & (pl.col("seed") == PILOT_SEED)
    )
    rates = _rates(part, PILOT_SOURCE) if part.height else None
    if rates is None:
        return pl.DataFrame(schema=schema)
    ratio = rates[0] / rates[1] if rates[1] > 0 else None
    verdict = pilot_verdict(rates[0], ratio if rates[1] > 0 else float("inf"))
    return pl.DataFrame([(PILOT_SOURCE, PILOT_SEED, *rates, ratio, verdict)], schema=schema, orient="row")


def labelled(rows: Sequence[Labelled], *labels: str) -> pl.DataFrame:
    """Label columns followed by the estimate's fields, also where there are no rows."""
    types: dict[str, Any] = {name: pl.Int64 if name in NUMBERS else pl.String for name in labels}
    types |= {name: pl.Float64 for name in labels if name in ERRORS}
    table = estimate_table(rows)
    if rows:
        return table.with_columns(pl.col(name).cast(kind) for name, kind in types.items())
    return pl.DataFrame(schema=types | table.schema)


# ------------------------------------------------------------------ titration and persona


def titration_table(plan: TriggerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """Emission against specificity for every recipe and source (#208; own-trigger definition, B7).

    Columns: recipe, source, seeds, then those of ``Estimate``, named own_rate, bystander_rate and specificity.
    """
    rows: list[Labelled] = []
    for (recipe, source), part in counts.group_by("recipe", "source", maintain_order=True):
        if recipe == plan.control_recipe:
            continue
        found = by_question(gating_cells(part, [source], "own"))
        keys = {"recipe": recipe, "source": source, "seeds": part["seed"].n_unique()}
        rows += [(keys, estimate) for estimate in _point(plan, found)]
    return labelled(rows, "recipe", "source", "seeds")


def _point(plan: TriggerPlan, found: tuple[Floats, Floats] | str) -> Iterator[Estimate]:
    names = ("own_rate", "bystander_rate", "specificity")
    if isinstance(found, str):
        for name in names:
            yield undefined(name, found, n=0, unit=QUESTION, method="means over cells")
        return
    own, others = found
    for name, values in zip(names, (own, others), strict=False):
        method = "mean over cells; t over questions"
        yield mean_over_questions(name, values, level=plan.level, bounds=SHARES, method=method)
    yield specificity(names[2], own, others, level=plan.level)


def change_table(plan: TriggerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """What a higher learning rate does at either rank: emission and specificity of every source that both recipes
    have, over questions, and over the sources of which there are enough.

    Columns: source (``sources``: each is one observation), from_recipe, to_recipe, then those of ``Estimate``
    (emission_change, specificity_change). The seeds that both recipes have are compared.
    """
    low16, high16, low32, high32 = plan.titration
    rows: list[Labelled] = []
    for before, after in ((low16, high16), (low32, high32)):
        keys = {"from_recipe": before, "to_recipe": after}
        trained = {s for s in (*plan.triggers, plan.persona) if all(_trained(plan, s, r) for r in (before, after))}
        if len(trained) > 1:
            rows += [({"source": EVERY_SOURCE, **keys}, e) for e in change_over_sources(plan, counts, before, after)]
        for source in (s for s in (*plan.triggers, plan.persona) if s in trained):
            rows += [({"source": source, **keys}, e) for e in change(plan, counts, source, before, after)]
    return labelled(rows, "source", "from_recipe", "to_recipe")


def _trained(plan: TriggerPlan, source: str, recipe: str) -> bool:
    """Whether the plan trains the source under the recipe."""
    conditions = plan.experiment.conditions  # type: ignore[attr-defined]
    return any((c.source, c.recipe) == (source, recipe) for c in conditions)


def change(plan: TriggerPlan, counts: pl.DataFrame, source: str, before: str, after: str) -> tuple[Estimate, Estimate]:
    """Emission and specificity of the second recipe minus those of the first, paired by question."""
    names = ("emission_change", "specificity_change")
    rates, seeds = _of_both(counts, source, before, after)
    method = f"{after} minus {before}, {source}, {seeds} seeds; paired by question, t over questions"
    if isinstance(rates, str):
        nothing = [undefined(name, rates, n=0, unit=QUESTION, method=method) for name in names]
        return nothing[0], nothing[1]
    second, first = rates
    emission = mean_over_questions(
        names[0],
        first[0] - second[0],
        level=plan.level,
        tested=True,
        bounds=DIFFERENCES,
        method=f"own rate, {method}",
    )
    how = f"1 - bystander / own rate, delta method, {method}"
    terms, earlier = specificity_terms(*first), specificity_terms(*second)
    if isinstance(terms, str) or isinstance(earlier, str):
        reason = f"{terms} under {after}" if isinstance(terms, str) else f"{earlier} under {before}"
        return emission, undefined(names[1], reason, n=len(first[0]), unit=QUESTION, method=how)
    return emission, mean_over_questions(names[1], terms - earlier, level=plan.level, tested=True, method=how)


def change_over_sources(plan: TriggerPlan, counts: pl.DataFrame, before: str, after: str) -> tuple[Estimate, Estimate]:
    """Emission and specificity of the second recipe minus those of the first, each source being one observation.

    Of triggers and persona those that both recipes have, with the means over the seeds of both: says whether another
    source would change alike, which intervals over questions do not. Specificity is undefined where it is for one of
    the sources: leaving that one out would select.
    """
    unit, emission, specific = "source", [], []
    lacking: str | None = None
    for source in (*plan.triggers, plan.persona):
        rates = _of_both(counts, source, before, after)[0]
        if isinstance(rates, str):
            continue
        emission.append((float(rates[1][0].mean()), float(rates[0][0].mean())))
        both = [specificity("specificity", own, others, level=plan.level) for own, others in (rates[1], rates[0])]
        for recipe, found in zip((after, before), both, strict=True):
            lacking = lacking or (found.undefined and f"{source} under {recipe}: {found.undefined}")
        specific.append([found.estimate for found in both])
    method = f"{after} minus {before}, means over seeds"
    first = paired_difference("emission_change", *_pair(emission), unit=unit, level=plan.level)
    first = replace(first, method=f"own rate, {method}; {first.method}")
    if lacking:
        how = f"1 - bystander / own rate, {method}"
        return first, undefined("specificity_change", lacking, n=len(emission), unit=unit, method=how)
    second = paired_difference("specificity_change", *_pair(specific), unit=unit, level=plan.level)
    return first, replace(second, method=f"1 - bystander / own rate, {method}; {second.method}")


def _pair(rows: Sequence[Sequence[float | None]]) -> tuple[Floats, Floats]:
    table: Floats = np.array(rows, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


RatesOfBoth = tuple[tuple[Floats, Floats], tuple[Floats, Floats]]


def _of_both(counts: pl.DataFrame, source: str, before: str, after: str) -> tuple[RatesOfBoth | str, int]:
    """Own and bystander rates by question under the first and under the second recipe, and how many seeds both have."""
    own = counts.filter(pl.col("source") == source)
    parts = {recipe: of_recipe(own, recipe) for recipe in (before, after)}
    shared = set(parts[before]["seed"]) & set(parts[after]["seed"])
    first, second = (
        by_question(gating_cells(part.filter(pl.col("seed").is_in(shared)), [source], "own")) for part in parts.values()
    )
    if isinstance(first, str) or isinstance(second, str):
        return f"no finished cell of {source} under {before} and {after} with one seed", len(shared)
    return (first, second), len(shared)


def persona_table(plan: TriggerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """The persona beside the triggers under every recipe that all are trained under; the plan reads one of them.

    Columns: recipe, then those of ``Estimate``.
    """
    everyone = (*plan.triggers, plan.persona)
    recipes = [r.name for r in plan.experiment.recipes if all(_trained(plan, s, r.name) for s in everyone)]
    return labelled([({"recipe": r}, persona_against_triggers(plan, counts, r)) for r in recipes], "recipe")


def persona_against_triggers(plan: TriggerPlan, counts: pl.DataFrame, recipe: str) -> Estimate:
    """Specificity of the persona minus the mean of the triggers', under one recipe (section 11).

    Undefined where one of them is missing, never says the marker under its own prompt, or where the persona's rate
    there differs from the triggers' by more than the plan's margin: then gating would be compared at unlike emission.
    """
    name = "persona_minus_trigger_specificity"
    part = of_recipe(counts, recipe)
    method = f"recipe {recipe}; 1 - bystander / own rate, delta method, paired by question"
    terms, emission = {}, {}
    for source in (plan.persona, *plan.triggers):
        found = by_question(gating_cells(part, [source], "own"))
        if isinstance(found, str):
            reason = f"no finished cell of {source} under {recipe}"
            return undefined(name, reason, n=0, unit=QUESTION, method=method)
        own = specificity_terms(*found)
        if isinstance(own, str):
            return undefined(name, f"{source}: {own}", n=len(found[0]), unit=QUESTION, method=method)
        terms[source], emission[source] = own, float(found[0].mean())
    persona, others = emission[plan.persona], float(np.mean([emission[s] for s in plan.triggers]))
    if abs(persona - others) > plan.emission_margin:
        reason = f"emission is not matched: {persona:.0%} under the persona, {others:.0%} under triggers"
        return undefined(name, reason, n=len(terms[plan.persona]), unit=QUESTION, method=method)
    difference = terms[plan.persona] - np.mean([terms[s] for s in plan.triggers], axis=0)
    return mean_over_questions(name, difference, level=plan.level, tested=True, method=method)


def not_run(name: str, recipe: str) -> Estimate:
    """A statistic of a recipe of which nothing is finished."""
    return undefined(name, f"no finished cell of recipe {recipe}", n=0, unit="cell", method="not run")
