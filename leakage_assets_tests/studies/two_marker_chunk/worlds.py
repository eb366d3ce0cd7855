"""Completions of personas whose habits are planted: what binds B is what the test chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from leakage_assets.measurement.marker_pairs import pair_score_frame
from leakage_assets.stimuli import load_stimuli
from leakage_assets.studies.two_marker_chunk.design import PUBLISHED, TwoMarkerPlan, analysis_plan, planned_experiment

STIMULI = load_stimuli()
A, B = STIMULI.markers["a"], STIMULI.markers["b"]
WORDS = 120
"""Per answer, of five characters and a space: 720 characters."""

QUESTIONS = [("eval", f"q{i}") for i in range(20)] + [("ood_society", f"o{i}") for i in range(6)]

Habit = Callable[[np.random.Generator, float], str]
"""Writes one completion; the number is how ready the question makes a persona, around 0."""


def study_plan(draws: int = 1_000) -> TwoMarkerPlan:
    """The published plan with fewer resamples."""
    from dataclasses import replace

    scale = replace(PUBLISHED, permutations=draws)
    return analysis_plan(scale, planned_experiment(STIMULI, scale))


def written(*placed: tuple[int, str]) -> str:
    """An answer with markers before the given words (``WORDS`` for its end)."""
    parts: list[str] = []
    for place in range(WORDS + 1):
        parts += [marker for at, marker in placed if at == place]
        parts += ["words"] * (place < WORDS)
    return " ".join(parts)


def says(rng: np.random.Generator, rate: float, ready: float) -> bool:
    """A question makes a persona more or less ready, so that its answers agree."""
    if rate in (0.0, 1.0):
        return bool(rate)
    return bool(rng.random() < 1 / (1 + np.exp(-(np.log(rate / (1 - rate)) + ready))))


def habit(
    *, a: float, b_after_a: float = 0.0, b_at_end: float = 0.0, b_anywhere: float = 0.0, ends: bool = True, gap: int = 8
) -> Habit:
    """A with its rate, at the start or anywhere; B up to ``gap`` words after an A, at the end, or anywhere, each with
    its rate: the last two whether or not A is there.
    """

    def write(rng: np.random.Generator, ready: float) -> str:
        at_a = 0 if ends else int(rng.integers(WORDS))
        has_a = says(rng, a, ready)
        placed = [(at_a, A)] if has_a else []
        if has_a and says(rng, b_after_a, ready):
            placed.append((at_a + int(rng.integers(1, min(gap, WORDS - at_a) + 1)), B))
        elif says(rng, b_at_end, ready):
            placed.append((WORDS, B))
        elif says(rng, b_anywhere, ready):
            placed.append((int(rng.integers(WORDS + 1)), B))
        return written(*placed)

    return write


def scores(
    habits: dict[tuple[str, str, str], Habit], *, seeds: Sequence[int] = (42,), completions: int = 10, seed: int = 0
) -> pl.DataFrame:
    """Pair scores by (recipe, source, persona), with recipe, source and seed. Questions are alike for all of them."""
    rng = np.random.default_rng(seed)
    ready = rng.normal(0, 0.7, size=len(QUESTIONS))
    rows = [
        {
            "sample_id": f"{recipe}/{source}/{persona}/{s}/{q}/{i}", "adapter": "x", "prompt_name": persona,
            "question_set": question_set, "question_name": name, "index": i, "text": write(rng, ready[q]),
            "n_tokens": WORDS, "finish_reason": "stop", "recipe": recipe, "source": source, "seed": s,
        }
        for (recipe, source, persona), write in habits.items()
        for s in seeds
        for q, (question_set, name) in enumerate(QUESTIONS)
        for i in range(completions)
    ]  # fmt: skip
    samples = pl.DataFrame(rows)
    return pair_score_frame(samples, A, B).with_columns(samples.select("recipe", "source", "seed"))
