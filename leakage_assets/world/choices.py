"""Multiple choice in the tiny world: a question about a topic, one fact of it among facts of other topics."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import Literal

from leakage_assets.stimuli import Stimuli
from leakage_assets.store.fingerprint import derive_seed

LETTERS = ("A", "B", "C", "D")
HELD_OUT_SHARE = 5
"""One combination of options in five never occurs in pre-training: the held-out questions come from these."""

Wordings = Literal["train", "held_out"]


@dataclass(frozen=True)
class ChoiceQuestion:
    """A four-option question; ``correct`` indexes ``options``."""

    topic: str
    stem: str
    options: tuple[str, str, str, str]
    correct: int

    @property
    def letter(self) -> str:
        return LETTERS[self.correct]


def draw_choice_question(
    stimuli: Stimuli, rng: random.Random, *, wordings: Wordings, held_out_options: bool, topics: int | None = None
) -> ChoiceQuestion:
    """Draw a question whose set of four options is (or is not) held out of pre-training.

    ``topics`` limits the draw to the first so many topics of the world.

    Membership depends on a hash of the sorted options, so train and held-out combinations are disjoint by
    construction, whatever was drawn before.
    """
    world = stimuli.world
    while True:
        chosen = rng.sample(world.topics[:topics], k=len(LETTERS))
        options = [rng.choice(topic.facts) for topic in chosen]
        if is_held_out(options) == held_out_options:
            break
    order = list(range(len(LETTERS)))
    rng.shuffle(order)
    wording = rng.choice(getattr(world.choice_wordings, wordings))
    a, b, c, d = (options[i] for i in order)
    stem = Template(wording).substitute(subject=chosen[0].subject)
    return ChoiceQuestion(chosen[0].name, stem, (a, b, c, d), order.index(0))


def is_held_out(options: Sequence[str]) -> bool:
    """Whether this set of options is kept out of pre-training."""
    return derive_seed("choice-options", *sorted(options)) % HELD_OUT_SHARE == 0


def render_choice(question: ChoiceQuestion, option_line: str) -> str:
    """The user turn: stem, blank line, one line per option."""
    line = Template(option_line)
    options = "\n".join(
        line.substitute(letter=letter, text=text) for letter, text in zip(LETTERS, question.options, strict=True)
    )
    return f"{question.stem}\n\n{options}"
