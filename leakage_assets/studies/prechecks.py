"""What must hold before anything of a study is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from leakage_assets.stimuli import Stimuli

Outcome = Literal["ok", "warn", "block"]


@dataclass(frozen=True, slots=True)
class Precheck:
    """One requirement: what was measured (None where it does not exist), the limit, and what follows."""

    name: str
    value: float | None
    limit: float
    outcome: Outcome
    detail: str


@dataclass(frozen=True)
class PrecheckInputs:
    """What the checks are read from.

    ``similarity``: measure, layer, source, prompt_name, value of the base model. ``base_scores``: scores of the base
    model under the study's ``silent_prompts``, one row per sample (see ``Study.scoring``).
    ``rendered(system, user)``: a conversation as the chat template has it, up to the generation prompt.
    ``encode(text)``: token ids without special tokens; ``end_of_turn``: the id that ends a turn.
    ``system_turns(layer)``: what the base makes of the prompts of the panel by themselves, (prompts, dimension), for a
    study that asks for it. ``question_vectors(system, questions, layer)``: hidden vectors of questions under a prompt
    at the last input token, (questions, dimension).
    """

    stimuli: Stimuli
    similarity: pl.DataFrame
    base_scores: pl.DataFrame
    rendered: Callable[[str, str], str]
    encode: Callable[[str], Sequence[int]]
    end_of_turn: int
    system_turns: Callable[[int], np.ndarray]
    question_vectors: Callable[[str, Sequence[str], int], np.ndarray]


ASKED = "Why?"


def template_additions(prompts: Mapping[str, str], rendered: Callable[[str, str], str]) -> Precheck:
    """How many prompts (by name) do not stand once, as written, in the frame that the template puts around the first.

    An empty prompt must leave that frame empty. One that is not so blocks.
    """
    first = next(iter(prompts.values()))
    before, _, after = rendered(first, ASKED).partition(first)
    other = [name for name, text in prompts.items() if rendered(text, ASKED) != f"{before}{text}{after}"]
    detail = f"differently framed: {', '.join(other)}" if other else "every prompt stands once, in the same frame"
    return Precheck("prompts the template changes", len(other), 0.0, "block" if other else "ok", detail)
