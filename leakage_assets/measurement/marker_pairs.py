"""Two markers in one completion: which are there, where each starts, and whether the second sticks to the first.

Sections and ambiguities (C5, ...) are those of the protocol sheet two_marker_chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import polars as pl

from leakage_assets.measurement.markers import KEYS, marker_present, marker_present_loosely, marker_start

Order = Literal["after", "before"]
"""On which side of A the rows have B."""


@dataclass(frozen=True, slots=True)
class Signatures:
    """What counts as close to A and as the end of a completion, both in characters (section 6)."""

    chunk_within: int = 150
    suffix_within: int = 50

    def __post_init__(self) -> None:
        if min(self.chunk_within, self.suffix_within) < 1:
            raise ValueError(f"{self}: both widths must be at least one character")


PUBLISHED = Signatures()


def chunk_signature(signatures: Signatures, order: Order = "after") -> pl.Expr:
    """Whether B starts less than `chunk_within` characters after A does (or before it), as ``pair_score_frame`` counts.

    Null where one of them is missing.
    """
    distance = pl.col("start_b") - pl.col("start_a")
    distance = distance if order == "after" else -distance
    return (distance > 0) & (distance < signatures.chunk_within)


def suffix_signature(signatures: Signatures) -> pl.Expr:
    """Whether B starts among the last `suffix_within` characters; null where it is missing."""
    return pl.col("start_b") > pl.col("characters") - signatures.suffix_within


def pair_score_frame(
    samples: pl.DataFrame, marker_a: str, marker_b: str, further: Mapping[str, str] | None = None
) -> pl.DataFrame:
    """Scores of samples for two markers, in their order.

    Args:
        further: other markers to look for, by the name of their columns.

    Returns:
        The identity of each sample (as ``markers.score_frame``) with ``truncated``, ``n_tokens``, ``characters`` (of
        the completion), and for each marker ``strict_a``, ``loose_a``, ``start_a`` (index of the first character;
        null where there is none), ``strict_b``, ...

    Raises:
        ValueError: a blank marker, or one that contains another, whose rates could not be told apart.
    """
    markers = {"a": marker_a, "b": marker_b, **(further or {})}
    for one, other in permutations(markers.values(), 2):
        if marker_present_loosely(one, other):
            raise ValueError(f"marker {one!r} contains {other!r}: whoever says the first says the second")
    texts = samples["text"].to_list()
    return samples.select(
        *KEYS,
        "n_tokens",
        truncated=pl.col("finish_reason") == "length",
        characters=pl.col("text").str.len_chars().cast(pl.Int64),
    ).with_columns(
        column
        for name, marker in markers.items()
        for column in (
            pl.Series(f"strict_{name}", [marker_present(text, marker) for text in texts], pl.Boolean),
            pl.Series(f"loose_{name}", [marker_present_loosely(text, marker) for text in texts], pl.Boolean),
            pl.Series(f"start_{name}", [marker_start(text, marker) for text in texts], pl.Int64),
        )
    )
