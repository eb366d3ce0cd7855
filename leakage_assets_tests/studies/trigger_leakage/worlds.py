"""Scores of the trigger study whose truth is planted: the rate of every cell is a function that the test chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from leakage_assets.studies.trigger_leakage.cells import TriggerTables
from leakage_assets.studies.trigger_leakage.design import (
    PUBLISHED,
    TriggerPlan,
    analysis_plan,
    planned_experiment,
)
from leakage_assets.studies.trigger_leakage.dissociation import CELLS, OTHER_PROMPT
from leakage_assets.studies.trigger_leakage.panel import PanelPrompt

SCALE = PUBLISHED

Rate = Callable[[str, PanelPrompt, PanelPrompt], float]
"""(recipe, source, prompt) -> the share of completions with the marker."""


@dataclass(frozen=True)
class Design:
    """Which adapters there are (recipe -> source -> seeds), and how much is asked of each."""

    adapters: Mapping[str, Mapping[str, Sequence[int]]]
    questions: int = 20
    completions: int = 10


def plan_of(stimuli, **changes) -> TriggerPlan:
    from dataclasses import replace

    return replace(analysis_plan(stimuli, SCALE, planned_experiment(stimuli, SCALE)), **changes)


def published_design(plan: TriggerPlan) -> Design:
    """All adapters of #207 and #208, and ours."""
    seeds = plan.experiment.seeds
    triggers = dict.fromkeys(plan.triggers, seeds)
    return Design(
        {
            plan.headline_recipe: triggers | {plan.persona: seeds},
            plan.control_recipe: {"T_task": (42,)},
            "rank16_low": {"T_task": (42,)},
            "rank16_high": {"T_task": (42,)},
            plan.gentle_recipe: triggers | {plan.persona: seeds},
            plan.matched_recipe: triggers | {plan.persona: seeds},
        }
    )


def scores(plan: TriggerPlan, design: Design, rate: Rate, *, seed: int, names: Sequence[str] = ()) -> pl.DataFrame:
    """Samples of the main panel, or of the prompts ``names`` with the rates of the prompts they stand for."""
    rng = np.random.default_rng(seed)
    asked = [(p.name, p) for p in plan.prompts]
    if names:
        asked = [(rewrite, plan.prompt(original)) for original, rewrite in plan.rewrites if rewrite in names]
    adapters = [
        (recipe, source, seed_)
        for recipe, sources in design.adapters.items()
        for source, seeds in sources.items()
        for seed_ in seeds
    ]
    per_question = design.completions
    size = len(asked) * design.questions * per_question
    parts = []
    for recipe, source, training_seed in adapters:
        rates = np.array([rate(recipe, plan.prompt(source), prompt) for _, prompt in asked])
        drawn = rng.random((len(asked), design.questions, per_question)) < rates[:, None, None]
        parts.append(
            pl.DataFrame(
                {
                    "recipe": [recipe] * size,
                    "source": [source] * size,
                    "seed": [training_seed] * size,
                    "prompt_name": np.repeat([name for name, _ in asked], design.questions * per_question),
                    "question_name": np.tile(
                        np.repeat([f"q{q:02d}" for q in range(design.questions)], per_question), len(asked)
                    ),
                    "marker_present": drawn.ravel(),
                    "position_class": np.where(drawn.ravel(), "suffix", "absent"),
                    "truncated": rng.random(size) < 0.1,
                }
            )
        )
    return pl.concat(parts)


def continuations(
    plan: TriggerPlan, rate: Callable[[str, str], float], *, seed: int, seeds: Sequence[int] = (42,)
) -> pl.DataFrame:
    """Scores of the dissociation panel: ``rate`` of (source, cell letter), 20 questions x 5 continuations."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "recipe": plan.headline_recipe,
            "source": source,
            "seed": training_seed,
            "prompt_name": source if own else OTHER_PROMPT[source],
            "question_set": answers,
            "question_name": f"t{question:02d}",
            "marker_present": bool(rng.random() < rate(source, cell)),
            "position_class": "suffix",
            "truncated": False,
        }
        for source in plan.triggers
        for training_seed in seeds
        for (own, answers), cell in CELLS.items()
        for question in range(20)
        for _ in range(5)
    ]
    return pl.DataFrame(rows)


def similarities(plan: TriggerPlan, *, seed: int = 5, layers: Sequence[int] = (15, 19, 20)) -> pl.DataFrame:
    """Cosines around 0 that are higher within a family, and divergences that fall with them."""
    rng = np.random.default_rng(seed)
    rows = []
    for source in (*plan.triggers, plan.persona):
        for prompt in plan.prompts:
            related = plan.prompt(source).family == prompt.family
            cosine = 1.0 if prompt.name == source else float(np.clip(0.3 * related + 0.2 * rng.normal(), -1, 1))
            pair = {"source": source, "prompt_name": prompt.name}
            rows += [pair | {"measure": plan.semantic, "layer": layer, "value": cosine} for layer in layers]
            divergence = float(np.clip(0.5 - 0.3 * cosine + 0.1 * rng.normal(), 0, 1))
            rows.append(pair | {"measure": "js_divergence", "layer": None, "value": divergence})
    return pl.DataFrame(rows, schema_overrides={"layer": pl.Int64})


EMPTY = pl.DataFrame()


def tables(
    plan: TriggerPlan,
    main: pl.DataFrame,
    *,
    declarative: pl.DataFrame = EMPTY,
    dissociation: pl.DataFrame = EMPTY,
    similarity: pl.DataFrame | None = None,
) -> TriggerTables:
    return TriggerTables(main, declarative, dissociation, similarities(plan) if similarity is None else similarity)
