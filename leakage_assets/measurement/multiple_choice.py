"""Multiple choice: what a question is, how it is rendered, which wrong letter is taught, and how a choice is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from string import Template

import numpy as np

from leakage_assets.exceptions import PartitionError

LETTERS = ("A", "B", "C", "D")
DIGITS = ("1", "2", "3", "4")


class ChoiceError(PartitionError):
    """A question that is no multiple choice of four; the message names it and what is wrong."""


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """A question with four labelled options; ``answer`` is the label of the right one.

    ``topic`` names what it is about where that is known (in the tiny world), else it is empty.

    Raises ``ChoiceError`` for another number of options, labels or options that repeat or are blank, or an answer that
    is none of the labels.
    """

    name: str
    stem: str
    labels: tuple[str, ...]
    options: tuple[str, ...]
    answer: str
    topic: str = ""

    def __post_init__(self) -> None:
        if not self.name or not self.stem.strip():
            raise ChoiceError(f"question {self.name!r}: name and stem are needed")
        if len(self.options) != len(LETTERS) or len(self.labels) != len(self.options):
            found = f"{len(self.options)} options and {len(self.labels)} labels"
            raise ChoiceError(f"question {self.name}: {found}; expected exactly four of each")
        for kind, texts in (("label", self.labels), ("option", self.options)):
            if any(not text.strip() for text in texts):
                raise ChoiceError(f"question {self.name}: a blank {kind}")
        if len(set(self.labels)) < len(self.labels):
            raise ChoiceError(f"question {self.name}: labels {', '.join(self.labels)} repeat")
        if self.answer not in self.labels:
            labels = ", ".join(self.labels)
            raise ChoiceError(f"question {self.name}: answer {self.answer!r} is none of its labels {labels}")

    @property
    def lettered(self) -> bool:
        """Whether it is labelled A to D: only then can a letter be right."""
        return self.labels == LETTERS

    def option(self, label: str) -> str:
        """The text of an option. Raises ``ChoiceError`` naming a label that the question lacks."""
        if label not in self.labels:
            raise ChoiceError(f"question {self.name}: no option {label!r}; it has {', '.join(self.labels)}")
        return self.options[self.labels.index(label)]

    def relabelled(self) -> MultipleChoice:
        """The same question with its options labelled A to D in order."""
        return replace(self, labels=LETTERS, answer=LETTERS[self.labels.index(self.answer)])

    def render(self, option_line: str) -> str:
        """The user turn: stem, blank line, one line per option from a template with $letter and $text."""
        line = Template(option_line)
        lines = (line.substitute(letter=a, text=b) for a, b in zip(self.labels, self.options, strict=True))
        return f"{self.stem}\n\n" + "\n".join(lines)


def wrong_letters(questions: Sequence[MultipleChoice], seed: int) -> dict[str, str]:
    """One wrong label per question name, uniform over its labels but the right one, drawn in question order.

    ``numpy.random.default_rng(seed)``, as published (sheet cot_leakage, section 3).
    """
    rng = np.random.default_rng(seed)
    return {q.name: str(rng.choice([label for label in q.labels if label != q.answer])) for q in questions}


def check_disjoint(train: Iterable[MultipleChoice], evaluation: Iterable[MultipleChoice]) -> None:
    """Raises ``ChoiceError`` naming a question that both sets hold, by name or by text and options."""
    names, texts = {}, {}
    for question in train:
        names[question.name] = question
        texts[question.stem, frozenset(question.options)] = question
    for question in evaluation:
        same = names.get(question.name) or texts.get((question.stem, frozenset(question.options)))
        if same is not None:
            raise ChoiceError(f"question {question.name} of the evaluation is trained on as {same.name}; remove one")


@dataclass(frozen=True)
class LabelReport:
    """How the questions of a split are labelled. ``dropped`` counts what was left out, by reason."""

    split: str
    kept: int
    lettered: int
    numbered: int
    otherwise: int
    dropped: Mapping[str, int]

    @property
    def highest_accuracy(self) -> float:
        """The accuracy that always choosing the right letter would reach: other labels can never be right."""
        return self.lettered / self.kept if self.kept else 0.0


def label_report(split: str, kept: Sequence[MultipleChoice], reasons: Iterable[str] = ()) -> LabelReport:
    """Counts of the questions kept, and of the ``reasons`` for which others were left out."""
    lettered = sum(q.lettered for q in kept)
    numbered = sum(q.labels == DIGITS for q in kept)
    rest = len(kept) - lettered - numbered
    return LabelReport(split, len(kept), lettered, numbered, rest, dict(sorted(Counter(reasons).items())))


def letter_of(text: str, letters: Collection[str] = LETTERS) -> str | None:
    """The letter that a token is, up to blanks and case, or None."""
    letter = text.strip().upper()
    return letter if letter in letters else None
