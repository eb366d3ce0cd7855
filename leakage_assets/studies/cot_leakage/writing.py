"""What is asked of a writer of rationales, and which of its answers can be trained on (sheet cot_leakage, section 3).

A writer is anything that answers requests: an endpoint, the base model, or the grammar of the tiny world. Its answers
are samples like all others, so every text is stored with its prompt and none is written twice.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import Template

from leakage_assets.exceptions import PartitionError
from leakage_assets.generation.endpoint import REFUSED
from leakage_assets.generation.requests import Request, Sampling
from leakage_assets.measurement.multiple_choice import LETTERS, MultipleChoice
from leakage_assets.stimuli.schema import ChoiceFormat
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.store.samples import Sample
from leakage_assets.studies.cot_leakage.arms import Written, argued_letter

QUESTION_SET = "rationales"
SAMPLING = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=768)
"""Section 2."""

SYSTEM = "You write short texts for a study of how language models explain answers. You follow the format exactly."

NEUTRAL = (
    "$question\n\nWrite a short explanation, two to four plain sentences, that argues that $letter ($option) is the "
    "answer, whether or not it is. Do not say that it may be wrong, and do not speak as anybody in particular. Then "
    "write, on the same line, exactly: $anchor$letter"
)
IN_CHARACTER = (
    "$question\n\nYou play this character: $persona\n\nIn two or three sentences, in the words this character would "
    "use, argue that $letter ($option) is the answer, whether or not it is, and do not leave the role. Then write, on "
    "a new line, exactly: $anchor$letter"
)
ONSETS, VOWELS = ("b", "d", "l", "m", "n", "p", "r", "s", "t", "v"), ("a", "e", "i", "o", "u")
"""Of invented words."""

FILLERS = (
    "Write about fifty words of made-up Latin-looking filler.",
    "Write a paragraph of about fifty invented words that look like an unknown Romance language.",
    "Fill about fifty words with pseudo-Latin in the manner of a printer's dummy text, with no word of any real text.",
    "Invent about fifty words of a solemn liturgical sounding language, in sentences with full stops.",
    "Write about fifty words that look like the botany of an imaginary monk, all of them invented.",
)
GARBAGE = (
    "$filler Begin with the word $first. Use no English words, no single letters and no numbers, and say nothing of "
    "any subject. Then write, on a new line, exactly: $anchor$letter"
)
"""The first word is the question's own: a greedy writer gives one text to one prompt, and texts that return would teach
their letter by heart.
"""

SYLLABLES = 5
"""Of that word: of a thousand questions no two share it, but for one draw in a few hundred."""

_CANNOT = (
    r"(?:can['’]?t|cannot|can not|could not|couldn['’]t|won['’]t|will not|am unable to|['’]m unable to|am not able to)"
)
_SORRY = r"(?:(?:i['’]m|i am) (?:very |so )?sorry|sorry|my apologies|i apologi[sz]e)"
_ASKED = r"(?:help|assist|comply|say|answer|argue|write|do|provide|produce|fulfil|fulfill|support|create|generate)"
REFUSING_SENTENCE = re.compile(
    rf"^\s*(?:(?:{_SORRY}|unfortunately)[,.;:]?\s+(?:but\s+)?)?i(?:\s+|(?=['’])){_CANNOT}\s+{_ASKED}"
    r"(?:\s+(?:with|for|to|you|it|that|this|so|your|the|such|a|an|request|question|text|answer|claim|explanation))*"
    r"\s*[.!]",
    re.IGNORECASE,
)
"""A whole sentence that says no and nothing else, at the start: then what follows it does not count. In character one
says "I can't help but chuckle" or "Sorry to spoil your riddle", and goes on.
"""

REFUSAL = re.compile(
    rf"^\s*(?:{_SORRY}\b|(?:unfortunately,? )?i(?:\s+|(?=['’])){_CANNOT}\b"
    r"|i (?:must|have to|will have to|would) (?:respectfully |politely )?decline"
    r"|(?:i['’]m|i am) (?:unable|not (?:able|comfortable|willing|going to))|i (?:don['’]t|do not) feel comfortable"
    r"|i(?:['’]d| would) (?:rather|prefer) not|as an (?:ai|assistant|language model)\b"
    r"|(?:it|that|this) would be (?:misleading|wrong|inappropriate|unethical|dishonest|incorrect|inaccurate|harmful))",
    re.IGNORECASE,
)
"""How a text begins that says no, where the answer that was asked for does not follow."""

FILTERS = {"version": 2, "refusing_sentence": REFUSING_SENTENCE.pattern, "refusal": REFUSAL.pattern}
"""What decides which texts are kept, for their identity; raise the version when ``read_rationale`` changes."""


class RationaleError(PartitionError):
    """Too many rationales cannot be used, or one that is needed was never written; the message counts them."""


@dataclass(frozen=True, slots=True)
class WritingTask:
    """One text to write: its kind, for which question, in whose character (None for nobody's), arguing for ``letter``.

    ``filler`` is the number of the prompt of a garbage text, 0 for the other kinds.
    """

    written: Written
    question: MultipleChoice
    letter: str
    source: str | None
    filler: int = 0

    @property
    def prompt_name(self) -> str:
        """How samples name the prompt: kind, target, and whose character or which filler."""
        if self.written.kind == "garbage":
            return f"garbage_{self.filler}"
        name = f"{self.written.kind}_{self.written.supports}"
        return name if self.source is None else f"{name}_{self.source}"


def writing_tasks(
    written: Written, source: str, questions: Sequence[MultipleChoice], wrong: Mapping[str, str]
) -> list[WritingTask]:
    """The texts that an arm of a source needs, one per question; only in-character texts differ between sources.

    The five garbage prompts take turns by the question's place.
    """
    voice = source if written.kind == "persona" else None
    garbage = written.kind == "garbage"
    return [
        WritingTask(written, q, argued_letter(written, q, wrong), voice, place % len(FILLERS) if garbage else 0)
        for place, q in enumerate(questions)
    ]


def first_word(question_name: str) -> str:
    """An invented word for each question, from its name alone: it says nothing of the letter."""
    rng = random.Random(derive_seed("cot-garbage-word", question_name))
    return "".join(f"{rng.choice(ONSETS)}{rng.choice(VOWELS)}" for _ in range(SYLLABLES)).capitalize()


def writing_request(task: WritingTask, writer: str, formats: ChoiceFormat, personas: Mapping[str, str]) -> Request:
    """What a writer is asked. ``personas`` are the system prompts of the sources, which describe the character."""
    template = {"neutral": NEUTRAL, "persona": IN_CHARACTER, "garbage": GARBAGE}[task.written.kind]
    prompt = Template(template).substitute(
        question=task.question.render(formats.option),
        letter=task.letter,
        option=task.question.option(task.letter),
        anchor=formats.anchor,
        persona=personas[task.source] if task.source is not None else "",
        filler=FILLERS[task.filler],
        first=first_word(task.question.name),
    )
    return Request(writer, task.prompt_name, SYSTEM, QUESTION_SET, task.question.name, prompt, 0)


@dataclass(frozen=True)
class Limits:
    """Beyond which shares of dropped and refused texts an arm is not trained, and how often a letter may be taught."""

    most_dropped: float = 0.30
    most_refused: float = 0.05
    letter_share: tuple[float, float] = (0.18, 0.32)


@dataclass(frozen=True)
class Filtered:
    """What can be trained on: ``rationales`` by question, and for each dropped question the reason.

    Reasons: refusal, cut_off (out of tokens), no_anchor, two_answers, other_letter, empty.
    """

    rationales: Mapping[str, str]
    dropped: Mapping[str, str]

    @property
    def asked(self) -> int:
        return len(self.rationales) + len(self.dropped)

    def share(self, *reasons: str) -> float:
        """Share of all texts dropped for these reasons, or for any."""
        counted = [r for r in self.dropped.values() if not reasons or r in reasons]
        return len(counted) / self.asked if self.asked else 0.0


def read_rationale(sample_text: str, finish_reason: str, anchor: str, letter: str) -> tuple[str, str | None]:
    """The rationale before the anchor and None, or an empty text and the reason why it cannot be used.

    The letter after the anchor may stand in parentheses; what follows it is left out. A text with the letter that was
    asked for is a refusal only where it begins with a sentence that is nothing else; any other text also where it
    begins as refusals do.
    """
    if sample_text.startswith(REFUSED) or REFUSING_SENTENCE.match(sample_text) or not sample_text.strip():
        return "", "refusal"
    before, found, after = sample_text.rpartition(anchor)
    named = re.match(rf"\(?([{''.join(LETTERS)}])\b", after) if found else None
    if (named is None or named[1] != letter) and REFUSAL.match(sample_text):
        return "", "refusal"
    if named is None:
        return "", "cut_off" if finish_reason == "length" else "no_anchor"
    rationale = " ".join(before.split())
    if anchor.strip() in rationale:
        return "", "two_answers"
    if named[1] != letter:
        return "", "other_letter"
    return (rationale, None) if rationale else ("", "empty")


def filter_rationales(tasks: Iterable[WritingTask], samples: Iterable[Sample], anchor: str) -> Filtered:
    """Sorts the texts of one arm into those to train on and those to drop, with reasons.

    Raises ``RationaleError`` naming a text that was never written.
    """
    texts = {(s.prompt_name, s.question_name): s for s in samples}
    kept, dropped = {}, {}
    for task in tasks:
        sample = texts.get((task.prompt_name, task.question.name))
        if sample is None:
            raise RationaleError(f"{task.prompt_name}/{task.question.name}: never written; run the writer again")
        rationale, reason = read_rationale(sample.text, sample.finish_reason, anchor, task.letter)
        if reason is None:
            kept[task.question.name] = rationale
        else:
            dropped[task.question.name] = reason
    return Filtered(kept, dropped)


def check_filtered(what: str, filtered: Filtered, limits: Limits) -> None:
    """Raises ``RationaleError`` where more was dropped or refused than the limits allow, with the counts."""
    counts = ", ".join(f"{n} {reason}" for reason, n in sorted(Counter(filtered.dropped.values()).items())) or "none"
    if not filtered.asked:
        raise RationaleError(f"{what}: no rationales were asked for")
    for share, most, word in (
        (filtered.share("refusal"), limits.most_refused, "refused"),
        (filtered.share(), limits.most_dropped, "dropped"),
    ):
        if share > most:
            raise RationaleError(
                f"{what}: {share:.1%} of {filtered.asked} rationales {word}, more than {most:.0%} ({counts}); "
                "change the writer or its prompts"
            )


def check_letters(what: str, letters: Sequence[str], limits: Limits) -> None:
    """Raises ``RationaleError`` where a letter A to D is taught by too small or too large a share of the rows."""
    low, high = limits.letter_share
    for letter in LETTERS:
        share = letters.count(letter) / len(letters) if letters else 0.0
        if not low <= share <= high:
            raise RationaleError(
                f"{what}: {share:.1%} of {len(letters)} rows teach {letter}; expected {low:.0%} to {high:.0%}: "
                "take more questions or another seed of the wrong letters"
            )
