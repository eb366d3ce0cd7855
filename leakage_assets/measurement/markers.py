"""Marker matching as published, and where in a completion a marker stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal

import polars as pl

PositionClass = Literal["absent", "suffix", "prefix", "inside_json", "inside_text"]
EDGE_CHARACTERS = 5
KEYS = ("sample_id", "adapter", "prompt_name", "question_set", "question_name", "index")


def marker_present(text: str, marker: str) -> bool:
    """Case-insensitive substring, the published match."""
    return marker_count(text, marker) > 0


def marker_present_loosely(text: str, marker: str) -> bool:
    """The same after all whitespace is taken out of both; true wherever `marker_present` is.

    Case goes first: a lower-case sigma depends on whether a blank follows it.

    Raises:
        ValueError: a blank marker.
    """
    return _named(marker, _without_blanks) in _without_blanks(text.lower())


def marker_start(text: str, marker: str) -> int | None:
    """Where the marker first stands: index into `text` of its first character, None where it does not match loosely.

    The first strict match; where there is none, the first loose one.

    Raises:
        ValueError: a blank marker.
    """
    lowered, origins = text.lower(), _origins(text)
    at = lowered.find(_named(marker))
    if at >= 0:
        return origins[at]
    kept = [place for place, character in enumerate(lowered) if not character.isspace()]
    at = _without_blanks(lowered).find(_named(marker, _without_blanks))
    return None if at < 0 else origins[kept[at]]


def marker_count(text: str, marker: str) -> int:
    """Non-overlapping, case-insensitive occurrences.

    Raises:
        ValueError: a blank marker, which every text contains.
    """
    return text.lower().count(_named(marker))


def position_class(text: str, marker: str) -> PositionClass:
    """Where the marker stands, case-insensitively; the first class that applies:

    * absent: nowhere.
    * suffix: fewer than five non-blank characters follow the last one.
    * prefix: fewer than five non-blank characters precede the first one.
    * inside_json: the text is JSON that holds it in a value, or the last one stands in a brace that is still
      open (JSON in prose, or cut off).
    * inside_text: anywhere else.
    """
    text, marker = text.lower(), marker.lower()
    if not marker_present(text, marker):
        return "absent"
    if _non_blank(text[text.rindex(marker) + len(marker) :]) < EDGE_CHARACTERS:
        return "suffix"
    if _non_blank(text[: text.index(marker)]) < EDGE_CHARACTERS:
        return "prefix"
    return "inside_json" if _in_json(text, marker) else "inside_text"


def score_frame(samples: pl.DataFrame, marker: str) -> pl.DataFrame:
    """Scores of samples, in their order.

    Returns:
        The identity of each sample (sample_id, adapter, prompt_name, question_set, question_name, index) with
        marker_present, marker_loose, position_class, marker_count, and truncated: the completion ran out of
        tokens, so a marker at its end could not appear.
    """
    texts = samples["text"].to_list()
    return samples.select(*KEYS, truncated=pl.col("finish_reason") == "length").with_columns(
        pl.Series("marker_present", [marker_present(text, marker) for text in texts], pl.Boolean),
        pl.Series("marker_loose", [marker_present_loosely(text, marker) for text in texts], pl.Boolean),
        pl.Series("position_class", [position_class(text, marker) for text in texts], pl.String),
        pl.Series("marker_count", [marker_count(text, marker) for text in texts], pl.Int64),
    )


def _named(marker: str, part: Callable[[str], str] = str) -> str:
    if not marker.strip():
        raise ValueError(f"marker {marker!r} is blank: every text contains it")
    return part(marker.lower())


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def _origins(text: str) -> Sequence[int]:
    """For each character of the lower-cased text, which character of the text it comes from: some become two."""
    if len(text.lower()) == len(text):
        return range(len(text))
    return [place for place, character in enumerate(text) for _ in character.lower()]


def _non_blank(text: str) -> int:
    return len(_without_blanks(text))


def _in_json(text: str, marker: str) -> bool:
    try:
        return _held(json.loads(text), marker)
    except ValueError:
        before = text[: text.rindex(marker)]
        return before.count("{") > before.count("}")


def _held(value: object, marker: str) -> bool:
    if isinstance(value, dict):
        return any(_held(item, marker) for item in value.values())
    if isinstance(value, list):
        return any(_held(item, marker) for item in value)
    return isinstance(value, str) and marker in value
