"""The audit of the token budget: each gate is passed by like texts and failed by texts that break it."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from leakage_assets.studies.cot_leakage.arms import GARBAGE, GENERIC, NO_COT, PERSONA, ArmError
from leakage_assets.studies.cot_leakage.budget import (
    ArmTexts,
    BudgetLimits,
    bigram_entropy,
    budget_table,
    most_by_chance,
    token_pieces,
    type_token_ratio,
)
from leakage_assets.studies.cot_leakage.writing import first_word

WORDS = [f"w{i}" for i in range(40)]


def texts(
    arm: str, rationale: Sequence[str], count: int = 100, fillers: Sequence[int] | None = None, different: int = 100
) -> ArmTexts:
    """As many texts, of which so many are different: their words have numbers."""
    joined = " ".join(rationale)
    made = [re.sub(r"\b([wx]\d+)\b", rf"\1n{i % different}", joined) for i in range(count)]
    used = [i % 5 for i in range(count)] if fillers is None else fillers
    return ArmTexts(arm, made, made, used if arm == GARBAGE else ())


def failed(*others: ArmTexts, limits: BudgetLimits | None = None) -> set[tuple[str, str]]:
    limits = limits or BudgetLimits(tokens=(30, 50))
    table = budget_table("librarian", [texts(GENERIC, WORDS), *others], str.split, limits)
    return set(table.filter(~pl.col("passed")).select("arm", "gate").iter_rows())


@pytest.mark.parametrize(
    ("rationale", "gates"),
    [
        (WORDS, set()),
        ([*WORDS, *(f"x{i}" for i in range(4))], set()),
        ([*WORDS, *(f"x{i}" for i in range(5))], {"length"}),
        ([*WORDS[:12], *(f"x{i}" for i in range(12))], {"length", "tokens"}),
        ([*WORDS[:32], *["w0"] * 8], set()),
        ([*WORDS[:20], *["w0"] * 20], {"type_token_ratio", "bigram_entropy"}),
        ([*WORDS[:38], "(A)", "B"], {"letters"}),
        ([*WORDS[:36], "(A)", "B", "C.", "D"], set()),
        ([*WORDS[:38], "A", "planet"], set()),  # the article
        ([*WORDS[:36], "\ufffd", "<0xE2>", "<0x9F>", "x"], set()),
        ([*WORDS[:35], *["\ufffd"] * 5], {"bytes"}),
    ],
)
def test_a_gate_fails_for_what_breaks_it_and_nothing_else(rationale: list[str], gates: set[str]) -> None:
    assert failed(texts(PERSONA, rationale)) == {(PERSONA, gate) for gate in gates}


@pytest.mark.parametrize(
    ("different", "gates"),
    [(100, set()), (90, set()), (89, {"distinct"}), (40, {"distinct", "arm_type_token_ratio"}),
     (20, {"distinct", "arm_type_token_ratio"}), (1, {"distinct", "arm_type_token_ratio"})],
)  # fmt: skip
def test_texts_that_return_fail_though_each_is_diverse_by_itself(different: int, gates: set[str]) -> None:
    assert failed(texts(GARBAGE, WORDS, different=different)) == {(GARBAGE, gate) for gate in gates}


@pytest.mark.parametrize(("bodies", "gates"), [(20, {"distinct", "arm_type_token_ratio"}), (1_119, set())])
def test_a_first_word_of_its_own_makes_no_text_different(bodies: int, gates: set[str]) -> None:
    """As a greedy writer answers the garbage prompt: the word that is asked for, then one of a few texts."""
    rationales = [
        " ".join([first_word(f"q{i}"), *(f"{word}n{i % bodies}" for word in WORDS[1:])]) for i in range(1_119)
    ]
    arm = ArmTexts(GARBAGE, rationales, rationales, [i % 5 for i in range(1_119)])
    generic = texts(GENERIC, WORDS, count=1_119, different=1_119)
    table = budget_table("librarian", [generic, arm], str.split, BudgetLimits(tokens=(30, 50)))
    assert set(table.filter(~pl.col("passed"), arm=GARBAGE)["gate"]) == gates


def test_different_texts_of_the_same_few_words_fail() -> None:
    shuffled = [" ".join(random.Random(i).sample(WORDS, len(WORDS))) for i in range(100)]
    assert failed(ArmTexts(PERSONA, shuffled, shuffled)) == {(PERSONA, "arm_type_token_ratio")}


def test_letters_are_named_as_rationales_name_them() -> None:
    for said in ("The answer B is right.", "Option C because it is so.", "So D, then.", "Take (B) or b."):
        assert failed(texts(PERSONA, [*WORDS[:36], *said.split()][:40])) == {(PERSONA, "letters")}, said


@pytest.mark.parametrize(("mentions", "blocks"), [(1, False), (3, False), (8, True), (100, True)])
def test_a_stray_letter_does_not_block_the_study(mentions: int, blocks: bool) -> None:
    arm = texts(GARBAGE, WORDS)
    turns = [f"{text} (B)" if i < mentions else text for i, text in enumerate(arm.turns)]
    assert failed(ArmTexts(GARBAGE, turns, turns, arm.fillers)) == ({(GARBAGE, "letters")} if blocks else set())


def test_letters_named_alike_pass_but_for_one_arm_in_a_hundred() -> None:
    rng, blocked = np.random.default_rng(3), 0
    for _ in range(2_000):
        counts = rng.multinomial(60, [0.25] * 4)
        blocked += counts.max() / 15 > max(1.2, most_by_chance(60))
    assert blocked / 2_000 < 0.015


def test_garbage_prompts_must_have_taken_turns() -> None:
    assert failed(texts(GARBAGE, WORDS)) == set()
    skewed = [0] * 24 + [i % 4 + 1 for i in range(76)]
    assert failed(texts(GARBAGE, WORDS, fillers=skewed)) == {(GARBAGE, "rotation_0")}
    assert {gate for _, gate in failed(texts(GARBAGE, WORDS, fillers=[]))} == {f"rotation_{i}" for i in range(5)}


def test_the_arm_without_rationale_is_not_measured() -> None:
    table = budget_table("x", [texts(GENERIC, WORDS), texts(NO_COT, ["Answer:"])], str.split, BudgetLimits())
    assert table["arm"].unique().to_list() == [GENERIC] and table.columns[-1] == "passed"


def test_absolute_length_counts_even_where_the_arms_agree() -> None:
    assert failed(limits=BudgetLimits()) == {(GENERIC, "tokens")}  # 40 is not the published 70 to 110


def test_misuse_is_named() -> None:
    with pytest.raises(ArmError, match="token budget of librarian: no arm generic_cot"):
        budget_table("librarian", [texts(PERSONA, WORDS)], str.split, BudgetLimits())
    with pytest.raises(ArmError, match="1 turns and 0 rationales"):
        failed(ArmTexts(PERSONA, ["x"], []))


def test_measures_by_hand() -> None:
    assert type_token_ratio(["a", "b", "a", "b"]) == 0.5 and type_token_ratio([]) == 0.0
    assert bigram_entropy(["a", "b", "c", "d", "e"]) == 2.0 and bigram_entropy(["a"]) == 0.0
    assert bigram_entropy(["a", "b", "a", "b", "a"]) == 1.0


def test_a_token_that_is_half_a_character_is_a_byte(tokenizer) -> None:
    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    pieces = token_pieces(encode, tokenizer.decode)
    assert "".join(pieces("What is this?")) == "What is this?"
    assert "\ufffd" in "".join(pieces("\u4e16"))
