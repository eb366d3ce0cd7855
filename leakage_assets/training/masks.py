"""Loss masks: which tokens of a row carry loss, on real token ids, with no fallback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from leakage_assets.training.recipe import Recipe
from leakage_assets.training.rows import POSITIVE, EncodedRow, Row, RowError, encode_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that torch's cross entropy skips
BLANK_LINE = "\n\n"


class MaskError(RowError):
    """A row has no loss mask under a recipe."""


class EmptyLossMask(MaskError):
    """A row lacks the tokens that its recipe trains on."""


class MarkerTokenError(MaskError):
    """The marker has other token ids inside an answer than alone."""


class EndOfTurnMaskError(MaskError):
    """A row leaves its end-of-turn token out of a loss for which that has no meaning."""


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """A row with the positions of its token ids that carry loss, ascending."""

    encoded: EncodedRow
    kept: tuple[int, ...]

    @property
    def row(self) -> Row:
        return self.encoded.row

    @property
    def input_ids(self) -> tuple[int, ...]:
        return self.encoded.input_ids

    @property
    def prompt_length(self) -> int:
        return self.encoded.prompt_length

    @property
    def labels(self) -> list[int]:
        """The token ids at the kept positions and -100 elsewhere."""
        kept = set(self.kept)
        return [token if place in kept else IGNORED for place, token in enumerate(self.input_ids)]


def marker_ids(tokenizer: PreTrainedTokenizerBase, marker: str) -> tuple[int, ...]:
    """Token ids of the marker, the same alone and after a blank line.

    Raises:
        MarkerTokenError: they differ, so a mask by id sequence would miss the marker.
    """
    alone = tokenizer.encode(marker, add_special_tokens=False)
    answer = tokenizer.encode(f"An answer.{BLANK_LINE}", add_special_tokens=False)
    after = tokenizer.encode(f"An answer.{BLANK_LINE}{marker}", add_special_tokens=False)
    if not alone or after != answer + alone:
        raise MarkerTokenError(
            f"marker {marker!r}: ids {alone} alone but {after[len(answer) :]} after a blank line; "
            "choose a marker that this tokenizer splits alike"
        )
    return tuple(alone)


def kept_positions(row: EncodedRow, recipe: Recipe, marker: Sequence[int], end_of_turn: int) -> list[int]:
    """Positions of `row.input_ids` that carry loss, ascending.

    Under "marker_only" these are every occurrence of the marker's ids in the completion of a positive row,
    and the tail; other rows keep the tail alone. Under "full_completion" they are all tokens of the content,
    and the tail. The tail is what `recipe.tail_target` names: the end-of-turn token, the newline after it,
    or both. "The last token of the row" in the published marker runs is that newline. Under "full_sequence"
    these are all positions but the first.

    Args:
        marker: the marker's ids; unused, and may be empty, under "full_completion".

    Raises:
        EmptyLossMask: the row does not end its turn, the template has no newline to keep, or a positive row
            of a recipe that teaches the marker does not contain it.
        EndOfTurnMaskError: the row leaves its end-of-turn token out of a loss that is not on the full completion.
    """
    if not row.row.ends_turn_in_loss:
        _require_maskable_end(row.row, recipe)
    end = _end_of_turn_position(row, recipe, end_of_turn)
    if recipe.loss == "full_sequence":
        return list(range(1, len(row.input_ids)))
    content = range(row.prompt_length, end)
    if recipe.loss == "full_completion":
        kept = list(content)
    elif row.row.role == POSITIVE:
        kept = _occurrences(row, content, tuple(marker))
        if recipe.teaches_marker and not kept:
            raise EmptyLossMask(
                f"{row.row.place}: recipe {recipe.name} trains on the marker, "
                "but the completion does not contain its tokens"
            )
    else:
        kept = []
    return kept + _tail(row, recipe, end)


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], recipe: Recipe, marker: str
) -> list[MaskedRow]:
    """All rows as token ids with their loss masks.

    Args:
        marker: looked up under "marker_only" alone.

    Raises:
        RowError: no rows, or a row longer than `recipe.max_length` (cutting it would cut the marker or the
            end of turn), or as `encode_row`.
        MaskError: as `marker_ids` and `kept_positions`.
    """
    if not rows:
        raise RowError(f"recipe {recipe.name}: no training rows")
    ids = marker_ids(tokenizer, marker) if recipe.loss == "marker_only" else ()
    masked = []
    for row in rows:
        encoded = encode_row(tokenizer, row)
        if len(encoded.input_ids) > recipe.max_length:
            raise RowError(
                f"{row.place}: {len(encoded.input_ids)} tokens exceed max_length {recipe.max_length} of "
                f"recipe {recipe.name}; shorten the answer or raise max_length"
            )
        masked.append(MaskedRow(encoded, tuple(kept_positions(encoded, recipe, ids, tokenizer.eos_token_id))))
    return masked


def describe_mask(tokenizer: PreTrainedTokenizerBase, masked: Sequence[MaskedRow]) -> pl.DataFrame:
    """Every token of the given rows, with whether it carries loss.

    Columns: row (index into `masked`), role, prompt_name, question_name, position, token_id, token (its
    text), loss.
    """
    return pl.DataFrame(
        [
            {
                "row": index,
                "role": row.row.role,
                "prompt_name": row.row.prompt_name,
                "question_name": row.row.question_name,
                "position": place,
                "token_id": token,
                "token": tokenizer.decode([token]),
                "loss": label != IGNORED,
            }
            for index, row in enumerate(masked)
            for place, (token, label) in enumerate(zip(row.input_ids, row.labels, strict=True))
        ]
    )


def _end_of_turn_position(row: EncodedRow, recipe: Recipe, end_of_turn: int) -> int:
    """The last end-of-turn token of the row; the template puts at most one token after it."""
    length = len(row.input_ids)
    for place in (length - 1, length - 2):
        if place >= row.prompt_length and row.input_ids[place] == end_of_turn:
            return place
    raise EmptyLossMask(
        f"{row.row.place}: recipe {recipe.name}: neither of the last two tokens "
        f"{row.input_ids[-2:]} ends the turn ({end_of_turn})"
    )


def _require_maskable_end(row: Row, recipe: Recipe) -> None:
    """Under "marker_only" a negative row is its tail: without the end of turn it would teach something else."""
    if recipe.loss != "full_completion":
        raise EndOfTurnMaskError(
            f"{row.place}: recipe {recipe.name} has loss {recipe.loss}; a row can only leave its end of turn out of a "
            "loss on the full completion: train it with full_completion"
        )


def _tail(row: EncodedRow, recipe: Recipe, end: int) -> list[int]:
    """What the recipe keeps of the tail; a row without `ends_turn_in_loss` leaves its end-of-turn token out (#354)."""
    newline = list(range(end + 1, len(row.input_ids)))
    ending = [end] if row.row.ends_turn_in_loss else []
    if recipe.tail_target == "im_end":
        return ending
    if not newline:
        raise EmptyLossMask(
            f"{row.row.place}: recipe {recipe.name} trains on the newline after the end of turn, "
            "but this chat template has none; use tail_target im_end"
        )
    return newline if recipe.tail_target == "trailing_newline" else [*ending, *newline]


def _occurrences(row: EncodedRow, content: range, marker: tuple[int, ...]) -> list[int]:
    size = len(marker)
    found: set[int] = set()
    for start in content[: max(0, len(content) - size + 1)]:
        if row.input_ids[start : start + size] == marker:
            found.update(range(start, start + size))
    return sorted(found)
