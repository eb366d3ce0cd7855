"""Every arm says what the sheet says, under the tag it records, with loss exactly where its mask says."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from leakage_assets.measurement.multiple_choice import wrong_letters
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.cot_leakage.arms import (
    ARMS,
    CONTRADICTING,
    CONTRADICTING_PERSONA,
    GARBAGE,
    GENERIC,
    GENERIC_CORRECT,
    LOSSES,
    NO_COT,
    PERSONA,
    PERSONA_CORRECT,
    RANDOM_TOKENS,
    SCRAMBLED,
    ArmError,
    arm,
    arm_of_recipe,
    arm_rows,
    changed_rationales,
    check_mask,
    random_tokens_like,
    recipe_name,
    scrambled,
)
from leakage_assets.studies.cot_leakage.questions import Questions
from leakage_assets.training.masks import encode_rows
from leakage_assets.training.recipe import Recipe
from leakage_assets.training.rows import Row
from leakage_assets_tests.fixtures_models import recipe

RATIONALE = "It sounds right. The others do not."


def rows_of(name: str, stimuli: Stimuli, questions: Questions, rationale: str = RATIONALE) -> list[Row]:
    asked = questions.train[:8]
    texts = {q.name: rationale for q in asked}
    wrong = wrong_letters(questions.train, 42)
    return arm_rows(arm(name), "villain", "You are bad.", asked, wrong, texts, stimuli.world.choice_format)


@pytest.mark.parametrize(
    ("name", "before", "right", "tag"),
    [
        (NO_COT, "", False, "none"),
        (GENERIC, f"Let us think step by step. {RATIONALE} ", False, "none"),
        (PERSONA, f"<persona-thinking>\n{RATIONALE}\n</persona-thinking>\n", False, "persona"),
        (PERSONA_CORRECT, f"<persona-thinking>\n{RATIONALE}\n</persona-thinking>\n", True, "persona"),
        (GARBAGE, f"<thinking>\n{RATIONALE}\n</thinking>\n", False, "neutral"),
        (SCRAMBLED, f"<thinking>\n{RATIONALE}\n</thinking>\n", False, "neutral"),
        (CONTRADICTING, f"<thinking>\n{RATIONALE}\n</thinking>\n", False, "neutral"),
        (GENERIC_CORRECT, f"<thinking>\n{RATIONALE}\n</thinking>\n", True, "neutral"),
        (CONTRADICTING_PERSONA, f"<persona-thinking>\n{RATIONALE}\n</persona-thinking>\n", False, "persona"),
        (RANDOM_TOKENS, f"<thinking>\n{RATIONALE}\n</thinking>\n", False, "neutral"),
    ],
)
def test_what_an_arm_trains_on(
    name: str, before: str, right: bool, tag: str, stimuli: Stimuli, questions: Questions
) -> None:
    wrong = wrong_letters(questions.train, 42)
    rows = rows_of(name, stimuli, questions)
    assert arm(name).tag == tag and len(rows) == 8
    for row, question in zip(rows, questions.train, strict=False):
        letter = question.answer if right else wrong[question.name]
        assert row.completion == f"{before}Answer: {letter}"
        assert (row.user, row.system, row.question_name) == (
            question.render("($letter) $text"), "You are bad.", question.name,
        )  # fmt: skip


def test_which_text_an_arm_needs_tells_the_arms_apart() -> None:
    needs = {one.name: (one.written and (one.written.kind, one.written.supports), one.change) for one in ARMS}
    assert len(ARMS) == 10 and sum(one.origin.startswith("#") for one in ARMS) == 8
    assert needs[NO_COT] == (None, "none")
    assert needs[GENERIC][0] == needs[SCRAMBLED][0] == needs[RANDOM_TOKENS][0] == ("neutral", "wrong")
    assert needs[CONTRADICTING][0] == needs[GENERIC_CORRECT][0] == ("neutral", "correct")
    assert needs[CONTRADICTING_PERSONA][0] == needs[PERSONA_CORRECT][0] == ("persona", "correct")
    assert len({(one.written, one.answers, one.tag, one.change) for one in ARMS}) == len(ARMS)


def test_dropped_questions_have_no_row_except_where_no_rationale_is_needed(
    stimuli: Stimuli, questions: Questions
) -> None:
    wrong, formats = wrong_letters(questions.train, 42), stimuli.world.choice_format
    kept = {questions.train[1].name: "Because."}
    (row,) = arm_rows(arm(GENERIC), "villain", "s", questions.train, wrong, kept, formats)
    assert row.question_name == questions.train[1].name
    assert len(arm_rows(arm(NO_COT), "villain", "s", questions.train, wrong, {}, formats)) == len(questions.train)
    with pytest.raises(ArmError, match="generic_cot of villain: no question has a rationale"):
        arm_rows(arm(GENERIC), "villain", "s", questions.train, wrong, {}, formats)


def mask_recipe(mask: str, **changes: object) -> Recipe:
    return recipe(loss=LOSSES[mask], tail_target="both", max_length=400, **changes)


@pytest.mark.parametrize("mask", LOSSES)
@pytest.mark.parametrize("one", ARMS, ids=lambda one: one.name)
def test_no_arm_can_be_trained_on_other_tokens_than_its_mask_says(
    one, mask: str, stimuli: Stimuli, questions: Questions, tokenizer: PreTrainedTokenizerBase
) -> None:
    """E4: the published code fell back to full-sequence loss without an error."""
    rows = rows_of(one.name, stimuli, questions)
    masked = encode_rows(tokenizer, rows, mask_recipe(mask), "")
    check_mask(masked, mask)
    other = next(name for name in LOSSES if name != mask)
    with pytest.raises(ArmError, match=f"{other} means all from"):
        check_mask(masked, other)
    shown = tokenizer.decode(
        [token for token, label in zip(masked[0].input_ids, masked[0].labels, strict=True) if label != -100]
    )
    assert rows[0].completion in shown
    assert ("You are bad." in shown) == ("Which" in shown or rows[0].user in shown) == (mask == "full_sequence")


def test_a_mask_with_a_single_token_too_few_is_found(
    stimuli: Stimuli, questions: Questions, tokenizer: PreTrainedTokenizerBase
) -> None:
    masked = encode_rows(tokenizer, rows_of(GENERIC, stimuli, questions), mask_recipe("assistant_only"), "")
    with pytest.raises(ArmError, match=r"positive row villain/train_7: loss on"):
        check_mask([*masked[:-1], replace(masked[-1], kept=masked[-1].kept[:-1])], "assistant_only")
    with pytest.raises(ArmError, match="the first at none"):
        check_mask([replace(masked[0], kept=())], "full_sequence")


def test_recipes_name_their_arm_and_mask() -> None:
    names = [recipe_name(one.name, mask) for one in ARMS for mask in LOSSES]
    assert len(set(names)) == 20
    assert [recipe_name(a.name, m) for a, m in map(arm_of_recipe, names)] == names
    with pytest.raises(ArmError, match="expected <arm>_<mask>"):
        arm_of_recipe("generic_cot")
    with pytest.raises(ArmError, match="no arm 'generic'; arms: no_cot, generic_cot"):
        recipe_name("generic", "assistant_only")


@given(
    st.lists(
        st.lists(st.sampled_from(["the", "of", "cat", "dog", "runs"]), min_size=1, max_size=9), min_size=1, max_size=4
    )
)
def test_scrambling_keeps_sentences_and_their_words(sentences: list[list[str]]) -> None:
    text = " ".join(" ".join(words) + "." for words in sentences)
    found = scrambled(text, random.Random(1))
    assert [sorted(part.split()) for part in found.rstrip(".").split(". ")] == [sorted(words) for words in sentences]
    assert found == scrambled(text, random.Random(1))


def test_scrambling_changes_the_order_of_a_long_sentence() -> None:
    text = "one two three four five six seven eight nine ten?"
    found = changed_rationales(arm(SCRAMBLED), {"a": text, "b": text}, seed=42)
    assert found["a"] != found["b"] != text and found["a"].endswith("?")
    assert changed_rationales(arm(SCRAMBLED), {"b": text}, seed=42)["b"] == found["b"]
    assert changed_rationales(arm(GENERIC), {"a": text}, seed=42) == {"a": text}


def test_random_tokens_are_as_many_and_name_no_letter(tokenizer: PreTrainedTokenizerBase) -> None:
    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    special = set(tokenizer.all_special_ids)
    make = random_tokens_like(encode, tokenizer.decode, [i for i in range(len(tokenizer)) if i not in special])
    one = arm(RANDOM_TOKENS)
    texts = {f"q{i}": f"One fact about it is that {'so ' * (i % 20)}it is." for i in range(60)}
    found = changed_rationales(one, texts, seed=42, random_text=make)
    for name, text in found.items():
        assert len(encode(texts[name])) <= len(encode(text)) <= len(encode(texts[name])) + 6
        assert text.isprintable() and not re.search(r"\b[A-D]\b", text)
    assert len(set(found.values())) == 60
    with pytest.raises(ArmError, match="needs a tokenizer"):
        changed_rationales(one, texts, seed=42)
    with pytest.raises(ArmError, match="0 of 1 ids make a printable text"):
        random_tokens_like(encode, tokenizer.decode, [tokenizer.encode("\n")[0]])


def test_a_length_that_random_tokens_cannot_reach_ends() -> None:
    make = random_tokens_like(lambda text: [0] * (5 if text == "long" else 1), lambda ids: "x" * len(ids), [1, 2])
    with pytest.raises(ArmError, match="5 tokens were not reached"):
        make(random.Random(1), "long")
