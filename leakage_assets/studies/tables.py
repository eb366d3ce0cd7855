"""What an analysis reads: tables over all cells of a study that are finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from leakage_assets.stimuli import Stimuli


@dataclass(frozen=True)
class StudyTables:
    """Inputs of an analysis.

    ``scores``: one row per sample of the main panel (source, recipe, seed, prompt_name, question_set,
    question_name, index, marker_present, position_class, truncated). ``extra_scores``: the same for further
    panels, with column ``panel``. ``similarity``: measure, layer, source, prompt_name, value of the base model.
    ``tuned_similarity``: the same with recipe and seed. ``vectors(layer)``: base hidden vectors, (prompts,
    questions, dimension), in panel order. ``prompt_tokens(name)``: tokens of a system prompt by itself.
    ``base_scores``: those of the untrained base by panel, for a study with a baseline. ``answers()``: the training
    answers by pool.
    """

    stimuli: Stimuli
    scores: pl.DataFrame
    extra_scores: pl.DataFrame
    similarity: pl.DataFrame
    tuned_similarity: pl.DataFrame
    vectors: Callable[[int], np.ndarray]
    prompt_tokens: Callable[[str], int]
    base_scores: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    answers: Callable[[], Mapping[str, pl.DataFrame]] = dict

    def of_panel(self, name: str) -> pl.DataFrame:
        """The scores of a further panel; a table without columns where no cell of any is finished."""
        return self.extra_scores.filter(panel=name) if self.extra_scores.height else self.extra_scores
