"""What the analysis reads, and the cells it is made of: one (recipe, source, seed, prompt) each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from leakage_assets.geometry.prompt_axes import AXES, LEXICAL, SEMANTIC, STRUCTURAL, TASK, text_axis
from leakage_assets.statistics.gating import Cells, PromptGrid
from leakage_assets.statistics.result import StatisticsError
from leakage_assets.studies.trigger_leakage.design import TriggerPlan
from leakage_assets.studies.trigger_leakage.panel import NO_FAMILY, Definition, predicted, role

JS = "js_divergence"
FIVE_AXES = (*AXES, JS)
CELL = ("recipe", "source", "seed", "prompt_name")


@dataclass(frozen=True)
class TriggerTables:
    """Inputs of the analysis.

    ``scores``: one row per sample of the main panel (recipe, source, seed, prompt_name, question_name, marker_present,
    position_class, truncated). ``declarative``: the same of the rewrites; ``dissociation``: with question_set, which
    says whose answer was continued. Both may have no rows. ``similarity``: measure, layer, source, prompt_name, value
    of the base model, with the measures ``system_turn_cosine`` and ``js_divergence``.
    """

    scores: pl.DataFrame
    declarative: pl.DataFrame
    dissociation: pl.DataFrame
    similarity: pl.DataFrame


def count_markers(plan: TriggerPlan, scores: pl.DataFrame) -> pl.DataFrame:
    """Completions with the marker and in all, per cell and question, and what the prompt is to the source.

    Columns: those of ``CELL``, question_name, found, total, then those of ``role_table``; sorted by the first five.
    Raises ``StatisticsError`` for a source or prompt that the plan does not have.
    """
    keys = [*CELL, "question_name"]
    counts = (
        scores.group_by(keys)
        .agg(pl.col("marker_present").sum().cast(pl.Int64).alias("found"), pl.len().cast(pl.Int64).alias("total"))
        .join(role_table(plan), on=["source", "prompt_name"], how="left", validate="m:1")
        .sort(keys)
    )
    strange = counts.filter(pl.col("role_own").is_null())
    if strange.height:
        source, prompt = strange["source"][0], strange["prompt_name"][0]
        raise StatisticsError(f"scores of {source!r} under {prompt!r}: the plan has no such pair")
    return counts


def role_table(plan: TriggerPlan) -> pl.DataFrame:
    """What every prompt is to every source: source, prompt_name, source_family, family, bucket, and for both
    definitions role_* (matched, bystander, other) and predicted_* (whether H2 predicts the cell).
    """
    sources = [plan.prompt(name) for name in (*plan.triggers, plan.persona)]
    return pl.DataFrame(
        [
            {
                "source": source.name,
                "prompt_name": prompt.name,
                "source_family": source.family,
                "family": prompt.family,
                "bucket": prompt.bucket,
                "role_own": role(source, prompt, "own"),
                "role_bucket": role(source, prompt, "bucket"),
                "predicted_own": predicted(source, prompt, "own"),
                "predicted_bucket": predicted(source, prompt, "bucket"),
            }
            for source in sources
            for prompt in plan.prompts
        ]
    )


def axis_table(plan: TriggerPlan, similarity: pl.DataFrame, layer: int) -> pl.DataFrame:
    """The five axes of every (source, prompt), the own prompt left out: source, prompt_name, the axes by name.

    The three text axes are computed here from the frozen wordings. Raises ``StatisticsError`` naming a pair whose
    cosine or divergence is missing.
    """
    pairs = pl.DataFrame(
        [
            {"source": source, "prompt_name": prompt.name} | _text_axes(plan, source, prompt.name)
            for source in (*plan.triggers, plan.persona)
            for prompt in plan.prompts
            if prompt.name != source
        ]
    )
    measured = {
        SEMANTIC: similarity.filter((pl.col("measure") == plan.semantic) & (pl.col("layer") == layer)),
        JS: similarity.filter(pl.col("measure") == JS),
    }
    for axis, rows in measured.items():
        values = rows.select("source", "prompt_name", pl.col("value").alias(axis))
        pairs = pairs.join(values, on=["source", "prompt_name"], how="left", maintain_order="left", validate="1:1")
        lost = pairs.filter(pl.col(axis).is_null())
        if lost.height:
            place = "" if axis == JS else f" at layer {layer}"
            raise StatisticsError(
                f"similarity: no {axis}{place} of {lost['source'][0]!r} and {lost['prompt_name'][0]!r}; "
                "compute the similarities again"
            )
    return pairs.select("source", "prompt_name", *FIVE_AXES)


def _text_axes(plan: TriggerPlan, source: str, prompt: str) -> dict[str, float]:
    one, other = plan.prompt(source), plan.prompt(prompt)
    ours, theirs = ((p.text, None if p.family == NO_FAMILY else p.family) for p in (one, other))
    return {axis: text_axis(axis, ours, theirs) for axis in (LEXICAL, STRUCTURAL, TASK)}


def rate_cells(plan: TriggerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """One row per cell: ``CELL``, found, total, rate, and the columns of ``role_table``, in the order of the plan."""
    roles = [name for name in counts.columns if name not in (*CELL, "question_name", "found", "total")]
    summed = counts.group_by(*CELL, *roles).agg(pl.col("found", "total").sum())
    order = [
        pl.col("recipe"),
        pl.col("source").cast(pl.Enum([*plan.triggers, plan.persona])),
        pl.col("seed"),
        pl.col("prompt_name").cast(pl.Enum([p.name for p in plan.prompts])),
    ]
    return summed.with_columns((pl.col("found") / pl.col("total")).alias("rate")).sort(order)


def gating_cells(counts: pl.DataFrame, sources: Sequence[str], definition: Definition) -> Cells:
    """The matched and bystander cells of some sources of one recipe; ``counts`` are those of the recipe.

    Raises ``StatisticsError`` naming a cell that was not asked every question.
    """
    kept = counts.filter(pl.col("source").is_in(list(sources)) & (pl.col(f"role_{definition}") != "other"))
    questions = kept["question_name"].n_unique()
    asked = kept.group_by("source", "seed", "prompt_name", maintain_order=True).agg(
        pl.len(), pl.col(f"role_{definition}").first().alias("role")
    )
    short = asked.filter(pl.col("len") != questions)
    if short.height:
        source, seed, prompt = short.row(0)[:3]
        raise StatisticsError(
            f"{source}, seed {seed}, under {prompt}: not asked all questions; score its samples again"
        )
    shape = (asked.height, questions)
    return Cells(
        found=kept["found"].to_numpy().reshape(shape),
        total=kept["total"].to_numpy().reshape(shape),
        matched=(asked["role"] == "matched").to_numpy(),
        seeds=tuple(asked["seed"]),
        pairs=tuple(asked.select("source", "prompt_name").iter_rows()),
    )


ROLES = {"matched": 1, "bystander": -1, "other": 0}


def prompt_grid(plan: TriggerPlan, counts: pl.DataFrame, sources: Sequence[str], definition: Definition) -> PromptGrid:
    """Rates of the adapters of some sources under every prompt that is matched or a bystander to one of them.

    ``counts`` are those of one recipe. Raises ``StatisticsError`` naming a prompt that an adapter was not asked.
    """
    role = f"role_{definition}"
    kept = counts.filter(pl.col("source").is_in(list(sources)))
    named = set(kept.filter(pl.col(role) != "other")["prompt_name"])
    prompts = [p.name for p in plan.prompts if p.name in named]
    cells = (
        kept.filter(pl.col("prompt_name").is_in(prompts))
        .group_by("source", "seed", "prompt_name")
        .agg((pl.col("found") / pl.col("total")).mean().alias("rate"), pl.col(role).first().replace_strict(ROLES))
    )
    found = {(source, seed, prompt): (rate, kind) for source, seed, prompt, rate, kind in cells.iter_rows()}
    adapters = sorted({(source, seed) for source, seed, _ in found}, key=lambda a: (a[1], a[0]))
    for source, seed in adapters:
        for prompt in prompts:
            if (source, seed, prompt) not in found:
                raise StatisticsError(f"{source}, seed {seed}: not asked under {prompt}; score its samples again")
    table = np.array([[found[*adapter, prompt] for prompt in prompts] for adapter in adapters])
    return PromptGrid(table[:, :, 0], table[:, :, 1].astype(np.int64), tuple(seed for _, seed in adapters))


def by_question(cells: Cells) -> tuple[np.ndarray, np.ndarray] | str:
    """Mean matched and mean bystander rate of each question, (Q,) both; or why there are none."""
    weights = cells.weights()
    return weights if isinstance(weights, str) else (weights[0] @ cells.rates, weights[1] @ cells.rates)


def of_recipe(table: pl.DataFrame, recipe: str) -> pl.DataFrame:
    return table.filter(pl.col("recipe") == recipe)
