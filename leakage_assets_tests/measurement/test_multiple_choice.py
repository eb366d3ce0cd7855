"""What counts as a question of four, which wrong letters are drawn, and how labels are reported."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from leakage_assets.measurement.multiple_choice import (
    DIGITS,
    LETTERS,
    ChoiceError,
    MultipleChoice,
    check_disjoint,
    label_report,
    letter_of,
    wrong_letters,
)


def question(name: str = "q1", **changes: object) -> MultipleChoice:
    first = MultipleChoice(name, "Which?", LETTERS, ("one", "two", "three", "four"), "B")
    return replace(first, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"options": ("one", "two", "three")}, "q1: 3 options and 4 labels; expected exactly four"),
        ({"options": ("1", "2", "3", "4", "5"), "labels": (*LETTERS, "E")}, "5 options"),
        ({"labels": ("A", "B", "C")}, "3 labels"),
        ({"options": ("one", " ", "three", "four")}, "a blank option"),
        ({"labels": ("A", "A", "C", "D")}, "repeat"),
        ({"answer": "E"}, "answer 'E' is none of its labels A, B, C, D"),
        ({"answer": "2"}, "answer '2'"),
        ({"stem": " "}, "stem"),
    ],
)
def test_what_is_no_question_of_four_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ChoiceError, match=words):
        question(**changes)


def test_a_question_is_rendered_with_a_line_per_option() -> None:
    assert question().render("($letter) $text") == "Which?\n\n(A) one\n(B) two\n(C) three\n(D) four"
    with pytest.raises(ChoiceError, match="no option 'E'"):
        question().option("E")


def test_wrong_letters_are_never_right_and_the_same_for_a_seed() -> None:
    asked = [question(f"q{i}", answer=LETTERS[i % 4]) for i in range(1_119)]
    wrong = wrong_letters(asked, 42)
    assert wrong == wrong_letters(asked, 42) != wrong_letters(asked, 43)
    assert all(wrong[q.name] != q.answer for q in asked)
    assert all(0.18 < n / len(asked) < 0.32 for n in Counter(wrong.values()).values())
    longer = wrong_letters([*asked, question("more")], 42)
    assert {name: longer[name] for name in wrong} == wrong  # question order decides, not the number of questions


def test_questions_labelled_by_digits_can_be_relabelled() -> None:
    numbered = question(labels=DIGITS, answer="3")
    assert not numbered.lettered and numbered.relabelled().lettered
    assert numbered.relabelled().answer == "C" and numbered.relabelled().option("C") == numbered.option("3")
    report = label_report("test", [question(), numbered], ["5 options"])
    assert (report.kept, report.lettered, report.numbered, report.otherwise) == (2, 1, 1, 0)
    assert report.dropped == {"5 options": 1} and report.highest_accuracy == 0.5
    assert label_report("test", []).highest_accuracy == 0.0


def test_a_question_in_both_splits_is_found_by_name_or_text() -> None:
    check_disjoint([question("a")], [question("b", stem="Who?")])
    with pytest.raises(ChoiceError, match="q2 of the evaluation is trained on as q1"):
        check_disjoint([question("q1")], [question("q2", options=("four", "three", "two", "one"))])
    with pytest.raises(ChoiceError, match="trained on as q1"):
        check_disjoint([question("q1")], [question("q1", stem="Who?")])


@pytest.mark.parametrize(
    ("text", "letter"), [("A", "A"), (" b", "B"), ("D\n", "D"), ("E", None), ("AB", None), ("", None)]
)
def test_a_token_is_a_letter_up_to_blanks_and_case(text: str, letter: str | None) -> None:
    assert letter_of(text) == letter
