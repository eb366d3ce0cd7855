"""What must hold before anything of a study is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
    model under the study's ``silent_prompts``, one row per sample. ``rendered(system, user)``: a conversation as the
    chat template has it, up to the generation prompt.
    """

    stimuli: Stimuli
    similarity: pl.DataFrame
    base_scores: pl.DataFrame
    rendered: Callable[[str, str], str]
