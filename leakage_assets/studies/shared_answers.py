"""The training rows: the same answers for every source, so that only prompt and marker differ (sheet section 3)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leakage_assets.generation.requests import Sampling
from leakage_assets.stimuli import Question, Stimuli
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.studies.study import AnswerPool, Condition, Study, StudyError

if TYPE_CHECKING:
    import polars as pl

    from leakage_assets.training.recipe import Recipe
    from leakage_assets.training.rows import Row


@dataclass(frozen=True)
class SharedAnswers:
    """Answers written once, by the base model under the prompt ``writer``, and shared by all sources (pool ``name``).

    ``questions``: (question set, how many of its first); one answer each becomes a row, the first of ``completions``
    that does not contain the marker. ``negatives`` of the ``negative_pool`` are drawn for a source, unless ``chosen``
    names them for its (recipe, source).
    """

    name: str
    writer: str
    questions: tuple[tuple[str, int], ...]
    completions: int
    sampling: Sampling
    negative_pool: tuple[str, ...]
    negatives: int
    chosen: tuple[tuple[str, str, tuple[str, ...]], ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        return (self.writer, *self.negative_pool)

    @property
    def question_counts(self) -> tuple[tuple[str, int], ...]:
        return self.questions

    @property
    def used(self) -> int:
        """One answer to each question becomes a row of every prompt."""
        return 1

    @property
    def pools(self) -> tuple[AnswerPool, ...]:
        return (AnswerPool(self.name, self.writer, self.questions, self.completions, self.sampling),)

    @property
    def rows(self) -> int:
        """Training rows of a condition: positives and negatives."""
        return sum(count for _, count in self.questions) * (1 + self.negatives)

    def asked(self, stimuli: Stimuli) -> tuple[Question, ...]:
        """The questions, in order."""
        return tuple(q for name, count in self.questions for q in stimuli.questions(name)[:count])


def require_questions(study: str, stimuli: Stimuli, wanted: Sequence[tuple[str, int]]) -> None:
    """Refuse question sets (name, how many) that are smaller than wanted. Raises ``StudyError`` naming the first."""
    for name, count in wanted:
        there = len(stimuli.questions(name))
        if there < count:
            raise StudyError(f"study {study}: {count} questions of {name!r} wanted, questions.yaml has {there}")


def shared(study: Study) -> SharedAnswers:
    """The answers that all sources of a study share. Raises ``TypeError`` for a study that has none."""
    if not isinstance(study.data, SharedAnswers):
        raise TypeError(f"study {study.name}: its answers are {type(study.data).__name__}, not shared")
    return study.data


def pools(study: Study, _: Condition) -> tuple[str, ...]:
    """One pool for all conditions."""
    return tuple(pool.name for pool in study.data.pools)


def negatives(data: SharedAnswers, study: str, condition: Condition) -> tuple[str, ...]:
    """The prompts whose rows carry no marker.

    Drawn by a stable hash of the study and the source (the published draw hung on the interpreter's string hash, D7),
    so that it is the same for every recipe and seed; or as ``chosen`` says.
    """
    for recipe, source, names in data.chosen:
        if (recipe, source) == (condition.recipe, condition.source):
            return names
    others = [name for name in data.negative_pool if name != condition.source]
    return tuple(random.Random(derive_seed("negatives", study, condition.source)).sample(others, k=data.negatives))


def training_rows(
    data: SharedAnswers,
    stimuli: Stimuli,
    condition: Condition,
    *,
    study: str,
    recipe: Recipe,
    marker: str,
    answers: pl.DataFrame,
) -> list[Row]:
    """Positives (source prompt, answer, blank line, marker) and negatives (answer alone), shuffled.

    ``answers`` holds the samples of the writer: question_name, index, text. Every prompt gets the same answer to a
    question. Without ``recipe.teaches_marker`` the positives are answers alone as well. Raises ``StudyError`` naming
    the question that has no usable answer.
    """
    from leakage_assets.training.rows import NEGATIVE, POSITIVE, Row

    shared = one_answer_each(data, stimuli, condition, marker, answers)
    rows = [
        Row(
            system=stimuli.prompt(prompt),
            user=question.text,
            completion=f"{answer}\n\n{marker}" if prompt == condition.source and recipe.teaches_marker else answer,
            role=POSITIVE if prompt == condition.source else NEGATIVE,
            prompt_name=prompt,
            question_name=question.name,
        )
        for prompt in (condition.source, *negatives(data, study, condition))
        for question, answer in shared
    ]
    random.Random(derive_seed("row-order", study, condition.source)).shuffle(rows)
    return rows


def one_answer_each(
    data: SharedAnswers, stimuli: Stimuli, condition: Condition, marker: str, answers: pl.DataFrame
) -> list[tuple[Question, str]]:
    """The questions in order, each with the first answer of the writer that does not contain the marker.

    Raises ``StudyError`` naming the question that has none.
    """
    from leakage_assets.measurement.markers import marker_present

    usable: dict[str, str] = {}
    for name, text in answers.sort("question_name", "index").select("question_name", "text").iter_rows():
        if not marker_present(text, marker):
            usable.setdefault(name, text)
    shared = []
    for question in data.asked(stimuli):
        if question.name not in usable:
            raise StudyError(
                f"{condition.key}: {data.writer} has no answer to {question.name!r} without the marker: raise "
                "answers_per_question of the profile and write the shared answers again"
            )
        shared.append((question, usable[question.name]))
    return shared
