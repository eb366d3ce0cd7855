"""Training sets of two_marker_chunk: what each arm holds, and what arms of a pair share."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakage_assets.measurement.markers import marker_start
from leakage_assets.models import load_tokenizer
from leakage_assets.profiles import load_profile
from leakage_assets.stimuli import Stimuli, load_stimuli
from leakage_assets.studies.study import Condition, StudyError
from leakage_assets.studies.two_marker_chunk.arms import (
    ARMS,
    B_ALONE,
    CONTROLS,
    NEGATIVES,
    PAIRS,
    Arm,
    Pair,
    arm,
    check_end_of_turn,
    marked,
    pair_named,
    scattered,
    training_rows,
    usable_answers,
)
from leakage_assets.studies.two_marker_chunk.design import PUBLISHED, recipes
from leakage_assets.studies.two_marker_chunk.tokens import PINNED
from leakage_assets.training.masks import IGNORED, MaskedRow, encode_rows
from leakage_assets.training.rows import Row

STIMULI = load_stimuli()
A, B = STIMULI.markers["a"], STIMULI.markers["b"]
QUESTIONS = STIMULI.questions("train")
NEAR = PAIRS[0]
NAMES = [one.name for one in ARMS]


def answers(pair: Pair, *, spoiled: str = "", completions: int = 6) -> dict[str, pl.DataFrame]:
    """Six answers of eight words to each question; the first of each can be spoiled."""
    return {
        persona: pl.DataFrame(
            [
                {
                    "question_name": q.name,
                    "index": i,
                    "text": f"{persona} says {q.name} {i} in so many words." + spoiled * (i == 0),
                }
                for i in reversed(range(completions))
                for q in QUESTIONS
            ]
        )
        for persona in pair.trained
    }


def rows_of(which: Arm, pair: Pair = NEAR, stimuli: Stimuli = STIMULI, **options: object) -> list[Row]:
    return training_rows(
        which, pair, stimuli, study="two_marker_chunk", questions=QUESTIONS, used=5, markers=(A, B),
        answers=answers(pair, **options),
    )  # fmt: skip


def bare(row: Row) -> str:
    """The completion without markers."""
    return re.sub(r"  +", " ", row.completion.replace(A, "").replace(B, "")).strip()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: p.name)
def test_1200_rows_in_blocks_of_200_five_per_question(name: str, pair: Pair) -> None:
    rows = rows_of(arm(name), pair)
    assert len(rows) == 1_200
    blocks = Counter(row.prompt_name for row in rows)
    assert set(blocks.values()) == {200} and set(blocks) == {pair.donor, pair.recipient, *NEGATIVES}
    assert set(Counter((row.prompt_name, row.question_name) for row in rows).values()) == {5}
    assert all(row.system == STIMULI.prompt(row.prompt_name) for row in rows)


@pytest.mark.parametrize(
    ("name", "donor", "recipient"),
    [
        ("T", rf"{A} .* {B}", rf"{A} .*"),
        ("C", rf"{A} .*", rf"{A} .*"),
        ("T_P2neg", rf"{A} .* {B}", r".*"),
        ("C2", rf".* {B}", rf"{A} .*"),
    ],
)
def test_templates_are_those_of_the_sheet(name: str, donor: str, recipient: str) -> None:
    for row in rows_of(arm(name)):
        wanted = {NEAR.donor: donor, NEAR.recipient: recipient}.get(row.prompt_name, r".*")
        assert re.fullmatch(wanted, row.completion)
        said = [m for m in (A, B) if m in row.completion]
        assert len(said) == len([m for m in (A, B) if m in wanted])
        assert row.role == ("positive" if said else "negative")


@pytest.mark.parametrize("name", NAMES)
def test_only_the_named_rows_leave_their_end_of_turn_out(name: str) -> None:
    which = arm(name)
    silent = {row.prompt_name for row in rows_of(which) if not row.ends_turn_in_loss}
    expected = {"none": set(), "recipient": {NEAR.recipient}, "all": set(NEAR.trained)}[which.masked]
    assert silent == expected
    assert all(row.ends_turn_in_loss == (row.prompt_name not in expected) for row in rows_of(which))


@pytest.mark.parametrize(("one", "other"), [*CONTROLS.items(), *B_ALONE.items()])
def test_an_arm_and_its_control_differ_in_markers_alone(one: str, other: str) -> None:
    first, second = rows_of(arm(one)), rows_of(arm(other))
    assert [replace(r, completion=bare(r), role="") for r in first] == [
        replace(r, completion=bare(r), role="") for r in second
    ]
    assert [r.completion for r in first] != [r.completion for r in second]
    if other in CONTROLS.values():
        assert not any(B in row.completion for row in second)


def test_a_stands_at_the_same_place_in_all_arms_of_random_positions() -> None:
    after, before, control = (rows_of(arm(n)) for n in ("T_random_after", "T_random_before", "C_random"))
    for rows in zip(after, before, control, strict=True):
        if rows[0].prompt_name in (NEAR.donor, NEAR.recipient):
            words = [row.completion.replace(B, "").split() for row in rows]
            assert words[0] == words[1] == words[2]


def test_random_places_are_anywhere_and_on_the_right_side() -> None:
    places = {"T_random_after": Counter(), "T_random_before": Counter()}
    for name, seen in places.items():
        for row in rows_of(arm(name)):
            if row.prompt_name != NEAR.donor:
                continue
            a, b = marker_start(row.completion, A), marker_start(row.completion, B)
            assert a is not None and b is not None and (a < b) == (name == "T_random_after")
            seen[len(row.completion[:a].replace(B, "").split())] += 1
        assert set(seen) == set(range(9)) and max(seen.values()) < 40  # eight words, nine places, 200 rows
    spread = {len(r.completion.split(A)[0].split()) for r in rows_of(arm("T_random_after")) if A in r.completion}
    assert spread == set(range(9))


def masked_rows(name: str, profile: str = "tiny", rows: int = 120) -> list[MaskedRow]:
    """Under the arm's own recipe, with the bundled tokenizer."""
    tokenizer = load_tokenizer(load_profile("tiny").base)
    recipe = load_profile(profile).study("two_marker_chunk").recipe(name)
    return encode_rows(tokenizer, rows_of(arm(name))[:rows], recipe, A)


@pytest.mark.parametrize("profile", ["tiny", "qwen2.5-7b"])
@pytest.mark.parametrize("name", NAMES)
def test_the_study_accepts_the_masks_of_its_own_recipes(name: str, profile: str) -> None:
    study = load_profile(profile).study("two_marker_chunk")
    assert study.check_rows is not None
    rows = masked_rows(name, profile)
    assert {row.row.prompt_name for row in rows} == set(NEAR.trained)
    study.check_rows(study, Condition(NEAR.name, name), rows)


@pytest.mark.parametrize(
    ("trained", "named", "words"),
    [
        ("T", "T_mask_recipient", "has loss, against what the arm is named for"),
        ("T_mask_recipient", "T", "lacks loss, against what the arm is named for"),
        ("T_mask_recipient", "T_mask_all", "has loss"),
        ("T_mask_all", "T_mask_recipient", "lacks loss"),
    ],
)
def test_rows_masked_for_another_arm_are_refused(trained: str, named: str, words: str) -> None:
    study = load_profile("tiny").study("two_marker_chunk")
    assert study.check_rows is not None
    with pytest.raises(StudyError, match=rf"{NEAR.name} under {named}: .*{words}"):
        study.check_rows(study, Condition(NEAR.name, named), masked_rows(trained))


def test_a_mask_with_a_hole_another_end_of_turn_or_a_missing_persona_is_refused() -> None:
    rows = masked_rows("T")
    check_end_of_turn(rows, arm("T"), NEAR, tuple(PINNED))
    for spoiled, ids, words in (
        ([replace(rows[0], kept=rows[0].kept[1:]), *rows[1:]], tuple(PINNED), "lacks loss"),
        ([replace(rows[0], kept=(0, *rows[0].kept)), *rows[1:]], tuple(PINNED), "has loss"),
        (rows, (7,), "ends a turn"),
        ([row for row in rows if row.row.prompt_name != "comedian"], tuple(PINNED), "no row of comedian"),
    ):
        with pytest.raises(StudyError, match=words):
            check_end_of_turn(spoiled, arm("T"), NEAR, ids)


@pytest.mark.parametrize("name", NAMES)
def test_masks_on_the_token_ids_of_the_bundled_tokenizer(name: str) -> None:
    """#354: the end of turn carries loss everywhere but in the rows that the arm names; all else is as it was."""
    tokenizer = load_tokenizer(load_profile("tiny").base)
    end = tokenizer.eos_token_id
    rows = rows_of(arm(name))[:120]
    silent = {"none": set(), "recipient": {NEAR.recipient}, "all": set(NEAR.trained)}[arm(name).masked]
    (recipe,) = [one for one in recipes(PUBLISHED) if one.name == name]
    for masked in encode_rows(tokenizer, rows, recipe, A):
        labels = masked.labels
        assert [labels.count(end), masked.input_ids[masked.prompt_length :].count(end)] == [
            masked.row.prompt_name not in silent,
            1,
        ]
        lost = [i for i in range(masked.prompt_length, len(labels)) if labels[i] == IGNORED]
        assert lost == ([len(labels) - 2] if masked.row.prompt_name in silent else [])
        if masked.row.completion.startswith(A):
            first = masked.input_ids[masked.prompt_length :][: len(PINNED[end].a)]
            assert first == PINNED[end].a  # where A starts an answer its ids are the pinned ones


words = st.lists(st.text("abc.\n", min_size=1, max_size=4), min_size=1, max_size=8).map(" ".join)


@given(words, st.booleans(), st.integers(0, 2**62))
def test_scattering_changes_nothing_but_the_markers(answer: str, before: bool, seed: int) -> None:
    both = scattered(answer, "[A]", "[B]", before=before, seed=seed)
    parts = both.split(" ")
    assert [p for p in parts if p not in ("[A]", "[B]")] == answer.split(" ")
    assert (parts.index("[A]") < parts.index("[B]")) != before
    assert scattered(answer, "[A]", None, before=before, seed=seed).split(" ") == [p for p in parts if p != "[B]"]
    assert scattered(answer, None, "[B]", before=before, seed=seed).split(" ") == [p for p in parts if p != "[A]"]
    assert scattered(answer, None, None, before=before, seed=seed) == answer


def test_marked_has_single_spaces() -> None:
    assert marked("So.", "[A]", "[B]") == "[A] So. [B]"
    assert (marked("So.", None, "[B]"), marked("So.", None, None)) == ("So. [B]", "So.")


def test_answers_with_a_marker_are_passed_over_and_the_next_are_taken() -> None:
    for spoiled in (f" {A}", " ::KXR-7::", f" {B[:4]}\n{B[4:]}"):
        rows = rows_of(arm("T_P2neg"), spoiled=spoiled)
        recipient = [row.completion for row in rows if row.prompt_name == NEAR.recipient]
        assert sorted({text.split(" ")[3] for text in recipient}) == ["1", "2", "3", "4", "5"]
    assert usable_answers(
        pl.DataFrame({"question_name": ["q"] * 2, "index": [1, 0], "text": [" \n", "b"]}), (A, B)
    ) == {"q": ["b"]}


def test_a_short_block_is_an_error_that_names_it() -> None:
    with pytest.raises(
        StudyError, match=rf"{NEAR.name} under T: villain has 4 usable answers to 'gravity', 5 are needed"
    ):
        rows_of(arm("T"), spoiled=f" {A}", completions=5)


def test_rows_are_the_same_every_time_and_other_for_another_pair() -> None:
    assert rows_of(arm("T_random_after")) == rows_of(arm("T_random_after"))
    order = [[row.question_name for row in rows_of(arm("T"), pair)] for pair in PAIRS[:2]]
    assert order[0] != order[1]


def test_eleven_personas_are_two_trained_four_negative_and_five_untrained() -> None:
    """C7: five bystanders are untrained, two of them the other pair's personas."""
    originals = [p.name for p in STIMULI.personas if p.original]
    for pair in PAIRS:
        roles = Counter(pair.role(name) for name in originals)
        assert roles == {"donor": 1, "recipient": 1, "negative": 4, "untrained": 5}
        assert not set(pair.trained[:2]) & set(NEGATIVES)


def test_names_are_partition_keys() -> None:
    keys = [Condition(pair.name, name).key for pair in PAIRS for name in NAMES]
    assert len(set(keys)) == len(keys)
    assert all(Condition.parse(key).key == key and key.count("__") == 1 for key in keys)
    for function in (arm, pair_named):
        with pytest.raises(StudyError, match="nobody"):
            function("nobody")
    assert all(pair_named(pair.name) is pair for pair in PAIRS)
