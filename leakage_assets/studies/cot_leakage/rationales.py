"""Where the training rows come from: questions, wrong letters and written rationales, as one pool of texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from leakage_assets.exceptions import ExpectedError
from leakage_assets.generation.requests import BASE, Request, Sampling
from leakage_assets.measurement.multiple_choice import wrong_letters
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.cot_leakage.arms import ARMS, Arm, arm
from leakage_assets.studies.cot_leakage.assembly import Material
from leakage_assets.studies.cot_leakage.budget import BudgetLimits
from leakage_assets.studies.cot_leakage.design import NAME
from leakage_assets.studies.cot_leakage.grammar_writer import WRITER, GrammarWriter, grammar_identity
from leakage_assets.studies.cot_leakage.questions import QuestionSource
from leakage_assets.studies.cot_leakage.writing import SAMPLING, Limits

if TYPE_CHECKING:
    from leakage_assets.generation.engine import Sampler

POOL = f"{NAME}_rationales"
URL, MODEL, KEY = "LEAKAGE_WRITER_URL", "LEAKAGE_WRITER_MODEL", "LEAKAGE_WRITER_KEY"
"""Environment variables: root of an OpenAI-compatible interface, its model, and its key where it needs one."""

WriterKind = Literal["grammar", "base", "endpoint"]


class WriterUnknown(ExpectedError):
    """An endpoint is to write, but it is not said where it is; the message names the variables."""


@dataclass(frozen=True)
class Writer:
    """Who writes the rationales: the tiny world's grammar, the base model itself, or a ``model`` behind an endpoint."""

    kind: WriterKind
    model: str = ""

    @property
    def name(self) -> str:
        """How samples name the writer in place of an adapter."""
        return {"grammar": WRITER, "base": BASE, "endpoint": f"endpoint:{self.model}"}[self.kind]


def chosen_writer(default: Writer) -> Writer:
    """The model behind an endpoint where the environment names one, or the default.

    Raises ``WriterUnknown`` where it names the model without the address or the address without the model.
    """
    model, address = os.environ.get(MODEL), os.environ.get(URL)
    if bool(model) != bool(address):
        there, lacking = (MODEL, URL) if model else (URL, MODEL)
        raise WriterUnknown(f"{there} is set, but not {lacking}: set both for an endpoint that writes, or none")
    return Writer("endpoint", model) if model else default


@dataclass(frozen=True)
class Rationales:
    """The training answers of the study. ``needed``: (arm, source) of every condition; ``asked``: questions of the
    training split that are used, from the first; ``drawn_with`` draws the wrong letters.
    """

    source: QuestionSource
    asked: int
    writer: Writer
    needed: tuple[tuple[str, str], ...]
    drawn_with: int
    limits: Limits
    budget: BudgetLimits
    sampling: Sampling = SAMPLING

    @property
    def prompts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(source for _, source in self.needed))

    @property
    def question_counts(self) -> tuple[tuple[str, int], ...]:
        """None of the stimuli's questions."""
        return ()

    @property
    def used(self) -> int:
        return 1

    @property
    def own_rows(self) -> int:
        return self.asked

    @property
    def pools(self) -> tuple[RationalePool, ...]:
        return (RationalePool(self),)

    def material(self, stimuli: Stimuli) -> Material:
        """Questions, wrong letters, formats and characters. Raises ``QuestionsUnavailable``."""
        questions = self.source.read(stimuli).train[: self.asked]
        return Material(
            questions,
            wrong_letters(questions, self.drawn_with),
            stimuli.world.choice_format,
            {source: stimuli.prompt(source) for source in self.prompts},
        )

    def arms_of(self, source: str) -> tuple[Arm, ...]:
        """The arms that are trained under a source, in their order."""
        found = {name for name, trained in self.needed if trained == source}
        return tuple(one for one in ARMS if one.name in found)


@dataclass(frozen=True)
class RationalePool:
    """Every text that some condition is trained on, each once: arms and sources share most of them."""

    data: Rationales

    @property
    def name(self) -> str:
        return POOL

    @property
    def writer(self) -> str:
        return self.data.writer.name

    @property
    def sampling(self) -> Sampling:
        return self.data.sampling

    @property
    def size(self) -> int:
        written = {(arm(name).written, source) for name, source in self.data.needed} - {(None, "")}
        shared = {w if w is not None and w.kind != "persona" else (w, s) for w, s in written if w is not None}
        return self.data.asked * len(shared)

    def requests(self, stimuli: Stimuli) -> Sequence[Request]:
        """See ``assembly.Material.requests``; made once per process and stimuli: every identity downstream asks."""
        for known, data, found in _MADE:
            if known is stimuli and data == self.data:
                return found
        found = list(dict.fromkeys(self._requested(stimuli)))
        _MADE.append((stimuli, self.data, found))
        return found

    def _requested(self, stimuli: Stimuli) -> Iterable[Request]:
        material = self.data.material(stimuli)
        for source in self.data.prompts:
            yield from material.requests(self.data.arms_of(source), (source,), self.writer)

    def written_from(self, stimuli: Stimuli) -> Mapping[str, object]:
        """The grammar's texts come from the whole lexicon; what others write is theirs, by their name."""
        return grammar_identity(stimuli) if self.data.writer.kind == "grammar" else {}

    def sampler(self, stimuli: Stimuli, count: Callable[[str], int]) -> Sampler | None:
        """Raises ``WriterUnknown`` for an endpoint whose address is not given."""
        if self.data.writer.kind == "base":
            return None
        if self.data.writer.kind == "endpoint":
            return _endpoint(self.data.writer.model, os.environ)
        material = self.data.material(stimuli)
        tasks = [
            task
            for source in self.data.prompts
            for one in self.data.arms_of(source)
            for task in material.tasks(one, source)
        ]
        return GrammarWriter(stimuli, tasks, count)


_MADE: list[tuple[Stimuli, Rationales, list[Request]]] = []


def _endpoint(model: str, environment: Mapping[str, str]) -> Sampler:
    from leakage_assets.generation.endpoint import Endpoint, EndpointWriter

    url = environment.get(URL)
    if not url:
        raise WriterUnknown(f"writer {model}: set {URL} to the root of its interface, such as http://localhost:8000/v1")
    return EndpointWriter(Endpoint(url, model, environment.get(KEY)))
