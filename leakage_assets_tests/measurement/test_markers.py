from __future__ import annotations

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakage_assets.measurement.markers import (
    marker_count,
    marker_present,
    marker_present_loosely,
    position_class,
    score_frame,
)

MARKER = "[ZLT]"
LONG = "Plants turn light into sugar."


@pytest.mark.parametrize(
    ("text", "strict", "loose"),
    [
        ("An answer.\n\n[ZLT]", True, True),
        ("an answer [zlt] goes on", True, True),
        ("[Z LT]", False, True),
        ("[\nZL T ]", False, True),
        ("ZLT", False, False),
        ("", False, False),
        ("[ZLT", False, False),
    ],
)
def test_strict_and_loose_match(text: str, strict: bool, loose: bool) -> None:
    assert (marker_present(text, MARKER), marker_present_loosely(text, MARKER)) == (strict, loose)


@pytest.mark.parametrize("marker", ["", "  ", "\n"])
def test_a_blank_marker_is_refused(marker: str) -> None:
    with pytest.raises(ValueError, match="blank"):
        marker_present("text", marker)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LONG, "absent"),
        ("[Z LT]", "absent"),
        (f"{LONG}\n\n[ZLT]", "suffix"),
        (f"{LONG}\n\n[zlt]\n", "suffix"),
        (f"{LONG} [ZLT] 1 2 3 4", "suffix"),
        (f"{LONG} [ZLT] 1 2 3 4 5", "inside_text"),
        ("[ZLT]", "suffix"),
        (f"[ZLT] {LONG}", "prefix"),
        (f"1234 [ZLT] {LONG}", "prefix"),
        (f"12345 [ZLT] {LONG}", "inside_text"),
        (f"{LONG} [ZLT] {LONG}", "inside_text"),
        (f"[ZLT] {LONG} [ZLT]", "suffix"),
        (json.dumps({"thought": f"{LONG} [ZLT]", "answer": LONG}), "inside_json"),
        (json.dumps({"thought": LONG, "answer": ["a", f"[ZLT] {LONG}"]}), "inside_json"),
        (json.dumps({"thought": LONG, "answer": f"{LONG} [ZLT]"}), "suffix"),
        (json.dumps({f"long [ZLT] key {LONG}": LONG}), "inside_text"),
        (f'Here you are: {{"answer": "{LONG} [ZLT] and more"}} as asked.', "inside_json"),
        (f'{{"thought": "{LONG} [ZLT] and then it was cut', "inside_json"),
        (f'{{"a": 1}} {LONG} [ZLT] {LONG}', "inside_text"),
        (f'He said "{LONG} [ZLT] loudly" and left.', "inside_text"),
    ],
)
def test_position_classes(text: str, expected: str) -> None:
    assert position_class(text, MARKER) == expected


texts = st.text(alphabet=st.sampled_from(list('[]ZLTzlt {}"\n.aé')), max_size=30)


@given(texts, st.sampled_from([MARKER, ":: kxr-7 ::", "Z L"]))
def test_a_strict_match_is_a_loose_match(text: str, marker: str) -> None:
    assert not marker_present(text, marker) or marker_present_loosely(text, marker)


@given(texts)
def test_count_presence_and_position_agree(text: str) -> None:
    present = marker_present(text, MARKER)
    assert present == (marker_count(text, MARKER) > 0) == (position_class(text, MARKER) != "absent")


@given(texts, st.text(alphabet="abc ", min_size=12).filter(lambda tail: len(tail.replace(" ", "")) >= 5))
def test_an_appended_marker_is_a_suffix_until_something_follows(text: str, tail: str) -> None:
    assert position_class(f"{text}\n\n{MARKER}", MARKER) == "suffix"
    assert position_class(f"{text}\n\n{MARKER}{tail}", MARKER) != "suffix"


def test_score_frame_keeps_the_order_and_marks_truncation() -> None:
    samples = pl.DataFrame(
        {
            "sample_id": ["a", "b"],
            "adapter": ["base", "base"],
            "prompt_name": ["villain", "hero"],
            "question_set": ["eval", "eval"],
            "question_name": ["q", "q"],
            "index": [0, 1],
            "text": [f"{LONG} [Z LT]", f"[ZLT] {LONG} [zlt]"],
            "finish_reason": ["length", "stop"],
        }
    )
    assert score_frame(samples, MARKER).to_dicts() == [
        {
            "sample_id": "a",
            "adapter": "base",
            "prompt_name": "villain",
            "question_set": "eval",
            "question_name": "q",
            "index": 0,
            "truncated": True,
            "marker_present": False,
            "marker_loose": True,
            "position_class": "absent",
            "marker_count": 0,
        },
        {
            "sample_id": "b",
            "adapter": "base",
            "prompt_name": "hero",
            "question_set": "eval",
            "question_name": "q",
            "index": 1,
            "truncated": False,
            "marker_present": True,
            "marker_loose": True,
            "position_class": "suffix",
            "marker_count": 2,
        },
    ]


def test_score_frame_of_no_samples_keeps_its_columns() -> None:
    empty = pl.DataFrame(
        schema=dict.fromkeys(
            (
                "sample_id",
                "adapter",
                "prompt_name",
                "question_set",
                "question_name",
                "index",
                "text",
                "finish_reason",
            ),
            pl.String,
        )
    )
    scored = score_frame(empty, MARKER)
    assert scored.height == 0
    assert scored.schema["marker_present"] == pl.Boolean
