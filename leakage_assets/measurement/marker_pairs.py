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


def placed_at_random(signatures: Signatures, marker_a: str, marker_b: str, order: Order = "after") -> pl.Expr:
    """How much oftener a B put at random would be close to A than at the end, in the same completion: -1 to 1.

    All places of B after A (or before it) are alike, a place being a character where B, with a space, can stand once it
    is taken out: so the rows of an arm of random positions put it, up to the words it stands between. Null where one
    of the markers is missing.
    """
    length_a, length_b = len(marker_a), len(marker_b)
    a, b = pl.col("start_a"), pl.col("start_b")
    a = pl.when(b < a).then(pl.max_horizontal(a - length_b - 1, pl.lit(0))).otherwise(a)  # where A is without B
    if order == "after":
        last = pl.col("characters") - length_b
        first = pl.min_horizontal(a + length_a + 1, last)
        nearest, farthest = first, pl.min_horizontal(a + signatures.chunk_within - 1, last)
    else:
        first, last = pl.lit(0), a
        nearest, farthest = pl.max_horizontal(a + length_b + 2 - signatures.chunk_within, first), last
    tail = pl.max_horizontal(pl.col("characters") - signatures.suffix_within + 1, first)
    close, at_end = (
        pl.max_horizontal(end - start + 1, pl.lit(0)) for start, end in ((nearest, farthest), (tail, last))
    )
    return (close - at_end) / (last - first + 1)


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
