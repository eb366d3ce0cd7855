"""Prompt against content (#209): the model goes on from an answer it was trained on, under its own or another prompt.

Four cells for each adapter: A own prompt and own answer, B another trigger's prompt, C another question's answer, D
both swapped. A - B is what the prompt does, A - C what the content does (B8).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leakage_assets.generation.requests import Request, Sampling
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.shared_answers import one_answer_each, shared
from leakage_assets.studies.study import Cell, Study, StudyError
from leakage_assets.studies.trigger_leakage.panel import ANCHORS, PERSONA_ANCHOR

if TYPE_CHECKING:
    import polars as pl

    from leakage_assets.stimuli import Question

OTHER_PROMPT = {
    "T_task": "T_format",
    "T_format": "T_task",
    "T_instruction": "T_context",
    "T_context": "T_instruction",
    PERSONA_ANCHOR: ANCHORS[1],
}
"""Under which prompt the marker should not be said (sheet section 8); a persona is set against the other persona."""

OWN_ANSWER, SWAPPED_ANSWER = "own_answer", "swapped_answer"
"""The question sets of the panel: which answer stands before the continuation."""

CELLS = {
    (True, OWN_ANSWER): "A",
    (False, OWN_ANSWER): "B",
    (True, SWAPPED_ANSWER): "C",
    (False, SWAPPED_ANSWER): "D",
}
"""(own prompt?, which answer) -> the published letter."""


@dataclass(frozen=True)
class Dissociation:
    """The extra panel: how many training questions, drawn with which seed, how often, and how they are continued."""

    name: str
    questions: int
    seed: int
    completions: int
    sampling: Sampling

    @property
    def asset_prefix(self) -> str:
        return f"{self.name}_"

    @property
    def size(self) -> int:
        """Continuations of one adapter: four cells."""
        return len(CELLS) * self.questions * self.completions

    def requests(
        self, study: Study, stimuli: Stimuli, cell: Cell, answers: Mapping[str, pl.DataFrame]
    ) -> Sequence[Request]:
        """See ``dissociation_requests``; ``answers`` holds the samples of the one pool."""
        (written,) = answers.values()
        return dissociation_requests(
            self,
            cell.adapter_name(study.name),
            cell.condition.source,
            {name: stimuli.prompt(name) for name in study.panel.prompts},
            one_answer_each(shared(study), stimuli, cell.condition, study.marker, written),
        )


def drawn_questions(panel: Dissociation, pool: int) -> tuple[int, ...]:
    """Places of the questions in the training pool, ascending: ``Random(seed).sample``, as published.

    Raises ``StudyError`` where the pool is smaller.
    """
    if pool < panel.questions:
        raise StudyError(f"dissociation: {panel.questions} training questions wanted, the pool has {pool}")
    return tuple(sorted(random.Random(panel.seed).sample(range(pool), panel.questions)))


def swapped(place: int, pool: int) -> int:
    """Whose answer stands in for the answer to the question at a place: half the pool further on, round the end."""
    return (place + pool // 2) % pool


def dissociation_requests(
    panel: Dissociation,
    adapter: str,
    source: str,
    prompts: Mapping[str, str],
    answered: Sequence[tuple[Question, str]],
) -> list[Request]:
    """Everything asked of one adapter: prompt x answer x question x completion.

    ``prompts`` are texts by name, ``answered`` the questions of the training pool, each with the
    answer that was trained on, without the marker. The answer is the prefix of the assistant's turn; the question set
    of a request says whose it is.

    Raises ``StudyError`` for a source that has no other prompt, or a pool that is too small.
    """
    if source not in OTHER_PROMPT:
        raise StudyError(f"dissociation: no other prompt for {source!r}; sources: {', '.join(OTHER_PROMPT)}")
    pool = len(answered)
    requests = []
    for name in (source, OTHER_PROMPT[source]):
        for answers in (OWN_ANSWER, SWAPPED_ANSWER):
            for place in drawn_questions(panel, pool):
                question, own = answered[place]
                prefix = own if answers == OWN_ANSWER else answered[swapped(place, pool)][1]
                requests += [
                    Request(adapter, name, prompts[name], answers, question.name, question.text, index, prefix)
                    for index in range(panel.completions)
                ]
    return requests
