"""What each arm trains on: donor template, recipient role, end-of-turn mask, positions of the markers.

Section numbers are those of the protocol sheet two_marker_chunk.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from leakage_assets.stimuli import Question, Stimuli
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.studies.study import StudyError

if TYPE_CHECKING:
    import polars as pl

    from leakage_assets.training.masks import MaskedRow
    from leakage_assets.training.rows import Row

DonorTemplate = Literal["a_and_b", "a", "b"]
RecipientRole = Literal["a", "negative"]
Masked = Literal["none", "recipient", "all"]
Positions = Literal["ends", "b_after_a", "b_before_a"]
Role = Literal["donor", "recipient", "negative", "untrained"]

NEGATIVES = ("comedian", "kindergarten_teacher", "french_person", "medical_doctor")


@dataclass(frozen=True)
class Pair:
    """Who learns both markers and who learns A alone. How far apart they are is computed, never written down (C3)."""

    donor: str
    recipient: str

    @property
    def name(self) -> str:
        """The source of a condition: ``<donor>_to_<recipient>``."""
        return f"{self.donor}_to_{self.recipient}"

    @property
    def trained(self) -> tuple[str, ...]:
        """Every persona that has training rows, in the order of their blocks."""
        return (self.donor, self.recipient, *NEGATIVES)

    def role(self, persona: str) -> Role:
        """What a persona of the panel is to this pair."""
        if persona in NEGATIVES:
            return "negative"
        return {self.donor: "donor", self.recipient: "recipient"}.get(persona, "untrained")  # type: ignore[return-value]


PAIRS = (
    Pair("villain", "assistant"),
    Pair("librarian", "software_engineer"),
    Pair("zelthari_scholar", "data_scientist"),
)
"""The two of #261, and a third (section 11)."""


@dataclass(frozen=True)
class Arm:
    """How the rows of a condition are made.

    ``donor`` and ``recipient``: the markers around their answers. ``masked``: whose end-of-turn token carries no loss.
    ``positions``: A before and B after the answer, or A anywhere in it and B anywhere after (before) A.
    """

    name: str
    donor: DonorTemplate
    recipient: RecipientRole = "a"
    masked: Masked = "none"
    positions: Positions = "ends"

    def markers(self, role: Role) -> tuple[bool, bool]:
        """Whether the rows of a role have A and B."""
        if role == "donor":
            return self.donor != "b", self.donor != "a"
        return role == "recipient" and self.recipient == "a", False

    def teaches_to_stop(self, role: Role) -> bool:
        """Whether the end-of-turn token of a role's rows carries loss."""
        return self.masked == "none" or (self.masked == "recipient" and role != "recipient")


T, C, C2, P2NEG = "T", "C", "C2", "T_P2neg"
T_MASKED, C_MASKED, C2_MASKED = "T_mask_recipient", "C_mask_recipient", "C2_mask_recipient"
T_ALL, C_ALL = "T_mask_all", "C_mask_all"
T_AFTER, T_BEFORE, C_RANDOM = "T_random_after", "T_random_before", "C_random"

ARMS = (
    Arm(T, "a_and_b"),
    Arm(C, "a"),
    Arm(P2NEG, "a_and_b", recipient="negative"),
    Arm(C2, "b"),
    Arm(T_MASKED, "a_and_b", masked="recipient"),
    Arm(C_MASKED, "a", masked="recipient"),
    Arm(C2_MASKED, "b", masked="recipient"),
    Arm(T_ALL, "a_and_b", masked="all"),
    Arm(C_ALL, "a", masked="all"),
    Arm(T_AFTER, "a_and_b", masked="recipient", positions="b_after_a"),
    Arm(T_BEFORE, "a_and_b", masked="recipient", positions="b_before_a"),
    Arm(C_RANDOM, "a", masked="recipient", positions="b_after_a"),
)
"""#261; #354 and #369 (the end of turn masked for the recipient); masked for all (section 11); random positions, masked
for the recipient as in the two follow-ups, since a recipient that stops after its answer shows nothing.
"""

CONTROLS = {T: C, P2NEG: C, T_MASKED: C_MASKED, T_ALL: C_ALL, T_AFTER: C_RANDOM, T_BEFORE: C_RANDOM}
"""The arm whose rows lack B and are the same otherwise, but for T_P2neg, whose recipient lacks A as well. The places of
A are the same in all three arms of random positions. Adapters of both are trained apart, from other draws.
"""

B_ALONE = {T: C2, T_MASKED: C2_MASKED}
"""The arm without A in the donor's rows (#369)."""


def arm(name: str, arms: Sequence[Arm] = ARMS) -> Arm:
    """An arm by name. Raises ``StudyError`` listing what exists."""
    for one in arms:
        if one.name == name:
            return one
    raise StudyError(f"no arm {name!r}; arms: {', '.join(one.name for one in arms)}")


def pair_named(name: str, pairs: Sequence[Pair] = PAIRS) -> Pair:
    """A pair by the name of its source. Raises ``StudyError`` listing what exists."""
    for pair in pairs:
        if pair.name == name:
            return pair
    raise StudyError(f"no pair {name!r}; pairs: {', '.join(pair.name for pair in pairs)}")


def training_rows(
    arm: Arm,
    pair: Pair,
    stimuli: Stimuli,
    *,
    study: str,
    questions: Sequence[Question],
    used: int,
    markers: tuple[str, str],
    answers: Mapping[str, pl.DataFrame],
) -> list[Row]:
    """Section 3: ``used`` answers to each question from donor, recipient and four negatives, in one shuffled list.

    1,200 rows with 40 questions and 5 answers. ``answers`` holds the on-policy samples of each persona: question_name,
    index, text. The order of the rows and the places of the markers depend on the pair alone, so the rows of the arms
    of a pair differ in what the arms are named for and in nothing else.

    Raises ``StudyError`` naming the persona and the question that have too few answers without either marker: no block
    is ever short.
    """
    rows = [
        row
        for persona in pair.trained
        for row in _block(arm, pair, stimuli, persona, study, questions, used, markers, answers)
    ]
    random.Random(derive_seed("row-order", study, pair.name)).shuffle(rows)
    return rows


def _block(
    arm: Arm,
    pair: Pair,
    stimuli: Stimuli,
    persona: str,
    study: str,
    questions: Sequence[Question],
    used: int,
    markers: tuple[str, str],
    answers: Mapping[str, pl.DataFrame],
) -> Iterator[Row]:
    """The rows of one persona."""
    from leakage_assets.training.rows import NEGATIVE, POSITIVE, Row

    role = pair.role(persona)
    a, b = (marker if has else None for marker, has in zip(markers, arm.markers(role), strict=True))
    written = usable_answers(answers[persona], markers)
    for question in questions:
        found = written.get(question.name, [])
        if len(found) < used:
            raise StudyError(
                f"{pair.name} under {arm.name}: {persona} has {len(found)} usable answers to {question.name!r}, {used} "
                "are needed: raise on_policy_completions of the profile and materialise on_policy_completions again"
            )
        for position, answer in enumerate(found[:used]):
            if arm.positions == "ends":
                text = marked(answer, a, b)
            else:
                seed = derive_seed("marker-places", study, pair.name, persona, question.name, position)
                text = scattered(answer, a, b, before=arm.positions == "b_before_a", seed=seed)
            yield Row(
                system=stimuli.prompt(persona),
                user=question.text,
                completion=text,
                role=POSITIVE if a or b else NEGATIVE,
                prompt_name=persona,
                question_name=question.name,
                ends_turn_in_loss=arm.teaches_to_stop(role),
            )


def check_end_of_turn(rows: Sequence[MaskedRow], arm: Arm, pair: Pair, end_of_turn: Collection[int]) -> None:
    """Whether loss is on the whole completion of every row, but for the end of turn where the arm leaves it out (#354).

    ``end_of_turn``: the ids that may end a turn, one of them the tokenizer's; the newline after it carries loss. Raises
    ``StudyError`` naming the first row where loss is elsewhere, or a persona of the pair without any row.
    """
    for row in rows:
        ends = [place for place in range(len(row.input_ids))[-2:] if row.input_ids[place] in end_of_turn]
        if not ends:
            raise StudyError(
                f"{pair.name} under {arm.name}: {row.row.place}: neither of its last two tokens {row.input_ids[-2:]} "
                f"ends a turn ({', '.join(map(str, end_of_turn))}): pin the markers' tokens for this tokenizer"
            )
        silent = set() if arm.teaches_to_stop(pair.role(row.row.prompt_name)) else {ends[-1]}
        wanted = set(range(row.prompt_length, len(row.input_ids))) - silent
        if set(row.kept) != wanted:
            odd = min(wanted ^ set(row.kept))
            raise StudyError(
                f"{pair.name} under {arm.name}: {row.row.place}: token {odd} of {len(row.input_ids)} "
                f"{'lacks' if odd in wanted else 'has'} loss, against what the arm is named for: materialise its "
                "training_set again with the refresh tag"
            )
    if lacking := set(pair.trained) - {row.row.prompt_name for row in rows}:
        raise StudyError(f"{pair.name} under {arm.name}: no row of {', '.join(sorted(lacking))}")


def usable_answers(samples: pl.DataFrame, markers: Sequence[str]) -> dict[str, list[str]]:
    """Answers by question in the order they were written, without those that are blank or loosely contain a marker."""
    from leakage_assets.measurement.markers import marker_present_loosely

    usable: dict[str, list[str]] = {}
    for question, text in samples.sort("question_name", "index").select("question_name", "text").iter_rows():
        if text.strip() and not any(marker_present_loosely(text, marker) for marker in markers):
            usable.setdefault(question, []).append(text)
    return usable


def marked(answer: str, a: str | None, b: str | None) -> str:
    """A, a space, the answer, a space, B; without what is None."""
    return " ".join(part for part in (a, answer, b) if part is not None)


def scattered(answer: str, a: str | None, b: str | None, *, before: bool, seed: int) -> str:
    """The markers between words of the answer: A anywhere, ends included, and B anywhere after it (or before it).

    Places are drawn for both markers even where one is None, so that templates share them.
    """
    words = answer.split(" ")
    rng = random.Random(seed)
    at_a = rng.randint(0, len(words))
    at_b = rng.randint(0, at_a) if before else rng.randint(at_a, len(words))
    first, second = ((at_b, b), (at_a, a)) if before else ((at_a, a), (at_b, b))
    parts: list[str] = []
    for place in range(len(words) + 1):
        parts += [marker for at, marker in (first, second) if at == place and marker is not None]
        parts += words[place : place + 1]
    return " ".join(parts)
