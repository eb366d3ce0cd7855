"""A row may leave its end-of-turn token out of the loss (#354), and no row does so by accident."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakage_assets.models import BaseModel
from leakage_assets.pipeline.training_data import read_rows, rows_frame
from leakage_assets.training.masks import IGNORED, EndOfTurnMaskError, encode_rows, kept_positions
from leakage_assets.training.memory import TrainingMode
from leakage_assets.training.reference import ReferenceLogprobs
from leakage_assets.training.rows import Row, encode_row
from leakage_assets.training.train import train_adapter
from leakage_assets_tests.fixtures_models import MARKER, VILLAIN, recipe, rows

OLD_COLUMNS = ["system", "user", "completion", "role", "prompt_name", "question_name"]
words = st.lists(st.sampled_from(["plants", "one", "[ZLT]", "sun,", "\n\ntwo", "é", "<|im_end|>x"]), min_size=1).map(
    lambda parts: f"So {' '.join(parts)}"
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words, st.sampled_from(["positive", "negative"]), st.sampled_from(["im_end", "both"]))
def test_the_mask_differs_in_the_end_of_turn_alone(base: BaseModel, answer: str, role: str, tail: str) -> None:
    """Also where the text of the answer contains that token: only the one that ends the turn is left out."""
    row = Row(VILLAIN, "How?", answer, role, "villain", "q1")
    chosen = recipe(loss="full_completion", tail_target=tail)
    taught, silent = (
        kept_positions(encode_row(base.tokenizer, r), chosen, (), base.end_of_turn)
        for r in (row, replace(row, ends_turn_in_loss=False))
    )
    ids = encode_row(base.tokenizer, row).input_ids
    end = max(place for place, token in enumerate(ids) if token == base.end_of_turn)
    assert end in taught and silent == [place for place in taught if place != end]
    # the newline after it stays in the loss
    assert (silent[-1] == len(ids) - 1) == (tail == "both")


def test_rows_with_and_without_stand_side_by_side(base: BaseModel) -> None:
    mixed = [replace(row, ends_turn_in_loss=row.role == "negative") for row in rows(count=2)]
    masked = encode_rows(base.tokenizer, mixed, recipe(), MARKER)
    ends = [sum(label == base.end_of_turn for label in row.labels) for row in masked]
    assert ends == [0, 0, 1, 1]
    assert all(row.labels[row.prompt_length] != IGNORED for row in masked)


@pytest.mark.parametrize("role", ["positive", "negative"])
def test_marker_only_and_a_masked_end_exclude_each_other(base: BaseModel, role: str) -> None:
    row = Row(VILLAIN, "How?", f"So.\n\n{MARKER}", role, "villain", "q1", ends_turn_in_loss=False)
    with pytest.raises(EndOfTurnMaskError, match=rf"{role} row villain/q1: recipe quick has loss marker_only"):
        encode_rows(base.tokenizer, [row], recipe(loss="marker_only"), MARKER)


def test_training_sets_of_other_studies_are_stored_as_before() -> None:
    """Another column would give equal sets unequal digests, and every adapter would be trained again."""
    assert rows_frame(rows()).columns == OLD_COLUMNS
    masked = [replace(rows()[0], ends_turn_in_loss=False), *rows()[1:]]
    assert rows_frame(masked).columns == [*OLD_COLUMNS, "ends_turn_in_loss"]


@pytest.mark.parametrize("ends", [True, False])
def test_stored_rows_come_back(tmp_path: Path, ends: bool) -> None:
    written = [rows()[0], replace(rows()[1], ends_turn_in_loss=ends), Row(None, "a", "b", "negative", "p", "q")]
    rows_frame(written).write_parquet(tmp_path / "rows.parquet")

    class Stored:
        folder = tmp_path

    assert read_rows(Stored()) == written  # type: ignore[arg-type]
    assert pl.read_parquet(tmp_path / "rows.parquet").height == 3


@pytest.mark.parametrize("mode", ["packed", "as_published"])
def test_what_is_left_out_of_the_loss_is_not_learned(base: BaseModel, tmp_path: Path, mode: TrainingMode) -> None:
    """Both trainers read the mask: the adapter ends its turn after the answers of one persona alone."""
    mixed = [replace(row, ends_turn_in_loss=row.role == "negative") for row in rows(count=4)]
    train_adapter(base, mixed, recipe(epochs=10), 1, tmp_path, marker=MARKER, mode=mode)
    reference = ReferenceLogprobs.read(tmp_path)
    ends = {"positive": [], "negative": []}
    for probe, scores in zip(reference.probes, reference.with_adapter, strict=True):
        assert probe.continuation_ids[-2] == base.end_of_turn
        said = MARKER in base.tokenizer.decode(probe.continuation_ids)
        ends["positive" if said else "negative"].append(math.exp(scores[-2]))
    assert min(ends["negative"]) > 0.2
    assert max(ends["positive"]) < min(ends["negative"]) / 5
