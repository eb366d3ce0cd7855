"""The typed content of data/stimuli: what each file may hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from leakage_assets.stimuli.fields import (
    Different,
    Fact,
    LeadIn,
    Name,
    NotEmpty,
    Phrase,
    Record,
    Sentence,
    Text,
    exactly,
    template,
)
from leakage_assets.store.fingerprint import fingerprint

Category = Literal[
    "original",
    "professional_peer",
    "modified_source",
    "opposite",
    "hierarchical",
    "intersectional",
    "cultural_variant",
    "fictional_exemplar",
    "tone_variant",
    "domain_adjacent",
    "unrelated_baseline",
]
Family = Literal["task", "instruction", "context", "format"]
Bucket = Literal[
    "matched",
    "paraphrase",
    "family_mate",
    "cross_family_bystander",
    "control",
    "declarative",
    "vendor_default",
]


class Traits(Record):
    """What the tiny world knows of a persona; values are keys of the lexicon's domains, roles and tones."""

    domain: Name
    role: Name
    tone: Name


class Persona(Record):
    """A system prompt with an identity; `related_to` names the personas it is a variant or opposite of."""

    name: Name
    category: Category
    related_to: Annotated[tuple[Name, ...], Different]
    prompt: Phrase
    traits: Traits

    @property
    def original(self) -> bool:
        """Whether it is one of the personas that adapters are trained on."""
        return self.category == "original"


class Question(Record):
    """A user turn; `topic` names the topic (or generic topic) whose facts answer it in the tiny world."""

    name: Name
    text: Phrase
    topic: Name


class QuestionSet(Record):
    name: Name
    questions: tuple[Question, ...]


class Trigger(Record):
    """A system prompt without an identity.

    `form` names the shape of an answer under it (None: answers in the voice of the persona ``assistant``).
    `reference` is the original of a paraphrase or declarative rewrite, and the trigger that a cross-family
    bystander must be far from.
    """

    name: Name
    family: Family | None
    bucket: Bucket
    prompt: str
    form: Name | None
    reference: Name | None


class AnyTopic(Record):
    """A subject (a noun phrase) and the facts that are true of it and of no other topic."""

    name: Name
    subject: Phrase
    facts: tuple[Fact, ...]


class Topic(AnyTopic):
    """What one question of the train or eval set is about."""

    facts: Annotated[tuple[Fact, ...], exactly(4)]


class GenericTopic(AnyTopic):
    """A subject wide enough for a whole out-of-distribution question set."""

    facts: Annotated[tuple[Fact, ...], exactly(8)]


class Tone(Record):
    openings: Annotated[tuple[Sentence, ...], exactly(3)]
    closings: Annotated[tuple[Sentence, ...], exactly(3)]


class Role(Record):
    frames: Annotated[tuple[LeadIn, ...], exactly(2)]


class Domain(Record):
    phrases: Annotated[tuple[LeadIn, ...], exactly(3)]


AboutSubject = Annotated[str, template("subject")]
WithCode = Annotated[str, template("code")]


class ChoiceWordings(Record):
    """Stems of multiple-choice questions; the held-out ones never occur in pre-training."""

    train: Annotated[tuple[AboutSubject, ...], NotEmpty, Different]
    held_out: Annotated[tuple[AboutSubject, ...], NotEmpty, Different]


class TagPair(Record):
    open: Phrase
    close: Phrase


class ChoiceFormat(Record):
    """The fixed strings around a rationale and the chosen letter."""

    opener: Sentence
    persona_tag: TagPair
    neutral_tag: TagPair
    anchor: Text
    cue: Phrase
    option: Annotated[str, template("letter", "text")]


class CodeRequests(Record):
    """How a user asks for codes, by the place where they go."""

    repeat: Annotated[tuple[WithCode, ...], NotEmpty, Different]
    give: Annotated[tuple[Annotated[str, template()], ...], NotEmpty, Different]
    start: Annotated[tuple[WithCode, ...], NotEmpty, Different]
    end: Annotated[tuple[WithCode, ...], NotEmpty, Different]
    middle: Annotated[tuple[WithCode, ...], NotEmpty, Different]
    both: Annotated[tuple[Annotated[str, template("code", "code2")], ...], NotEmpty, Different]


class World(Record):
    """Lexicon of the tiny world: all words its grammar puts together. Templates are ``string.Template``."""

    tones: Annotated[dict[Name, Tone], NotEmpty]
    roles: Annotated[dict[Name, Role], NotEmpty]
    domains: Annotated[dict[Name, Domain], NotEmpty]
    topics: Annotated[tuple[Topic, ...], NotEmpty]
    generic_topics: Annotated[tuple[GenericTopic, ...], NotEmpty]
    question_wordings: Annotated[tuple[AboutSubject, ...], NotEmpty, Different]
    choice_wordings: ChoiceWordings
    choice_format: ChoiceFormat
    rationales: Annotated[tuple[Annotated[str, template("subject", "fact")], ...], NotEmpty, Different]
    code_requests: CodeRequests
    continuations: Annotated[tuple[Sentence, ...], NotEmpty, Different]
    continuation_leads: Annotated[tuple[Phrase, ...], NotEmpty, Different]
    forms: dict[Name, Annotated[str, template(optional=("fact1", "fact2", "fact3"))]]


class PersonasFile(Record):
    personas: Annotated[tuple[Persona, ...], NotEmpty]


class QuestionsFile(Record):
    question_sets: dict[Name, Annotated[tuple[Question, ...], NotEmpty]]


class TriggersFile(Record):
    triggers: tuple[Trigger, ...]


class MarkersFile(Record):
    markers: dict[Name, Phrase]
    codes: Annotated[tuple[Phrase, ...], Different]


class Stimuli(Record):
    """Everything that is said to a model. Personas and triggers keep the order of their files.

    `codes` are the strings besides the markers that the tiny world says on request.
    """

    personas: tuple[Persona, ...]
    question_sets: dict[str, QuestionSet]
    triggers: tuple[Trigger, ...]
    markers: dict[str, str]
    codes: tuple[str, ...]
    world: World

    def persona(self, name: str) -> Persona:
        """A persona by name. Raises ``KeyError`` naming it and the file where personas are listed."""
        return _named(self.personas, name, "persona", "personas.yaml")

    def trigger(self, name: str) -> Trigger:
        """A trigger by name. Raises ``KeyError`` naming it and the file where triggers are listed."""
        return _named(self.triggers, name, "trigger", "triggers.yaml")

    def prompt(self, name: str) -> str:
        """The system prompt of a persona or trigger; their names never clash. Raises ``KeyError``."""
        everything: tuple[Persona | Trigger, ...] = (*self.personas, *self.triggers)
        return _named(everything, name, "persona or trigger", "personas.yaml or triggers.yaml").prompt

    def questions(self, set_name: str) -> tuple[Question, ...]:
        """The questions of a set, in order. Raises ``KeyError`` naming the sets that exist."""
        if set_name not in self.question_sets:
            sets = ", ".join(self.question_sets)
            raise KeyError(f"no question set {set_name!r}; questions.yaml has {sets}")
        return self.question_sets[set_name].questions


P = TypeVar("P", bound="Persona | Trigger")


def _named(records: tuple[P, ...], name: str, kind: str, file: str) -> P:
    for record in records:
        if record.name == name:
            return record
    raise KeyError(f"no {kind} is called {name!r}; add it to data/stimuli/{file} or correct the name")


def stimuli_snapshot(stimuli: Stimuli) -> dict[str, Any]:
    """The whole content as JSON-ready lists, mappings and texts."""
    return stimuli.model_dump(mode="json")


def stimuli_digest(stimuli: Stimuli) -> str:
    """sha256 (64 hex digits) of the content; comments, quoting and file layout do not enter."""
    return fingerprint(stimuli_snapshot(stimuli), name="stimuli")
