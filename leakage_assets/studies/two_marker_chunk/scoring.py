"""What is read off a completion of two markers: which are there and where, by what the persona was trained to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from leakage_assets.studies.scoring import Scoring
from leakage_assets.studies.two_marker_chunk.arms import pair_named
from leakage_assets.studies.two_marker_chunk.design import planned
from leakage_assets.studies.two_marker_chunk.probe import ECHO

if TYPE_CHECKING:
    import polars as pl

    from leakage_assets.studies.study import Cell, Study

VERSION = 1
"""Raise it when the code that matches markers changes what it finds."""


def _identity(study: Study) -> Mapping[str, Any]:
    experiment = planned(study)
    a, b = experiment.markers
    markers = {"a": a, "b": b, ECHO: experiment.probe.marker}
    return {"scoring": "marker_pairs", "markers": markers, "version": VERSION}


def score(study: Study, samples: pl.DataFrame) -> pl.DataFrame:
    """See ``measurement.marker_pairs.pair_score_frame``: both markers, and the probe's as ``echo``."""
    from leakage_assets.measurement.marker_pairs import pair_score_frame

    experiment = planned(study)
    return pair_score_frame(samples, *experiment.markers, {ECHO: experiment.probe.marker})


def metrics(study: Study, scores: pl.DataFrame, cell: Cell) -> dict[str, float]:
    """R_A, R_B and R_B|A of donor and recipient, and the largest R_B of anyone else; what nobody was asked is left out.

    Their definitions are those of ``counts.RATES``, for one cell.
    """
    import polars as pl

    pair = pair_named(cell.condition.source, planned(study).pairs)
    found: dict[str, float | None] = {}
    for role, prompt in (("donor", pair.donor), ("recipient", pair.recipient)):
        own = scores.filter(prompt_name=prompt)
        found[f"{role}_r_a"] = own["loose_a"].mean()  # type: ignore[assignment]
        found[f"{role}_r_b"] = own["loose_b"].mean()  # type: ignore[assignment]
        found[f"{role}_r_b_given_a"] = own.filter("loose_a")["loose_b"].mean()  # type: ignore[assignment]
    others = scores.filter(~pl.col("prompt_name").is_in([pair.donor, pair.recipient]))
    found["max_other_r_b"] = others.group_by("prompt_name").agg(pl.col("loose_b").mean())["loose_b"].max()  # type: ignore[assignment]
    return {name: float(rate) for name, rate in found.items() if rate is not None}


def kinds(study: Study, scores: pl.DataFrame, cell: Cell) -> pl.DataFrame:
    """Donor, recipient or someone else; A and B, one of them, or neither."""
    import polars as pl

    pair = pair_named(cell.condition.source, planned(study).pairs)
    who = pl.col("prompt_name").replace_strict({pair.donor: "donor", pair.recipient: "recipient"}, default="other")
    a, b = pl.col("loose_a"), pl.col("loose_b")
    said = pl.when(a & b).then(pl.lit("A and B")).when(a).then(pl.lit("A")).when(b).then(pl.lit("B"))
    return scores.select("sample_id", who.alias("who"), said.otherwise(pl.lit("neither")).alias("said"))


MARKER_PAIR = Scoring(
    describes="Which of both markers (and the probe's) are there, strictly and loosely, and where each starts",
    columns=(
        ("n_tokens", "int64", "generated tokens, end-of-turn included"),
        ("truncated", "bool", "ended by the token limit"),
        ("characters", "int64", "length of the completion"),
        *(
            column
            for name, which in (("a", "marker A"), ("b", "marker B"), (ECHO, "the probe's marker"))
            for column in (
                (f"strict_{name}", "bool", f"{which}, case-insensitive substring match"),
                (f"loose_{name}", "bool", f"{which}, also where whitespace differs"),
                (f"start_{name}", "int64", f"index of the first character of {which}"),
            )
        ),
    ),
    identity=_identity,
    score=score,
    metrics=metrics,
    kinds=kinds,
)
"""Both markers and the probe's."""
