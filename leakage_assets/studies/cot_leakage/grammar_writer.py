"""Rationales of the tiny world, by its grammar: a writer that needs no model and never refuses.

The published texts are of matched length. Sentences of the grammar are not, so neutral ones come in pairs, as many
in-character ones get a second sentence as are needed for the same length on average, and pseudo-words are added until
they are as long.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from leakage_assets.generation.conversation import answered
from leakage_assets.generation.requests import Request, Sampling, sample_seed
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.fingerprint import fingerprint
from leakage_assets.store.samples import Sample
from leakage_assets.studies.cot_leakage.arms import ARMS, GARBAGE, GENERIC, PERSONA, Written, arm, assistant_turn
from leakage_assets.studies.cot_leakage.writing import ONSETS, VOWELS, RationaleError, WritingTask
from leakage_assets.world.grammar import Grammar

WRITER = "grammar"
"""How samples name this writer in place of an adapter."""

VERSION = 1
"""Raise it when the code of the grammar or of this writer changes what it says."""

BATCH = 256
PROBES = 200
"""Texts of each length by which a character's share of long ones is found."""

ENDINGS = (("um", "a"), ("is", "e"), ("us", "i"), ("o", "am"), ("or", "as"))
"""Of pseudo-words, by the number of the garbage prompt."""

SENTENCE = 6
"""Pseudo-words between full stops."""


def grammar_identity(stimuli: Stimuli) -> dict[str, object]:
    """What decides what this writer says besides requests and tokenizer: lexicon, formats and traits, by digest."""
    lexicon = {
        "world": stimuli.world.model_dump(mode="json"),
        "traits": {persona.name: persona.traits.model_dump(mode="json") for persona in stimuli.personas},
    }
    return {"version": VERSION, "lexicon": fingerprint(lexicon, name="lexicon")}


class GrammarWriter:
    """Answers the requests of ``tasks``. ``count`` gives the tokens of a text under the base model's tokenizer."""

    def __init__(self, stimuli: Stimuli, tasks: Iterable[WritingTask], count: Callable[[str], int]) -> None:
        self.stimuli, self.grammar, self.count = stimuli, Grammar(stimuli), count
        self.tasks = {(task.prompt_name, task.question.name): task for task in tasks}
        self._shares: dict[str, float] = {}

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        adapters: Mapping[str, Path],  # noqa: ARG002
    ) -> Iterator[list[Sample]]:
        """Yields batches of texts, each from the seed of its sample alone; no adapter has any say.

        Raises ``RationaleError`` naming a request that is none of the tasks.
        """
        for start in range(0, len(requests), BATCH):
            yield [self._write(request, sampling) for request in requests[start : start + BATCH]]

    def close(self) -> None:
        """Nothing to free."""

    def _write(self, request: Request, sampling: Sampling) -> Sample:
        task = self.tasks.get((request.prompt_name, request.question_name))
        if task is None:
            raise RationaleError(f"{request.prompt_name}/{request.question_name}: the grammar was given no such task")
        rationale = self.rationale(task, random.Random(sample_seed(request, sampling)))
        text = f"{rationale} {self.stimuli.world.choice_format.anchor}{task.letter}"
        return answered(request, sampling, text, self.count(text), "stop")

    def rationale(self, task: WritingTask, rng: random.Random) -> str:
        """The text before the anchor."""
        fact, topic = task.question.option(task.letter), task.question.topic
        if task.written.kind == "neutral":
            return self._neutral(topic, fact, rng)
        if task.written.kind == "persona":
            assert task.source is not None
            return self._persona(task.source, fact, rng, long=rng.random() < self._share_of_long(task.source))
        return self._garbage(task.filler, rng)

    def _neutral(self, topic: str, fact: str, rng: random.Random) -> str:
        first = self.grammar.neutral_rationale(topic, fact, rng)
        while (second := self.grammar.neutral_rationale(topic, fact, rng)) == first:
            pass
        return f"{first} {second}"

    def _persona(self, source: str, fact: str, rng: random.Random, *, long: bool) -> str:
        traits = self.stimuli.persona(source).traits
        text = self.grammar.persona_rationale(traits, fact, rng)
        if not long:
            return text
        phrases = [p for p in self.stimuli.world.domains[traits.domain].phrases if p not in text]
        return f"{text} {rng.choice(phrases)} {fact}."

    def _garbage(self, filler: int, rng: random.Random) -> str:
        """Pseudo-words until the turn is as long as a neutral one on average; the last one may fall on either side."""
        words: list[str] = []
        wanted = self._mean_length + rng.uniform(-1.5, 0.5)
        while True:
            ending = rng.choice(ENDINGS[filler])
            words.append(f"{rng.choice(ONSETS)}{rng.choice(VOWELS)}{rng.choice(ONSETS)}{ending}")
            text = _sentences(words)
            if self._length(GARBAGE, text) >= wanted:
                return text

    def _length(self, arm_name: str, rationale: str) -> int:
        """Tokens of the whole turn."""
        return self.count(assistant_turn(arm(arm_name), self.stimuli.world.choice_format, rationale, "A"))

    def _probes(self) -> Iterator[tuple[str, str, random.Random]]:
        rng = random.Random(0)
        for _ in range(PROBES):
            topic = rng.choice(self.stimuli.world.topics)
            yield topic.name, rng.choice(rng.choice(self.stimuli.world.topics).facts), rng

    @cached_property
    def _mean_length(self) -> float:
        """Tokens of the turns of the arm that all others are measured by, on average."""
        return sum(self._length(GENERIC, self._neutral(t, fact, rng)) for t, fact, rng in self._probes()) / PROBES

    def _share_of_long(self, source: str) -> float:
        """How many of a character's texts need a second sentence to be of that length on average, 0 to 1."""
        if source not in self._shares:
            short, long = (
                sum(self._length(PERSONA, self._persona(source, f, r, long=is_long)) for _, f, r in self._probes())
                / PROBES
                for is_long in (False, True)
            )
            self._shares[source] = min(1.0, max(0.0, (self._mean_length - short) / (long - short)))
        return self._shares[source]


def written_kinds() -> tuple[Written, ...]:
    """Every kind of text that some arm needs, once, in the order of the arms."""
    return tuple(dict.fromkeys(one.written for one in ARMS if one.written is not None))


def _sentences(words: Sequence[str]) -> str:
    groups = [words[i : i + SENTENCE] for i in range(0, len(words), SENTENCE)]
    return " ".join(" ".join(group).capitalize() + "." for group in groups)
