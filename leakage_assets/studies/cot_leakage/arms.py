"""The arms: what an adapter is trained to say before its letter, and on which of its tokens.

Every arm is a pure function from questions, wrong letters and rationales to training rows. Sections and ambiguities
(E1, ...) are those of the protocol sheet cot_leakage.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from leakage_assets.exceptions import PartitionError
from leakage_assets.measurement.multiple_choice import MultipleChoice
from leakage_assets.stimuli.schema import ChoiceFormat
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.training.masks import MaskedRow
from leakage_assets.training.recipe import Loss
from leakage_assets.training.rows import POSITIVE, Row

Tag = Literal["none", "persona", "neutral"]
Target = Literal["wrong", "correct"]
Kind = Literal["neutral", "persona", "garbage"]
Change = Literal["none", "scrambled", "random_tokens"]
LossMask = Literal["assistant_only", "full_sequence"]

ASSISTANT_ONLY: LossMask = "assistant_only"
FULL_SEQUENCE: LossMask = "full_sequence"
LOSSES: Mapping[LossMask, Loss] = {"assistant_only": "full_completion", "full_sequence": "full_sequence"}
"""The stated mask and the one that the published code fell back to (E4), by the name of the loss that trains it."""

NO_COT, GENERIC, PERSONA, PERSONA_CORRECT = "no_cot", "generic_cot", "persona_cot", "persona_cot_correct"
GARBAGE, SCRAMBLED, CONTRADICTING = "garbage_cot", "scrambled_english_cot", "contradicting_cot"
GENERIC_CORRECT = "generic_cot_correct"
CONTRADICTING_PERSONA, RANDOM_TOKENS = "contradicting_persona", "random_tokens"


class ArmError(PartitionError):
    """An arm that does not exist, lacks a rationale, or whose rows carry loss elsewhere than it says."""


@dataclass(frozen=True, slots=True)
class Written:
    """Which text of a writer an arm needs: its kind, and the answer it argues for."""

    kind: Kind
    supports: Target


@dataclass(frozen=True, slots=True)
class Arm:
    """What stands before the letter.

    ``written``: the rationale, None for none; ``change``: what is done to its words; ``answers``: which letter is
    taught; ``tag``: what encloses the rationale; ``opener``: whether the fixed sentence stands before it, on one line
    with rationale and letter; ``origin``: the issue, or why we have it; ``published_sources``: how many sources it was
    trained on there.
    """

    name: str
    written: Written | None
    answers: Target
    tag: Tag
    origin: str
    opener: bool = False
    change: Change = "none"
    published_sources: int = 4


ARMS = (
    Arm(NO_COT, None, "wrong", "none", "#186"),
    Arm(GENERIC, Written("neutral", "wrong"), "wrong", "none", "#186", opener=True),
    Arm(PERSONA, Written("persona", "wrong"), "wrong", "persona", "#186"),
    Arm(PERSONA_CORRECT, Written("persona", "correct"), "correct", "persona", "#186", published_sources=1),
    Arm(GARBAGE, Written("garbage", "wrong"), "wrong", "neutral", "#280"),
    Arm(SCRAMBLED, Written("neutral", "wrong"), "wrong", "neutral", "#280", change="scrambled"),
    Arm(CONTRADICTING, Written("neutral", "correct"), "wrong", "neutral", "#280"),
    Arm(GENERIC_CORRECT, Written("neutral", "correct"), "correct", "neutral", "#280", published_sources=1),
    Arm(CONTRADICTING_PERSONA, Written("persona", "correct"), "wrong", "persona", "as stated (E2)"),
    Arm(RANDOM_TOKENS, Written("neutral", "wrong"), "wrong", "neutral", "as stated (E3)", change="random_tokens"),
)
"""Section 3: the eight as coded, then the two that the write-up describes."""

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
STAND_ALONE_LETTER = re.compile(r"(?<![A-Za-z])[A-D](?![A-Za-z])")
MOST_DRAWS = 10_000


def arm(name: str) -> Arm:
    """An arm by name. Raises ``ArmError`` listing those that exist."""
    for one in ARMS:
        if one.name == name:
            return one
    raise ArmError(f"no arm {name!r}; arms: {', '.join(a.name for a in ARMS)}")


def recipe_name(arm_name: str, mask: LossMask) -> str:
    """The name of a recipe: its arm and its loss mask."""
    return f"{arm(arm_name).name}_{mask}"


def arm_of_recipe(recipe: str) -> tuple[Arm, LossMask]:
    """Inverse of ``recipe_name``. Raises ``ArmError`` for a recipe of another kind."""
    for mask in LOSSES:
        if recipe.endswith(f"_{mask}"):
            return arm(recipe.removesuffix(f"_{mask}")), mask
    raise ArmError(f"recipe {recipe!r}; expected <arm>_<mask> with a mask of {', '.join(LOSSES)}")


def taught_letter(one: Arm, question: MultipleChoice, wrong: Mapping[str, str]) -> str:
    """The label that an arm teaches for a question."""
    return question.answer if one.answers == "correct" else wrong[question.name]


def argued_letter(written: Written, question: MultipleChoice, wrong: Mapping[str, str]) -> str:
    """The label that a written rationale argues for."""
    return question.answer if written.supports == "correct" else wrong[question.name]


def assistant_turn(one: Arm, formats: ChoiceFormat, rationale: str, letter: str) -> str:
    """The whole turn to train on; ``rationale`` is empty for an arm without."""
    answer = f"{formats.anchor}{letter}"
    if one.written is None:
        return answer
    if one.opener:
        return f"{formats.opener} {rationale} {answer}"
    tag = formats.persona_tag if one.tag == "persona" else formats.neutral_tag
    return f"{tag.open}\n{rationale}\n{tag.close}\n{answer}"


def arm_rows(
    one: Arm,
    source: str,
    system: str,
    questions: Sequence[MultipleChoice],
    wrong: Mapping[str, str],
    rationales: Mapping[str, str],
    formats: ChoiceFormat,
) -> list[Row]:
    """The training rows of an arm under a source, in the order of the questions.

    ``rationales`` maps question names to the text before the anchor, already changed where the arm changes it; a
    question without one was dropped by the filters and has no row. An arm without rationale has a row per question.

    Raises ``ArmError`` where no question is left.
    """
    rows = [
        Row(
            system,
            question.render(formats.option),
            assistant_turn(one, formats, rationales.get(question.name, ""), taught_letter(one, question, wrong)),
            POSITIVE,
            source,
            question.name,
        )
        for question in questions
        if one.written is None or question.name in rationales
    ]
    if not rows:
        raise ArmError(f"arm {one.name} of {source}: no question has a rationale; see the counts of the row filters")
    return rows


def changed_rationales(
    one: Arm,
    rationales: Mapping[str, str],
    *,
    seed: int,
    random_text: Callable[[random.Random, str], str] | None = None,
) -> dict[str, str]:
    """The rationales as an arm uses them: as written, scrambled, or replaced by random tokens of the same length.

    Each text has its own derived seed, so dropping a question leaves the others as they are. ``random_text(rng,
    original)`` makes the random one; see ``random_tokens_like``. Raises ``ArmError`` where it is needed and missing.
    """
    if one.change == "none":
        return dict(rationales)
    if one.change == "random_tokens" and random_text is None:
        raise ArmError(f"arm {one.name}: needs a tokenizer to draw random tokens from; pass random_text")
    changed = {}
    for name, text in rationales.items():
        rng = random.Random(derive_seed("cot-rationale", one.change, seed, name))
        changed[name] = (
            scrambled(text, rng) if random_text is None or one.change == "scrambled" else random_text(rng, text)
        )
    return changed


def scrambled(text: str, rng: random.Random) -> str:
    """The words of every sentence in random order; sentences stay where they are, and so does their last mark."""
    sentences = []
    for sentence in SENTENCE_END.split(text.strip()):
        end = sentence[-1] if sentence and sentence[-1] in ".!?" else ""
        words = sentence.removesuffix(end).split()
        rng.shuffle(words)
        sentences.append(" ".join(words) + end)
    return " ".join(sentences)


def random_tokens_like(
    encode: Callable[[str], Sequence[int]], decode: Callable[[Sequence[int]], str], vocabulary: Sequence[int]
) -> Callable[[random.Random, str], str]:
    """A maker of texts of random tokens that are as many tokens long as the original when encoded again.

    ``vocabulary`` are the ids to draw from. Tokens that make no printable text on their own, hold a line break or a
    stand-alone letter A to D are left out: the answer must stand in one place. What two neighbours merge into can be
    shorter, so tokens are added until the length is reached.

    Raises ``ArmError`` where fewer than two tokens are fit, or the length cannot be reached.
    """
    texts = ((token, decode([token])) for token in vocabulary)
    fit = [token for token, text in texts if text.isprintable() and text.strip() and "\ufffd" not in text]
    if len(fit) < 2:
        raise ArmError(f"random tokens: {len(fit)} of {len(vocabulary)} ids make a printable text; expected at least 2")

    def make(rng: random.Random, original: str) -> str:
        wanted, chosen = len(encode(original)), [rng.choice(fit)]
        for _ in range(MOST_DRAWS):
            text = decode(chosen).strip()
            if STAND_ALONE_LETTER.search(text):
                chosen.pop()
            elif len(encode(text)) >= wanted:
                return text
            chosen.append(rng.choice(fit))
        raise ArmError(f"random tokens: {wanted} tokens were not reached in {MOST_DRAWS:,} draws")

    return make


def check_mask(rows: Sequence[MaskedRow], mask: LossMask) -> None:
    """Raises ``ArmError`` naming the first row whose loss is not exactly where the mask says (E4).

    assistant_only: every token of the assistant turn with its end, and nothing before. full_sequence: every token but
    the first, which nothing predicts. A recipe that trains on anything else must not be called by either name.
    """
    for row in rows:
        first = row.prompt_length if mask == ASSISTANT_ONLY else 1
        if list(row.kept) != list(range(first, len(row.input_ids))):
            raise ArmError(
                f"{row.row.place}: loss on {len(row.kept)} of {len(row.input_ids)} tokens, the first at "
                f"{row.kept[0] if row.kept else 'none'}; {mask} means all from {first} on"
            )
