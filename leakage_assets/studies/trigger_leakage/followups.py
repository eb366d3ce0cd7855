"""#209, prompt against content, and #210, instructions as statements."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from leakage_assets.statistics.gating import DIFFERENCES, QUESTION, SHARES, mean_over_questions
from leakage_assets.statistics.paired import paired_difference
from leakage_assets.statistics.resampling import Floats
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined
from leakage_assets.studies.trigger_leakage.cells import of_recipe
from leakage_assets.studies.trigger_leakage.design import TriggerPlan
from leakage_assets.studies.trigger_leakage.dissociation import CELLS
from leakage_assets.studies.trigger_leakage.gates import TOGETHER, Labelled, labelled

EFFECTS = {
    "prompt_effect": ("A", "B", "A - B: what the prompt does"),
    "content_effect": ("A", "C", "A - C: what the content does"),
    "both_effect": ("A", "D", "A - D: what both do"),
}
"""The code behind #209 calls these two the other way round (B8)."""

NOT_SAMPLED = "no finished continuations"


def dissociation_table(plan: TriggerPlan, scores: pl.DataFrame) -> pl.DataFrame:
    """Rates of the four cells, and the effects of prompt and content, for each recipe and source, and the mean of the
    triggers.

    Columns: recipe, source, statistic (A, B, C, D or an effect), then those of ``Estimate``; intervals and p over
    questions, seeds averaged.
    """
    rows: list[Labelled] = []
    for recipe in _recipes(plan):
        for source, grid in cell_grids(plan, scores, recipe).items():
            keys = {"recipe": recipe, "source": source}
            for cell, values in grid.items():
                method = "mean over samples of each question; t over questions"
                mean = mean_over_questions(cell, values, level=plan.level, bounds=SHARES, method=method)
                rows.append(({**keys, "statistic": cell}, mean))
            rows += [({**keys, "statistic": e.name}, e) for e in _effects(plan, grid)]
    return labelled(rows, "recipe", "source", "statistic")


def _recipes(plan: TriggerPlan) -> list[str]:
    return [recipe.name for recipe in plan.experiment.recipes]


def dissociation_headline(plan: TriggerPlan, scores: pl.DataFrame) -> Iterator[Estimate]:
    """The effects over all triggers together."""
    grids = cell_grids(plan, scores, plan.headline_recipe)
    if TOGETHER not in grids:
        reason = _lacking(plan, grids, NOT_SAMPLED)
        for name, (_, _, words) in EFFECTS.items():
            yield undefined(f"{name}_triggers", reason, n=0, unit=QUESTION, method=words)
        return
    for estimate in _effects(plan, grids[TOGETHER]):
        yield replace(estimate, name=f"{estimate.name}_triggers")


def _lacking(plan: TriggerPlan, there: Collection[str], nothing: str) -> str:
    """Why the triggers have no mean: what is not finished, and of which of them where others have it."""
    lost = [trigger for trigger in plan.triggers if trigger not in there]
    return f"{nothing} of {', '.join(lost)}" if 0 < len(lost) < len(plan.triggers) else nothing


def _effects(plan: TriggerPlan, grid: Mapping[str, Floats]) -> Iterator[Estimate]:
    for name, (first, second, words) in EFFECTS.items():
        yield mean_over_questions(
            name,
            grid[first] - grid[second],
            level=plan.level,
            tested=True,
            bounds=DIFFERENCES,
            method=f"{words}; paired by question, t over questions",
        )


def cell_grids(plan: TriggerPlan, scores: pl.DataFrame, recipe: str) -> dict[str, dict[str, Floats]]:
    """Rate of each question in the four cells, (Q,) each, for every finished source of a recipe, and the mean of the
    triggers if all are there.

    Raises ``StatisticsError`` naming a question that a cell lacks.
    """
    if scores.is_empty():
        return {}
    kept = of_recipe(scores, recipe)
    rates = (
        kept.with_columns((pl.col("prompt_name") == pl.col("source")).alias("own"))
        .group_by("source", "seed", "own", "question_set", "question_name")
        .agg(pl.col("marker_present").mean().alias("rate"))
        .group_by("source", "own", "question_set", "question_name")
        .agg(pl.col("rate").mean())
    )
    grids: dict[str, dict[str, Floats]] = {}
    for source in (*plan.triggers, plan.persona):
        own = rates.filter(pl.col("source") == source)
        if own.is_empty():
            continue
        questions = own["question_name"].unique().sort().to_list()
        found = {(o, s, q): r for o, s, q, r in own.select("own", "question_set", "question_name", "rate").iter_rows()}
        grids[source] = {}
        for (prompt, answers), cell in CELLS.items():
            lost = [q for q in questions if (prompt, answers, q) not in found]
            if lost:
                raise StatisticsError(f"dissociation of {source}: no continuation of {lost[0]!r} in cell {cell}")
            grids[source][cell] = np.array([found[prompt, answers, q] for q in questions])
    triggers = [grids[trigger] for trigger in plan.triggers if trigger in grids]
    if len(triggers) == len(plan.triggers) and len({len(grid["A"]) for grid in triggers}) == 1:
        grids[TOGETHER] = {cell: np.mean([g[cell] for g in triggers], axis=0) for cell in CELLS.values()}
    return grids


def declarative_table(plan: TriggerPlan, cells: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """Instructions and their declarative rewrites, paired by prompt, for every recipe and source and the mean of the
    triggers.

    ``cells`` are the main panel's of all recipes (see ``cells.rate_cells``), ``scores`` those of the rewrites.
    Columns: recipe, source, statistic (original, rewritten, difference: rewritten - original), then those of
    ``Estimate``.
    """
    rows: list[Labelled] = []
    pairs = [
        ({"recipe": recipe, "source": source}, rates)
        for recipe in _recipes(plan)
        for source, rates in rewrite_rates(plan, cells, scores, recipe).items()
    ]
    for keys, (original, rewritten) in pairs:
        n = len(original)
        for name, values in (("original", original), ("rewritten", rewritten)):
            mean = Estimate(
                name, float(values.mean()), None, None, None, None, n, "prompt", "mean over the instruction prompts"
            )
            rows.append(({**keys, "statistic": name}, mean))
        difference = paired_difference("difference", rewritten, original, unit="prompt", level=plan.level)
        rows.append(({**keys, "statistic": "difference"}, difference))
    return labelled(rows, "recipe", "source", "statistic")


def declarative_headline(plan: TriggerPlan, cells: pl.DataFrame, scores: pl.DataFrame) -> Estimate:
    """The difference over the mean of the triggers, under the headline recipe."""
    rates = rewrite_rates(plan, cells, scores, plan.headline_recipe)
    if TOGETHER not in rates:
        reason = _lacking(plan, rates, f"no finished rewrites under recipe {plan.headline_recipe}")
        return undefined("declarative_difference", reason, n=0, unit="prompt", method="not run")
    original, rewritten = rates[TOGETHER]
    return paired_difference("declarative_difference", rewritten, original, unit="prompt", level=plan.level)


def rewrite_rates(
    plan: TriggerPlan, cells: pl.DataFrame, scores: pl.DataFrame, recipe: str
) -> dict[str, tuple[Floats, Floats]]:
    """Rates under the originals and under their rewrites, (8,) each, seeds averaged, by source; and the triggers' mean.

    Only seeds of which both are there count; a source without any is left out.
    """
    if scores.is_empty() or cells.is_empty():
        return {}
    keys = ["source", "seed", "prompt_name"]
    again = of_recipe(scores, recipe).group_by(keys).agg(pl.col("marker_present").mean().alias("rewritten"))
    renamed = pl.DataFrame({"prompt_name": [o for o, _ in plan.rewrites], "rewrite": [r for _, r in plan.rewrites]})
    both = (
        of_recipe(cells, recipe)
        .select(*keys, "rate")
        .join(renamed, on="prompt_name", how="inner")
        .join(again, left_on=["source", "seed", "rewrite"], right_on=keys, how="inner")
        .group_by("source", "prompt_name")
        .agg(pl.col("rate", "rewritten").mean())
    )
    rates = {}
    for source in (*plan.triggers, plan.persona):
        own = both.filter(pl.col("source") == source)
        values = {p: (o, r) for p, o, r in own.select("prompt_name", "rate", "rewritten").iter_rows()}
        if len(values) == len(plan.rewrites):
            ordered = np.array([values[original] for original, _ in plan.rewrites])
            rates[source] = (ordered[:, 0], ordered[:, 1])
    if all(trigger in rates for trigger in plan.triggers):
        original, rewritten = (np.mean([rates[t][i] for t in plan.triggers], axis=0) for i in (0, 1))
        rates[TOGETHER] = (original, rewritten)
    return rates
