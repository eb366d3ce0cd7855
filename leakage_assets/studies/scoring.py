"""What a study reads off its samples: scores, the numbers shown for a cell, and the kinds of completions in the report.

The default looks for the study's one marker. A study that reads something else says so with a ``Scoring`` of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from leakage_assets.studies.study import Cell, Study


@dataclass(frozen=True)
class Scoring:
    """How samples become scores, and what is told of them.

    ``identity(study)`` is all that decides the scores besides the samples: it enters their fingerprint, so it names the
    function (``scoring``, for all but the default) and its version. ``score(study, samples)`` gives a row per sample,
    in their order, with the columns of ``measurement.markers.KEYS``. ``metrics(study, scores, cell)`` are the numbers
    of a cell that the UI plots over partitions. ``kinds(study, scores, cell)`` sorts the samples for the report, which
    draws a few of each kind: sample_id, who was asked, what was said. ``columns`` are those that ``score`` adds: name,
    type, description.
    """

    describes: str
    columns: tuple[tuple[str, str, str], ...]
    identity: Callable[[Study], Mapping[str, Any]]
    score: Callable[[Study, pl.DataFrame], pl.DataFrame]
    metrics: Callable[[Study, pl.DataFrame, Cell], dict[str, float]]
    kinds: Callable[[Study, pl.DataFrame, Cell], pl.DataFrame]


def _marker_identity(study: Study) -> Mapping[str, Any]:
    return {"marker": study.marker, "version": 1}


def _marker_scores(study: Study, samples: pl.DataFrame) -> pl.DataFrame:
    from leakage_assets.measurement.markers import score_frame

    return score_frame(samples, study.marker)


def marker_metrics(study: Study, scores: pl.DataFrame, cell: Cell) -> dict[str, float]:
    """Source rate and bystander rates of a cell: floats become plots over partitions in the UI.

    A rate over nobody (a panel without the source, or with the source alone) is left out.
    """
    import polars as pl

    rates = scores.group_by("prompt_name").agg(pl.col("marker_present").mean())
    is_source = pl.col("prompt_name") == study.anchor(cell.condition.source)
    own, others = rates.filter(is_source)["marker_present"], rates.filter(~is_source)["marker_present"]
    found = {"source_rate": own.mean(), "mean_bystander_rate": others.mean(), "max_bystander_rate": others.max()}
    return {name: float(rate) for name, rate in found.items() if rate is not None}  # type: ignore[arg-type]


def _marker_kinds(study: Study, scores: pl.DataFrame, cell: Cell) -> pl.DataFrame:
    import polars as pl

    is_source = pl.col("prompt_name") == study.anchor(cell.condition.source)
    return scores.select(
        "sample_id",
        pl.when(is_source).then(pl.lit("source")).otherwise(pl.lit("bystander")).alias("who"),
        pl.when("marker_present").then(pl.lit("marked")).otherwise(pl.lit("unmarked")).alias("said"),
    )


ONE_MARKER = Scoring(
    describes="Marker present, position class and truncation",
    columns=(
        ("marker_present", "bool", "case-insensitive substring match"),
        ("position_class", "string", "absent, prefix, suffix, inside_text or inside_json"),
        ("marker_count", "int64", "occurrences"),
        ("truncated", "bool", "ended by the token limit"),
    ),
    identity=_marker_identity,
    score=_marker_scores,
    metrics=marker_metrics,
    kinds=_marker_kinds,
)
"""The study's one marker, wherever it stands."""
