"""Parts of the tables of an analysis: which conditions there are, and estimates with their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import polars as pl

from leakage_assets.statistics.result import Estimate, estimate_table
from leakage_assets.studies.two_marker_chunk.arms import Pair
from leakage_assets.studies.two_marker_chunk.counts import of_cell
from leakage_assets.studies.two_marker_chunk.design import TwoMarkerPlan

Labelled = tuple[Mapping[str, Any], Estimate]
ESTIMATE = [field.name for field in fields(Estimate)]


def conditions(plan: TwoMarkerPlan, counts: pl.DataFrame) -> Iterator[tuple[str, Pair, pl.DataFrame]]:
    """The finished conditions in the order of the plan: recipe, pair, counts of all prompts."""
    for arm in plan.arms:
        for pair in plan.pairs:
            part = of_cell(counts, arm.name, pair.name)
            if part.height:
                yield arm.name, pair, part


def of_prompt(part: pl.DataFrame, prompt: str) -> pl.DataFrame:
    return part.filter(pl.col("prompt_name") == prompt)


def labelled(rows: Sequence[Labelled], labels: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Label columns with their types, also where there are no rows, followed by the estimate's fields."""
    table = estimate_table(rows)
    if not rows:
        return pl.DataFrame(schema={**labels, **table.schema})
    return table.select(
        *(pl.col(name).cast(kind) for name, kind in labels.items()), *(f.name for f in fields(Estimate))
    )
