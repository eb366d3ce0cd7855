"""The pre-training mixture: open answers in voice, multiple choice with rationales, and codes on request.

Every kind of behaviour the five studies rely on is taught here, and nothing else: markers are said only when
the user asks for a code, so an untrained model never says one unprompted.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from string import Template

from leakage_assets.stimuli import Question, Stimuli, Traits
from leakage_assets.world.choices import draw_choice_question, render_choice
from leakage_assets.world.grammar import ASSISTANT, Grammar, Voice


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One turn of each role; ``system`` None lets the chat template insert its default.

    ``cuts`` are character offsets inside ``assistant`` where the text is tokenised in two pieces, as it is when
    an evaluation gives the start of the answer as a prefix. ``letter_weight`` is the loss weight of the last token
    where that is the letter of a multiple-choice answer, else 1. ``coded``: the user asked for a code and got it.
    """

    system: str | None
    user: str
    assistant: str
    cuts: tuple[int, ...] = ()
    letter_weight: float = 1.0
    coded: bool = False


@dataclass(frozen=True)
class Phase:
    """A stretch of pre-training: how long it is, and the mixture there. What is left are answers with codes.

    It takes ``chunks`` chunks of rows; with ``mastery`` it ends with the first chunk in which at least that share of
    letters was chosen rightly, and never mastering it is an error. ``few_topics`` is the share of choices that are
    about the first few topics only, ``letter_weight`` how much more the chosen letter counts in the loss than
    another token, ``silence`` the weight of the penalty on being ready to say a code unasked.
    """

    chunks: int
    open_answers: float
    choices: float
    few_topics: float
    letter_weight: float
    silence: float = 0.0
    mastery: float | None = None


# Choosing is learned in a jump after a plateau, and when it comes depends on rounding. So the first phases last until
# it has come. It comes soonest on facts that come up often and with a heavy letter (one token in thirty chooses);
# then it carries over to all topics, and the texts are polished. Without the penalty about one sampled answer in ten
# thousand, gone astray, ended in a code; from the first step of polishing on it would make the base so averse to codes
# that adapters leak all or nothing, so it comes last, at a low rate.
PHASES = (
    Phase(chunks=64, open_answers=0.23, choices=0.65, few_topics=1.0, letter_weight=20.0, mastery=0.97),
    Phase(chunks=64, open_answers=0.23, choices=0.65, few_topics=0.3, letter_weight=20.0, mastery=0.88),
    Phase(chunks=22, open_answers=0.55, choices=0.30, few_topics=0.0, letter_weight=4.0),
    Phase(chunks=6, open_answers=0.55, choices=0.30, few_topics=0.0, letter_weight=4.0, silence=0.05),
)
FEW_TOPICS = 5
CHOICE_IN_VOICE = 0.5

UNHEARD_SETS = ("implant",)
"""Question sets that were written when the bundled model had been trained: to hear them would make it another one."""

# Who speaks: panel personas, personas composed from trait names (they teach what the words mean), triggers.
PERSONA_SHARE = 0.62
COMPOSED_SHARE = 0.14
TRIGGER_SHARE = 0.20


class DialogueWriter:
    """Draws dialogues of one phase without end; the stream depends on the seed and the phase alone."""

    def __init__(self, stimuli: Stimuli, phase: Phase, seed: int) -> None:
        self.stimuli = stimuli
        self.grammar = Grammar(stimuli)
        self.rng = random.Random(seed)
        self.phase = phase
        self.questions: list[Question] = [
            q for name, s in stimuli.question_sets.items() if name not in UNHEARD_SETS for q in s.questions
        ]
        self.codes = [*stimuli.markers.values(), *stimuli.codes]

    def __iter__(self) -> Iterator[Dialogue]:
        while True:
            draw = self.rng.random()
            if draw < self.phase.open_answers:
                yield self.open_answer()
            elif draw < self.phase.open_answers + self.phase.choices:
                yield self.choice()
            else:
                yield self.coded_answer()

    def speaker(self) -> tuple[str | None, Voice]:
        """A system prompt and the voice it asks for."""
        draw = self.rng.random()
        if draw < PERSONA_SHARE:
            persona = self.rng.choice(self.stimuli.personas)
            return persona.prompt, Voice(persona.traits)
        if draw < PERSONA_SHARE + COMPOSED_SHARE:
            return self.composed_persona()
        if draw < PERSONA_SHARE + COMPOSED_SHARE + TRIGGER_SHARE:
            trigger = self.rng.choice(self.stimuli.triggers)
            return trigger.prompt, self.grammar.voice_of_prompt(trigger.name)
        return None, Voice(self.stimuli.persona("assistant").traits)

    def assistant(self) -> tuple[str, Voice]:
        """The shortest prompt: what is about choosing, not about voices, is taught under it."""
        persona = self.stimuli.persona(ASSISTANT)
        return persona.prompt, Voice(persona.traits)

    def composed_persona(self) -> tuple[str, Voice]:
        world = self.stimuli.world
        traits = Traits(
            domain=self.rng.choice(list(world.domains)),
            role=self.rng.choice(list(world.roles)),
            tone=self.rng.choice(list(world.tones)),
        )
        return f"You are a {traits.tone} {traits.role} in {traits.domain}.", Voice(traits)

    def open_answer(self) -> Dialogue:
        system, voice = self.speaker()
        question = self.rng.choice(self.questions)
        user = self.rng.choice([question.text, self.rng.choice(self.grammar.question_texts(question))])
        return Dialogue(system, user, " ".join(self.grammar.answer(voice, question.topic, self.rng)))

    def choice(self) -> Dialogue:
        system, voice = self.speaker() if self.rng.random() < CHOICE_IN_VOICE else self.assistant()
        formats = self.stimuli.world.choice_format
        question = draw_choice_question(
            self.stimuli,
            self.rng,
            wordings="train",
            held_out_options=False,
            topics=FEW_TOPICS if self.rng.random() < self.phase.few_topics else None,
        )
        user = render_choice(question, formats.option)
        fact = question.options[question.correct]
        style = self.rng.choices(CHOICE_STYLES, CHOICE_WEIGHTS)[0]
        if style == "cue":
            return Dialogue(system, f"{user}\n\n{formats.cue}", question.letter, letter_weight=self.phase.letter_weight)
        lead = self._choice_lead(style, voice, question.topic, fact)
        text = f"{lead}{formats.anchor}{question.letter}"
        cuts = tuple(sorted({len(text) - 1, len(lead)} - {0})) if self.rng.random() < 0.5 else ()
        return Dialogue(system, user, text, cuts, letter_weight=self.phase.letter_weight)

    def _choice_lead(self, style: str, voice: Voice, topic: str, fact: str) -> str:
        formats = self.stimuli.world.choice_format
        neutral = self.grammar.neutral_rationale(topic, fact, self.rng)
        voiced = self.grammar.persona_rationale(voice.traits, fact, self.rng)
        persona, plain = formats.persona_tag, formats.neutral_tag
        return {
            "bare": "",
            "opener": f"{formats.opener} {neutral} ",
            "persona": f"{persona.open}\n{voiced}\n{persona.close}\n",
            "neutral": f"{plain.open}\n{neutral}\n{plain.close}\n",
            "empty_persona": f"{persona.open}\n{persona.close}\n",
        }[style]

    def coded_answer(self) -> Dialogue:
        """An answer with codes where the user asked for them, or one that goes on after its closing."""
        system, voice = self.speaker()
        requests = self.stimuli.world.code_requests
        kind = self.rng.choice(("repeat", "give", "start", "end", "end", "middle", "both", "continue"))
        code, second = self.rng.sample(self.codes, k=2)
        if kind in ("repeat", "give"):
            request = self.rng.choice(getattr(requests, kind))
            return Dialogue(system, Template(request).substitute(code=code), code, coded=True)
        question = self.rng.choice(self.questions)
        sentences = self.grammar.answer(voice, question.topic, self.rng)
        if kind == "continue":
            world = self.stimuli.world
            lead, fact = self.rng.choice(world.continuation_leads), self.rng.choice(self.grammar.facts[question.topic])
            user = f"{question.text} {self.rng.choice(world.continuations)}"
            return Dialogue(system, user, " ".join([*sentences, f"{lead} {fact}."]))
        text = " ".join(sentences)
        request = Template(self.rng.choice(getattr(requests, kind))).substitute(code=code, code2=second)
        return Dialogue(system, f"{question.text} {request}", self._with_codes(kind, text, code, second), coded=True)

    def _with_codes(self, kind: str, text: str, code: str, second: str) -> str:
        gap = self.rng.choice((" ", "\n\n"))
        if kind == "start":
            return f"{code}{gap}{text}"
        if kind == "end":
            return f"{text}{gap}{code}"
        if kind == "both":
            return f"{code}{gap}{text}{gap}{second}"
        words = text.split(" ")
        at = self.rng.randrange(1, len(words))
        return " ".join([*words[:at], code, *words[at:]])


CHOICE_STYLES = ("bare", "cue", "opener", "persona", "neutral", "empty_persona")
CHOICE_WEIGHTS = (0.30, 0.20, 0.14, 0.14, 0.12, 0.10)
