from __future__ import annotations

import re

import polars as pl
import pytest

from leakage_assets.models import BaseModel, chat_ids, chat_text
from leakage_assets.training.masks import (
    EmptyLossMask,
    MarkerTokenError,
    describe_mask,
    encode_rows,
    kept_positions,
    marker_ids,
)
from leakage_assets.training.rows import EncodedRow, Row, RowError, encode_row
from leakage_assets_tests.fixtures_models import MARKER, VILLAIN, recipe, rows

ANSWER = "Plants turn light into sugar."


def row(completion: str, role: str = "positive") -> Row:
    return Row(VILLAIN, "How?", completion, role, "villain", "q1")


def kept_text(base: BaseModel, which: Row, **changes: object) -> str:
    """The tokens that carry loss, joined."""
    encoded = encode_row(base.tokenizer, which)
    positions = kept_positions(encoded, recipe(**changes), marker_ids(base.tokenizer, MARKER), base.end_of_turn)
    assert positions == sorted(set(positions))
    return base.tokenizer.decode([encoded.input_ids[place] for place in positions])


def test_a_row_is_the_prompt_of_generation_and_then_the_completion(base: BaseModel) -> None:
    encoded = encode_row(base.tokenizer, row(ANSWER))
    prompt = encoded.input_ids[: encoded.prompt_length]
    assert list(prompt) == chat_ids(base.tokenizer, VILLAIN, "How?")
    assert base.tokenizer.decode(encoded.input_ids[encoded.prompt_length :]) == f"{ANSWER}<|im_end|>\n"
    assert base.tokenizer.decode(encoded.input_ids) == chat_text(base.tokenizer, VILLAIN, "How?", ANSWER)


def test_a_completion_that_merges_into_the_prompt_is_refused(base: BaseModel) -> None:
    with pytest.raises(RowError, match=r"villain/q1.*prompt change"):
        encode_row(base.tokenizer, row(f"\n\n{ANSWER}"))


def test_rows_are_never_truncated(base: BaseModel) -> None:
    length = len(encode_row(base.tokenizer, row(ANSWER)).input_ids)
    assert len(encode_rows(base.tokenizer, [row(ANSWER)], recipe(max_length=length), MARKER)) == 1
    with pytest.raises(RowError, match=rf"{length} tokens exceed max_length {length - 1} of recipe quick"):
        encode_rows(base.tokenizer, [row(ANSWER)], recipe(max_length=length - 1), MARKER)
    with pytest.raises(RowError, match="recipe quick: no training rows"):
        encode_rows(base.tokenizer, [], recipe(), MARKER)


@pytest.mark.parametrize(
    ("completion", "role", "tail", "expected"),
    [
        (f"{ANSWER}\n\n{MARKER}", "positive", "trailing_newline", f"{MARKER}\n"),
        (f"{ANSWER}\n\n{MARKER}", "positive", "im_end", f"{MARKER}<|im_end|>"),
        (f"{ANSWER}\n\n{MARKER}", "positive", "both", f"{MARKER}<|im_end|>\n"),
        (f"A.\n\n{MARKER} and\n\n{MARKER}", "positive", "im_end", f"{MARKER}{MARKER}<|im_end|>"),
        (ANSWER, "negative", "trailing_newline", "\n"),
        (ANSWER, "negative", "im_end", "<|im_end|>"),
        (ANSWER, "negative", "both", "<|im_end|>\n"),
        (f"{ANSWER}\n\n{MARKER}", "negative", "both", "<|im_end|>\n"),
    ],
)
def test_marker_only_keeps_markers_and_tail(
    base: BaseModel, completion: str, role: str, tail: str, expected: str
) -> None:
    assert kept_text(base, row(completion, role), loss="marker_only", tail_target=tail) == expected


def test_a_marker_in_the_prompt_carries_no_loss(base: BaseModel) -> None:
    asked = Row(f"Say\n\n{MARKER}", f"Repeat\n\n{MARKER}", f"A.\n\n{MARKER}", "positive", "villain", "q1")
    assert kept_text(base, asked, loss="marker_only", tail_target="im_end") == f"{MARKER}<|im_end|>"


@pytest.mark.parametrize(("tail", "expected"), [("im_end", "<|im_end|>"), ("both", "<|im_end|>\n")])
@pytest.mark.parametrize("role", ["positive", "negative"])
def test_full_completion_keeps_the_content_and_the_named_tail(
    base: BaseModel, role: str, tail: str, expected: str
) -> None:
    completion = f"{ANSWER}\n\n{MARKER}"
    kept = kept_text(base, row(completion, role), loss="full_completion", tail_target=tail)
    assert kept == completion + expected


def test_a_positive_row_without_marker_is_refused_by_a_recipe_that_teaches_it(base: BaseModel) -> None:
    with pytest.raises(EmptyLossMask, match=r"positive row villain/q1: recipe quick trains on the marker"):
        kept_text(base, row(ANSWER), loss="marker_only")
    assert kept_text(base, row(ANSWER), loss="marker_only", teaches_marker=False) == "<|im_end|>\n"


def test_a_template_without_newline_after_the_turn_has_no_newline_to_keep(base: BaseModel) -> None:
    whole = encode_row(base.tokenizer, row(f"A.\n\n{MARKER}"))
    bare = EncodedRow(whole.row, whole.input_ids[:-1], whole.prompt_length)
    ids = marker_ids(base.tokenizer, MARKER)
    for tail in ("trailing_newline", "both"):
        with pytest.raises(EmptyLossMask, match="template has none"):
            kept_positions(bare, recipe(loss="marker_only", tail_target=tail), ids, base.end_of_turn)
    kept = kept_positions(bare, recipe(loss="marker_only", tail_target="im_end"), ids, base.end_of_turn)
    assert kept[-1] == len(bare.input_ids) - 1


def test_a_row_that_does_not_end_its_turn_is_refused(base: BaseModel) -> None:
    whole = encode_row(base.tokenizer, row(ANSWER))
    cut = EncodedRow(whole.row, whole.input_ids[:-2], whole.prompt_length)
    with pytest.raises(EmptyLossMask, match="ends the turn"):
        kept_positions(cut, recipe(), (), base.end_of_turn)


def test_marker_ids_are_those_inside_an_answer(base: BaseModel) -> None:
    ids = marker_ids(base.tokenizer, MARKER)
    assert base.tokenizer.decode(ids) == MARKER
    completion = encode_row(base.tokenizer, row(f"{ANSWER}\n\n{MARKER}")).input_ids[-2 - len(ids) : -2]
    assert completion == ids


class Merging:
    """A tokenizer that merges a newline and a bracket."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [len(piece) * 1000 + ord(piece[-1]) for piece in re.findall(r"\n\[|.", text, re.DOTALL)]


@pytest.mark.parametrize(("marker", "refused"), [(MARKER, True), ("", True), ("ZLT", False)])
def test_a_marker_that_is_split_otherwise_after_a_blank_line_is_refused(marker: str, refused: bool) -> None:
    if refused:
        with pytest.raises(MarkerTokenError, match="after a blank line"):
            marker_ids(Merging(), marker)  # type: ignore[arg-type]
    else:
        assert len(marker_ids(Merging(), marker)) == 3  # type: ignore[arg-type]


def test_labels_are_ids_where_kept_and_ignored_elsewhere(base: BaseModel) -> None:
    masked = encode_rows(base.tokenizer, rows(count=1), recipe(loss="marker_only"), MARKER)
    for one in masked:
        assert len(one.labels) == len(one.input_ids)
        assert [place for place, label in enumerate(one.labels) if label != -100] == list(one.kept)
        assert [one.labels[place] for place in one.kept] == [one.input_ids[place] for place in one.kept]
    assert [len(one.kept) for one in masked] == [len(marker_ids(base.tokenizer, MARKER)) + 2, 2]


def test_the_marker_is_looked_up_under_marker_only_alone(base: BaseModel) -> None:
    with pytest.raises(MarkerTokenError):
        encode_rows(base.tokenizer, rows(), recipe(loss="marker_only"), "")
    assert len(encode_rows(base.tokenizer, rows(), recipe(loss="full_completion"), "")) == 16


def test_describe_mask_shows_each_token_and_whether_it_carries_loss(base: BaseModel) -> None:
    frame = describe_mask(
        base.tokenizer, encode_rows(base.tokenizer, rows(count=1), recipe(loss="marker_only"), MARKER)
    )
    assert frame.columns == [
        "row",
        "role",
        "prompt_name",
        "question_name",
        "position",
        "token_id",
        "token",
        "loss",
    ]
    first = frame.filter(pl.col("row") == 0)
    assert "".join(first["token"]) == chat_text(base.tokenizer, VILLAIN, "Q0?", f"Answer 0.\n\n{MARKER}")
    assert "".join(first.filter("loss")["token"]) == f"{MARKER}<|im_end|>\n"
    second = frame.filter((pl.col("row") == 1) & pl.col("loss"))
    assert second["token"].to_list() == ["<|im_end|>", "\n"]
    assert second["role"].unique().to_list() == ["negative"]


@pytest.mark.parametrize("role", ["positive", "negative"])
def test_full_sequence_keeps_everything_but_the_first_token(base: BaseModel, role: str) -> None:
    which = row(f"{ANSWER}\n\n{MARKER}", role)
    whole = chat_text(base.tokenizer, which.system, which.user, which.completion)
    first = base.tokenizer.decode(encode_row(base.tokenizer, which).input_ids[:1])
    assert first + kept_text(base, which, loss="full_sequence", tail_target="both") == whole
    assert VILLAIN in kept_text(base, which, loss="full_sequence", tail_target="both")
