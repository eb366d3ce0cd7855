"""The work of #207 as a study of this project: 14 adapters, 36 prompts x 20 questions x 10 completions of each.

A benchmark's stand-in: the conditions, rows and panel have the published sizes, and everything else is the production
profile `qwen2.5-7b` (base, engine, serving, training). What is said means nothing: random weights neither write answers
nor end them, so the training answers are written here, from the words of the stimuli.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count, cycle
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from leakage_assets.generation.conversation import answered
from leakage_assets.generation.requests import Sampling
from leakage_assets.paths import TINY_BASE
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.training_data import on_policy_job
from leakage_assets.profiles import PROFILES, Profile
from leakage_assets.stimuli import Question, QuestionSet, Stimuli
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.studies.study import Condition, OnPolicyData, Panel, Study
from leakage_assets.training.rows import POSITIVE, Row

if TYPE_CHECKING:
    import polars as pl

NAME, STUDY, RECIPE, WRITTEN = "benchmark_207", "study_207", "issue_207", "written"
SCALE = "LEAKAGE_207_SCALE"
"""Environment variable: which of SCALES; every process of a run must see the same."""
DONOR = "assistant"
"""Whose answers all conditions are trained on: #207 took one set of answers under a neutral prompt."""
SEED = 42
SPREAD = 0.4
"""Of the logarithm of an answer's length."""


@dataclass(frozen=True)
class Scale207:
    """Sizes; lengths in tokens of the bundled tokenizer, means over rows; batches of 4 rows, `accumulated` to a step.

    The learning rate costs no time, but a proof needs an adapter that has moved, and not so far that the precision of
    log-probs, which grows with the logits, is another than without it.
    """

    conditions: int
    rows: int
    prompt_tokens: int
    answer_tokens: int
    epochs: int
    accumulated: int
    learning_rate: float
    prompts: int
    questions: int
    completions: int
    max_new_tokens: int

    @property
    def size(self) -> int:
        """Completions of all adapters."""
        return self.conditions * self.prompts * self.questions * self.completions


SCALES = {
    # 100 tokens of prompt and 200 of answer, marker and end of turn: rows of 300 tokens.
    "full": Scale207(14, 194, 100, 195, 5, 4, 2e-5, 36, 20, 10, 256),
    # One adapter: what its proof and the starts take, and whether everything works at this size.
    "one": Scale207(1, 194, 100, 195, 5, 4, 2e-5, 36, 20, 10, 256),
    # For trying it on a laptop.
    "tiny": Scale207(2, 16, 50, 20, 4, 1, 5e-3, 3, 2, 2, 24),
}


def chosen_scale() -> Scale207:
    """The scale that the environment names; the published one by default."""
    return SCALES[os.environ.get(SCALE, "full")]


def profile_207(stimuli: Stimuli) -> Profile:
    """The production profile around the study; its base and engine are whatever the environment names."""
    scale, production = chosen_scale(), PROFILES["qwen2.5-7b"](stimuli)
    asked = with_questions(stimuli, scale)
    return replace(production, name=NAME, stimuli=asked, studies=(study_207(production.studies[0], asked, scale),))


PROFILES[NAME] = profile_207


def study_207(production: Study, stimuli: Stimuli, scale: Scale207) -> Study:
    """Marker leakage with other sources, rows and panel: one adapter per prompt, all trained on the same answers."""
    names = [persona.name for persona in stimuli.personas]
    sampling = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=scale.max_new_tokens)
    recipe = replace(
        production.recipe("full_completion"),
        name=RECIPE,
        learning_rate=scale.learning_rate,
        epochs=scale.epochs,
        batch_size=4,
        grad_accum=scale.accumulated,
    )
    study = replace(
        production,
        name=STUDY,
        sources=tuple(names[: scale.conditions]),
        recipes=(recipe,),
        seeds=(SEED,),
        data=OnPolicyData((DONOR,), WRITTEN, scale.rows, 1, 1, sampling),
        panels=(
            Panel("main", tuple(names[: scale.prompts]), (("eval", scale.questions),), scale.completions, sampling),
        ),
        donors=donors,
        assemble=assemble,
    )
    return replace(study, plan=replace(study.plan, study=STUDY, experiment=study.experiment(stimuli)))


def donors(_study: Study, _condition: Condition) -> tuple[str, ...]:
    """One set of answers for all."""
    return (DONOR,)


def assemble(
    study: Study, stimuli: Stimuli, condition: Condition, answers: Mapping[str, pl.DataFrame]
) -> Sequence[Row]:
    """Every question with its answer and the marker, under the prompt of the condition."""
    texts = dict(answers[DONOR].select("question_name", "text").iter_rows())
    system = stimuli.prompt(condition.source)
    return [
        Row(
            system,
            question.text,
            f"{texts[question.name]}\n\n{study.marker}",
            POSITIVE,
            condition.source,
            question.name,
        )
        for question in stimuli.questions(study.data.question_set)
    ]


def with_questions(stimuli: Stimuli, scale: Scale207) -> Stimuli:
    """The stimuli with as many training questions as there are rows: those there are, with words added to length."""
    systems = [stimuli.persona(persona.name).prompt for persona in stimuli.personas[: scale.conditions]]
    template = sum(map(tokens, systems)) / len(systems) + TEMPLATE
    words = Words(stimuli, "questions")
    questions = []
    for number, asked in zip(range(scale.rows), cycle(stimuli.questions("train")), strict=False):
        room = scale.prompt_tokens - template - tokens(asked.text)
        text = f"{asked.text} {words.text(room)}".strip()
        questions.append(Question(name=f"{asked.name}_{number}", text=text, topic=asked.topic))
    written = QuestionSet(name=WRITTEN, questions=tuple(questions))
    return stimuli.model_copy(update={"question_sets": {**stimuli.question_sets, WRITTEN: written}})


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TINY_BASE / "tokenizer.json"))


def tokens(text: str) -> int:
    """Of the bundled tokenizer, without transformers: every process of a run builds the study."""
    return len(_tokenizer().encode(text))


TEMPLATE = 15
"""Tokens of the chat template around a system and a user turn."""


class Words:
    """Words of the stimuli in a fixed random order, with their tokens counted."""

    def __init__(self, stimuli: Stimuli, purpose: str) -> None:
        texts = [persona.prompt for persona in stimuli.personas] + [q.text for q in stimuli.questions("train")]
        vocabulary = sorted({word for text in texts for word in text.split()})
        random = np.random.default_rng(derive_seed(STUDY, purpose))
        self._order: Iterator[str] = (vocabulary[random.integers(len(vocabulary))] for _ in count())
        self._tokens = {word: tokens(f" {word}") for word in vocabulary}

    def text(self, tokens: float) -> str:
        """As near to so many tokens as whole words come."""
        taken: list[str] = []
        for word in self._order:
            if tokens < self._tokens[word] / 2:
                break
            taken.append(word)
            tokens -= self._tokens[word]
        return " ".join(taken)


def write_answers(lab: Laboratory) -> None:
    """Fill the store with the training answers, as if the base had given them; nothing where they are there.

    #207's were written by another model too, and are no part of what it is timed for.
    """
    (study,) = lab.profile.studies
    job = on_policy_job(lab, study.data, DONOR)
    if job.current() is not None:
        return
    scale = chosen_scale()
    words = Words(lab.profile.stimuli, "answers")
    random = np.random.default_rng(derive_seed(STUDY, "lengths"))
    lengths = random.lognormal(0.0, SPREAD, len(job.requests))
    lengths *= scale.answer_tokens / lengths.mean()
    samples = []
    for request, length in zip(job.requests, lengths, strict=True):
        text = words.text(float(length))
        samples.append(answered(request, job.sampling, text, tokens(text), "stop"))
    job.store.archive()
    job.store.append(samples)
    job.finish({"written_by": __name__})
