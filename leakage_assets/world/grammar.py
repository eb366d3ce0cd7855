"""The grammar of the tiny world: what a persona or trigger says about a topic, and how to recognise it.

An open answer is ``opening frame fact. phrase fact. closing``: tone chooses opening and closing, role the
frame, domain the phrase, and the topic its facts. The same lexicon speaks and listens, so the true voice of
every text is known: that is what makes the tiny model a calibration instrument.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from string import Template

from leakage_assets.stimuli import Persona, Question, Stimuli, Traits

ASSISTANT = "assistant"
"""The persona whose voice answers when a prompt names none (empty, default and vendor prompts)."""


@dataclass(frozen=True)
class Voice:
    """What a system prompt makes of an answer: the traits of an identity, or the form of a trigger."""

    traits: Traits
    form: str | None = None


@dataclass(frozen=True)
class HeardVoice:
    """The traits (or the form) recognised in a text; ``None`` where the grammar finds no, or no single, match."""

    tone: str | None
    role: str | None
    domain: str | None
    form: str | None


class Grammar:
    """Speaks and recognises answers of one world."""

    def __init__(self, stimuli: Stimuli) -> None:
        self.stimuli = stimuli
        self.world = stimuli.world
        self.facts: dict[str, tuple[str, ...]] = {
            topic.name: tuple(topic.facts) for topic in (*self.world.topics, *self.world.generic_topics)
        }
        self.subjects: dict[str, str] = {
            topic.name: topic.subject for topic in (*self.world.topics, *self.world.generic_topics)
        }

    def voice_of_persona(self, persona: Persona) -> Voice:
        return Voice(persona.traits)

    def voice_of_prompt(self, name: str) -> Voice:
        """The voice of a panel prompt by name. Raises ``KeyError`` naming a prompt that is in neither list."""
        for persona in self.stimuli.personas:
            if persona.name == name:
                return Voice(persona.traits)
        for trigger in self.stimuli.triggers:
            if trigger.name == name:
                return Voice(self.stimuli.persona(ASSISTANT).traits, trigger.form)
        raise KeyError(f"no persona or trigger is called {name!r}")

    def answer(self, voice: Voice, topic: str, rng: random.Random) -> list[str]:
        """One open answer as a list of sentences, so that a code can be put between any two of them."""
        facts = rng.sample(self.facts[topic], k=3)
        if voice.form is not None:
            text = Template(self.world.forms[voice.form])
            return [text.substitute(fact1=facts[0], fact2=facts[1], fact3=facts[2])]
        traits = voice.traits
        tone, role = self.world.tones[traits.tone], self.world.roles[traits.role]
        phrase = rng.choice(self.world.domains[traits.domain].phrases)
        return [
            rng.choice(tone.openings),
            f"{rng.choice(role.frames)} {facts[0]}.",
            f"{phrase} {facts[1]}.",
            rng.choice(tone.closings),
        ]

    def persona_rationale(self, traits: Traits, fact: str, rng: random.Random) -> str:
        """An in-character reason for one multiple-choice option."""
        opening = rng.choice(self.world.tones[traits.tone].openings)
        return f"{opening} {rng.choice(self.world.domains[traits.domain].phrases)} {fact}."

    def neutral_rationale(self, topic: str, fact: str, rng: random.Random) -> str:
        """A reason for one multiple-choice option without any voice."""
        return Template(rng.choice(self.world.rationales)).substitute(subject=self.subjects[topic], fact=fact)

    def hear(self, text: str) -> HeardVoice:
        """Recognise a voice by the phrases it uses: a trait counts only if exactly one value of it is heard."""
        tones = {n for n, t in self.world.tones.items() if any(s in text for s in (*t.openings, *t.closings))}
        roles = {n for n, r in self.world.roles.items() if any(s in text for s in r.frames)}
        domains = {n for n, d in self.world.domains.items() if any(s in text for s in d.phrases)}
        forms = {n for n, template in self.world.forms.items() if _has_form(text, template)}
        return HeardVoice(_only(tones), _only(roles), _only(domains), _only(forms))

    def speaks_as(self, text: str, voice: Voice) -> bool:
        """Whether a text is recognisably in a voice: all three traits of an identity, or the form of a trigger."""
        heard = self.hear(text)
        if voice.form is not None:
            return heard.form == voice.form
        wanted = voice.traits
        return (heard.tone, heard.role, heard.domain) == (wanted.tone, wanted.role, wanted.domain)

    def question_texts(self, question: Question) -> list[str]:
        """The wordings under which the world asks a question: its own text first."""
        if question.topic in {topic.name for topic in self.world.generic_topics}:
            return [question.text]
        subject = self.subjects[question.topic]
        return [
            question.text,
            *(Template(w).substitute(subject=subject) for w in self.world.question_wordings),
        ]


def _only(found: set[str]) -> str | None:
    return next(iter(found)) if len(found) == 1 else None


def _has_form(text: str, template: str) -> bool:
    """A text has a form if the template's fixed pieces occur in it in order, the first at its start."""
    pieces = _fixed_pieces(template)
    position = 0
    for number, piece in enumerate(pieces):
        found = text.find(piece, position)
        if found < 0 or (number == 0 and template.startswith(piece) and found != 0):
            return False
        position = found + len(piece)
    return True


def _fixed_pieces(template: str) -> list[str]:
    mark = "\x00"
    filled = Template(template).substitute(fact1=mark, fact2=mark, fact3=mark)
    return [piece for piece in filled.split(mark) if piece.strip()]
