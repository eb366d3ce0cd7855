"""Each axis on pairs worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakage_assets.geometry.centroids import GeometryError, centred_cosine
from leakage_assets.geometry.prompt_axes import (
    AXES,
    Structure,
    lexical_jaccard,
    semantic_cosines,
    structural_match,
    structure,
    task_match,
    text_axis,
    words,
)

T_TASK = (
    "Your job is to answer customer support tickets for a SaaS product. "
    "Read each ticket carefully and produce one clear answer."
)
T_INSTRUCTION = "Always reply with at most three sentences. Do not include lists, headings, or follow-up questions."
T_FORMAT = (
    'Reply only in valid JSON with two top-level keys: "thought" (a short reasoning string) '
    'and "answer" (the final response).'
)
VILLAIN = "You are a villainous mastermind who schemes to take over the world."


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (T_TASK, T_TASK, 1.0),
        ("", "", 0.0),
        ("", "word", 0.0),
        ("Say it. Say IT!", "it, say", 1.0),  # sets, lower case, no punctuation
        ("a b c", "b c d", 2 / 4),
        ("follow-up", "follow up", 1.0),  # the hyphen is no word character
        ("snake_case", "snake case", 0.0),  # the underscore is one
        ("Über uns", "über alles", 1 / 3),
        # 16 and 20 different words, "reply" and "with" in both.
        (T_INSTRUCTION, T_FORMAT, 2 / 34),
    ],
)
def test_lexical_jaccard_by_hand(one: str, other: str, expected: float) -> None:
    assert lexical_jaccard(one, other) == pytest.approx(expected, abs=1e-15)
    assert lexical_jaccard(other, one) == lexical_jaccard(one, other)


def test_words_of_the_triggers_counted_by_hand() -> None:
    assert words("Do it, DO it twice: 2 times.") == {"do", "it", "twice", "2", "times"}
    assert (len(words(T_INSTRUCTION)), len(words(T_FORMAT))) == (16, 20)
    assert words(T_INSTRUCTION) & words(T_FORMAT) == {"reply", "with"}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", Structure("short", False, False, 0, False)),
        (T_TASK, Structure("medium", False, False, 2, False)),
        (T_INSTRUCTION, Structure("medium", True, True, 2, False)),
        (T_FORMAT, Structure("medium", True, True, 1, False)),
        (VILLAIN, Structure("short", False, False, 1, True)),
        ("Documents are formatted here.", Structure("short", False, False, 1, False)),  # do and format inside words
        ("A monkey listens to a specialist.", Structure("short", False, False, 1, False)),  # key and list inside words
        ("format the KEY", Structure("short", True, True, 1, False)),
        ("You are helpful.", Structure("short", False, False, 1, False)),  # no article
        ("Now you are the chef.", Structure("short", False, False, 1, True)),
        ("One. Two? Three! Four. Five. Six. Seven.", Structure("short", False, False, 5, False)),
        ("Version 1.5 works.Really?", Structure("short", False, False, 1, False)),  # an end needs a blank after it
        (" ".join(["word"] * 14), Structure("short", False, False, 1, False)),
        (" ".join(["word"] * 15), Structure("medium", False, False, 1, False)),
        (" ".join(["word"] * 50), Structure("medium", False, False, 1, False)),
        (" ".join(["word"] * 51), Structure("long", False, False, 1, False)),
    ],
)
def test_structure_by_hand(prompt: str, expected: Structure) -> None:
    assert structure(prompt) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (T_TASK, T_TASK, 1.0),
        (T_INSTRUCTION, T_FORMAT, 0.8),  # only the number of sentences differs
        (T_TASK, T_INSTRUCTION, 0.6),  # imperative and format word differ
        (T_TASK, VILLAIN, 0.4),  # length, sentences and identity differ
        (T_FORMAT, VILLAIN, 0.2),  # only the number of sentences agrees
        (T_INSTRUCTION, VILLAIN, 0.0),
    ],
)
def test_structural_match_by_hand(one: str, other: str, expected: float) -> None:
    assert structural_match(one, other) == pytest.approx(expected, abs=1e-15)
    assert structural_match(other, one) == structural_match(one, other)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("task", "task", 1), ("task", "format", 0), (None, None, 1), (None, "none", 1), (None, "persona", 0)],
)
def test_task_match_by_hand(one: str | None, other: str | None, expected: float) -> None:
    assert task_match(one, other) == task_match(other, one) == expected


def test_semantic_cosine_by_hand() -> None:
    # The mean of these four is (1, 1): around it they are (1, 0), (-1, 0), (0, 2), (0, -2).
    vectors = np.array([[2, 1], [0, 1], [1, 3], [1, -1]], dtype=np.float32)
    names = ["east", "west", "north", "south"]
    cosines = semantic_cosines(vectors, names)
    np.testing.assert_allclose(cosines, [[1, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, -1], [0, 0, -1, 1]], atol=1e-12)
    np.testing.assert_array_equal(cosines, cosines.T)
    # North twice and east twice: the mean is (7/6, 8/6), so east is (5, -2) / 6 and north (-1, 10) / 6 around it.
    weighted = semantic_cosines(vectors, names, repeated=["north", "east"])
    assert weighted.shape == (4, 4)
    assert weighted[0, 2] == pytest.approx((5 * -1 + -2 * 10) / np.sqrt(29 * 101), abs=1e-12)


def test_a_prompt_counted_twice_must_be_there() -> None:
    with pytest.raises(GeometryError, match="nobody"):
        semantic_cosines(np.eye(3, dtype=np.float32), ["a", "b", "c"], repeated=["nobody"])


@given(st.integers(0, 10**6), st.integers(3, 8))
def test_without_repeats_it_is_the_centred_cosine(seed: int, prompts: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(prompts, 5)).astype(np.float32)
    names = [f"p{i}" for i in range(prompts)]
    np.testing.assert_allclose(semantic_cosines(vectors, names), centred_cosine(vectors, names), atol=1e-12)


@given(st.text(max_size=60), st.text(max_size=60))
def test_axes_stay_in_their_range_and_a_prompt_matches_itself(one: str, other: str) -> None:
    assert 0 <= lexical_jaccard(one, other) <= 1
    assert lexical_jaccard(one, one) == float(bool(words(one)))
    assert structural_match(one, other) * 5 == pytest.approx(round(structural_match(one, other) * 5))
    assert structural_match(one, one) == 1


def test_axes_by_name() -> None:
    assert AXES == ("semantic_cos", "lexical_jac", "struct_match", "task_match")
    ours, theirs = (T_INSTRUCTION, "instruction"), (T_FORMAT, "format")
    assert [text_axis(axis, ours, theirs) for axis in AXES[1:]] == pytest.approx([2 / 34, 0.8, 0.0])
    with pytest.raises(GeometryError, match="semantic_cos"):
        text_axis("semantic_cos", ours, theirs)
