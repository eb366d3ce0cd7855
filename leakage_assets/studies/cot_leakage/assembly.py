"""From questions and stored texts to the training rows of an arm, and to what the checks before training need."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from leakage_assets.generation.requests import Request
from leakage_assets.measurement.multiple_choice import MultipleChoice
from leakage_assets.stimuli.schema import ChoiceFormat
from leakage_assets.store.samples import Sample
from leakage_assets.studies.cot_leakage.arms import (
    Arm,
    arm_rows,
    changed_rationales,
    random_tokens_like,
    taught_letter,
)
from leakage_assets.studies.cot_leakage.budget import ArmTexts, BudgetLimits, budget_table, token_pieces
from leakage_assets.studies.cot_leakage.design import DATA_SEED
from leakage_assets.studies.cot_leakage.writing import (
    Filtered,
    Limits,
    WritingTask,
    check_filtered,
    check_letters,
    filter_rationales,
    writing_request,
    writing_tasks,
)
from leakage_assets.training.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ArmData:
    """An arm of a source: its rows, what the filters made of its texts (None without rationale), and its letters."""

    arm: Arm
    rows: tuple[Row, ...]
    filtered: Filtered | None
    rationales: Mapping[str, str]
    letters: tuple[str, ...]
    fillers: tuple[int, ...]

    @property
    def texts(self) -> ArmTexts:
        """What the token budget is read from."""
        rationales = [self.rationales.get(row.question_name, "") for row in self.rows]
        return ArmTexts(self.arm.name, [row.completion for row in self.rows], rationales, self.fillers)


@dataclass(frozen=True)
class Material:
    """What the arms of all sources are made of. ``personas``: system prompts by source."""

    questions: tuple[MultipleChoice, ...]
    wrong: Mapping[str, str]
    formats: ChoiceFormat
    personas: Mapping[str, str]

    def tasks(self, one: Arm, source: str) -> list[WritingTask]:
        """The texts that an arm of a source needs; none without rationale."""
        return [] if one.written is None else writing_tasks(one.written, source, self.questions, self.wrong)

    def requests(self, arms: Iterable[Arm], sources: Sequence[str], writer: str) -> list[Request]:
        """Every text that any of these arms and sources needs, each once: arms and sources share most of them."""
        needed = [
            writing_request(task, writer, self.formats, self.personas)
            for one in arms
            for source in sources
            for task in self.tasks(one, source)
        ]
        return list(dict.fromkeys(needed))


def assemble_arm(
    one: Arm,
    source: str,
    material: Material,
    samples: pl.DataFrame,
    *,
    limits: Limits,
    random_text: Callable[[random.Random, str], str] | None = None,
) -> ArmData:
    """The training rows of an arm from what a writer wrote.

    ``samples`` are those of the store, other arms' included; ``random_text`` as ``random_text_of`` makes it.

    Raises ``RationaleError`` where a text is missing, too many cannot be used, or a letter is taught too often or too
    seldom; ``ArmError`` as ``arm_rows`` and ``changed_rationales``.
    """
    tasks, filtered, rationales = material.tasks(one, source), None, dict[str, str]()
    what = f"arm {one.name} of {source}"
    if tasks:
        prompts = {task.prompt_name for task in tasks}
        found = samples.filter(pl.col("prompt_name").is_in(prompts))
        written = [Sample(**row) for row in found.iter_rows(named=True)]
        filtered = filter_rationales(tasks, written, material.formats.anchor)
        check_filtered(what, filtered, limits)
        rationales = changed_rationales(one, filtered.rationales, seed=DATA_SEED, random_text=random_text)
    system = material.personas[source]
    rows = arm_rows(one, source, system, material.questions, material.wrong, rationales, material.formats)
    asked = {question.name: question for question in material.questions}
    letters = tuple(taught_letter(one, asked[row.question_name], material.wrong) for row in rows)
    check_letters(what, letters, limits)
    return ArmData(one, tuple(rows), filtered, rationales, letters, tuple(task.filler for task in tasks))


def source_budget(
    source: str, arms: Iterable[ArmData], tokenizer: PreTrainedTokenizerBase, limits: BudgetLimits
) -> pl.DataFrame:
    """The token budget of a source's arms, as ``budget_table``."""
    return budget_table(
        source, [data.texts for data in arms], token_pieces(_encode(tokenizer), tokenizer.decode), limits
    )


def random_text_of(tokenizer: PreTrainedTokenizerBase) -> Callable[[random.Random, str], str]:
    """A maker of random texts from a tokenizer's own vocabulary, without its special tokens."""
    special = set(tokenizer.all_special_ids)
    ordinary = [token for token in range(len(tokenizer)) if token not in special]
    return random_tokens_like(_encode(tokenizer), tokenizer.decode, ordinary)


def _encode(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    return encode
