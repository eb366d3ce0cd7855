"""Distances of pairs are computed from the base model, whichever persona the table lists as the source."""

from __future__ import annotations

import polars as pl

from leakage_assets.studies.two_marker_chunk.arms import PAIRS
from leakage_assets.studies.two_marker_chunk.distances import distance_table


def similarity(*rows: tuple[int, str, str, float]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["layer", "source", "prompt_name", "value"], orient="row")


def test_pairs_are_ranked_at_every_layer() -> None:
    villain, librarian, scholar = PAIRS
    table = distance_table(
        PAIRS,
        similarity(
            (10, "villain", "assistant", 0.2),
            (10, "software_engineer", "librarian", 0.7),  # the other way round
            (10, "zelthari_scholar", "data_scientist", 0.2),
            (10, "villain", "comedian", 0.99),
            (20, "villain", "assistant", 0.9),
            (20, "librarian", "software_engineer", -0.1),
            (20, "software_engineer", "librarian", -0.1),
        ),
    )
    assert table.select("layer", "source", "cosine", "closeness").rows() == [
        (10, librarian.name, 0.7, 1),
        (10, villain.name, 0.2, 2),
        (10, scholar.name, 0.2, 2),
        (20, villain.name, 0.9, 1),
        (20, librarian.name, -0.1, 2),
        (20, scholar.name, None, None),
    ]
    assert table["donor"][0] == "librarian" and table["recipient"][0] == "software_engineer"


def test_no_layers_give_no_rows() -> None:
    assert distance_table(PAIRS, similarity((1, "a", "b", 0.5)).clear()).is_empty()
