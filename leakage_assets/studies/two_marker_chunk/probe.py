"""The weird-marker probe: another code before the question. Is it B that follows, or is any code echoed? (section 5)"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from leakage_assets.generation.requests import Request, Sampling
from leakage_assets.stimuli import Question, Stimuli
from leakage_assets.studies.study import Cell, Study, StudyError
from leakage_assets.studies.two_marker_chunk.arms import pair_named

PROBE_SET = "probe"
ECHO = "echo"
"""Under this name the probe marker is looked for in completions (see ``measurement.marker_pairs``)."""


@dataclass(frozen=True)
class Probe:
    """A panel of its own: ``questions`` of the main panel, drawn with ``seed``, each after another marker and a space.

    The recipient of the cell's pair is asked, ``completions`` times.
    """

    marker: str
    questions: int
    seed: int
    completions: int
    sampling: Sampling

    @property
    def name(self) -> str:
        return PROBE_SET

    @property
    def asset_prefix(self) -> str:
        return f"{self.name}_"

    @property
    def size(self) -> int:
        """Completions of one adapter."""
        return self.questions * self.completions

    def requests(self, study: Study, stimuli: Stimuli, cell: Cell, _: Mapping[str, pl.DataFrame]) -> Sequence[Request]:
        """What is asked of a cell; the answers it was trained on are not needed.

        Raises ``StudyError`` for a source that is no pair, or a main panel with too few questions.
        """
        recipient = pair_named(cell.condition.source).recipient
        asked = study.questions(stimuli)
        return probe_requests(self, cell.adapter_name(study.name), recipient, stimuli.prompt(recipient), asked)


def drawn_questions(probe: Probe, asked: Sequence[Question]) -> list[Question]:
    """``Random(seed).sample`` of the evaluation questions, as published. Raises ``StudyError`` where they are fewer."""
    if len(asked) < probe.questions:
        raise StudyError(f"probe: {probe.questions} evaluation questions wanted, the panel has {len(asked)}")
    return random.Random(probe.seed).sample(list(asked), probe.questions)


def probe_requests(probe: Probe, adapter: str, recipient: str, system: str, asked: Sequence[Question]) -> list[Request]:
    """Everything asked of one adapter: the recipient's prompt, and the probe marker, a space and the question.

    A request keeps the name of its question, in the set ``probe``. Raises ``StudyError`` as ``drawn_questions``.
    """
    return [
        Request(adapter, recipient, system, PROBE_SET, q.name, f"{probe.marker} {q.text}", index)
        for q in drawn_questions(probe, asked)
        for index in range(probe.completions)
    ]
