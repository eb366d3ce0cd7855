"""Do the contrasts hold with other adapters? Each adapter is one training, and questions tell nothing of another one.

The planned bootstrap resamples questions and keeps the adapters. Arms of one source and seed are trained from other
initialisations, with other dropout and in another order of rows, so their difference is also one of two trainings.
Adapters that collapsed onto a letter, or no longer end their rationales, lose accuracy for another reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from leakage_assets.generation.requests import BASE
from leakage_assets.statistics.result import Estimate, estimate_table, undefined
from leakage_assets.statistics.student import t_interval
from leakage_assets.studies.cot_leakage.arms import arm
from leakage_assets.studies.cot_leakage.contrasts import Difference, differences, draw, macro_estimate
from leakage_assets.studies.cot_leakage.design import (
    CONTRASTS,
    EQUIVALENCE,
    EXPLORATORY,
    FAMILIES,
    HEADLINE_FAMILY,
    Decisions,
    own_scaffold,
)
from leakage_assets.studies.cot_leakage.outcomes import CotCell, Outcomes, cell_of
from leakage_assets.studies.study import Hypothesis

UNIT = "pair of adapters"
HOLDS, INCLUDES, NONE = "holds", "includes the threshold", "no interval"
"""What an interval over adapters says of a hypothesis."""


def adapter_table(found: Outcomes, decisions: Decisions) -> pl.DataFrame:
    """Every contrast of both families with a t interval over adapters.

    A value is the difference of two adapters of one source and seed, mean over questions; n of them have mean
    and interval mean ± t_{n-1} sd/√n (Student 1908), taken as independent. That speaks for other trainings of these
    sources on these questions and rows; for other sources only as far as their few stand for them.

    Columns: statistic, sources, fewest_seeds (of a source), then those of ``Estimate``; no interval for one pair of
    adapters.
    """
    rows = []
    for family in FAMILIES:
        for row in differences(found, decisions, family, (*CONTRASTS, *EXPLORATORY)):
            labels = {
                "statistic": row.contrast.statistic(row.axis, family),
                "sources": len(row.by_source),
                "fewest_seeds": min(len(delta) for delta in row.by_source.values()),
            }
            rows.append((labels, over_adapters(row, decisions.adapter_level)))
    return _typed(rows, {"statistic": pl.String, "sources": pl.Int64, "fewest_seeds": pl.Int64})


def over_adapters(row: Difference, level: float) -> Estimate:
    """The mean difference of pairs of adapters with its t interval."""
    values = np.concatenate([delta.mean(axis=1) for delta in row.by_source.values()])
    name, n = f"{row.contrast.name} {row.axis}", len(values)
    method = "mean of pairs of adapters, t interval over source and seed"
    if n < 2:
        return undefined(name, "one pair of adapters: nothing varies", n=n, unit=UNIT, method=method)
    error = values.std(ddof=1) / np.sqrt(n)
    low, high = (float(end) for end in t_interval(values.mean(), error, n - 1, level))
    return Estimate(name, float(values.mean()), low, high, level, None, n, UNIT, method)


def equivalence_over_adapters(found: Outcomes, decisions: Decisions) -> float | None:
    """H3 with other adapters: the largest share of a margin that a t interval takes; None for fewer than two pairs."""
    for row in differences(found, decisions, HEADLINE_FAMILY):
        if (row.contrast.hypothesis or {}).get(row.axis) == "H3":
            estimates = [(over_adapters(row, bound.level), bound.margin) for bound in decisions.equivalence]
            if any(estimate.ci_low is None for estimate, _ in estimates):
                return None
            return max(max(abs(e.ci_low or 0.0), abs(e.ci_high or 0.0)) / margin for e, margin in estimates)
    return None


def adapters_say(hypothesis: Hypothesis, table: pl.DataFrame, equivalence: float | None) -> str:
    """Whether the interval over adapters leaves the threshold of a hypothesis out, on the side that it claims."""
    if hypothesis.statistic == EQUIVALENCE:
        return NONE if equivalence is None else HOLDS if equivalence < hypothesis.threshold else INCLUDES
    rows = table.filter(statistic=hypothesis.statistic)
    low, high = rows.select("ci_low", "ci_high").row(0) if rows.height else (None, None)
    if low is None or high is None:
        return NONE
    beyond = low > hypothesis.threshold if hypothesis.direction == "greater" else high < hypothesis.threshold
    return HOLDS if beyond else INCLUDES


def with_adapters(
    verdicts: pl.DataFrame, planned: Sequence[Hypothesis], table: pl.DataFrame, equivalence: float | None
) -> pl.DataFrame:
    """The verdicts, of which only those are "supported" that hold with other adapters too.

    Where the questions support a claim and the interval over adapters does not leave the threshold out, it is not
    supported; without such an interval it is undecided. Adds the columns questions_alone (the verdict of the questions)
    and adapters.
    """
    said = [adapters_say(hypothesis, table, equivalence) for hypothesis in planned]
    weaker = {INCLUDES: "not supported", NONE: "undecided"}
    alone = verdicts["verdict"].to_list()
    final = [weaker.get(s, v) if v == "supported" else v for v, s in zip(alone, said, strict=True)]
    return verdicts.with_columns(
        pl.Series("verdict", final, pl.String),
        pl.Series("questions_alone", alone, pl.String),
        pl.Series("adapters", said, pl.String),
    )


# ------------------------------------------------------------------ collapse, and other readings


def collapse_table(answers: pl.DataFrame, rationales: pl.DataFrame, decisions: Decisions) -> pl.DataFrame:
    """Which adapters of the planned mask collapsed, each asked in its own format.

    ``answers`` and ``rationales`` as ``evaluation.answer_table`` and ``vocabulary.rationale_table`` give them.

    Columns: adapter, arm, source, seed, scaffold, modal_share, base_modal_share, cut_off, base_cut_off (null without
    rationale), collapsed.
    """
    keys = ["adapter", "scaffold"]
    both = answers.select(*keys, "modal_share").join(rationales.select(*keys, "cut_off"), on=keys, how="left")
    base = {row["scaffold"]: row for row in both.filter(adapter=BASE).iter_rows(named=True)}
    rows = []
    for row in both.filter(pl.col("adapter") != BASE).iter_rows(named=True):
        cell, mask = cell_of(row["adapter"])
        if mask != decisions.mask or row["scaffold"] != own_scaffold(arm(cell.arm)):
            continue
        before = base[row["scaffold"]]
        shares = [(row[key], before[key]) for key in ("modal_share", "cut_off")]
        collapsed = any(now is not None and now - (then or 0.0) > decisions.most_excess for now, then in shares)
        flat = [share for pair in shares for share in pair]
        rows.append((row["adapter"], cell.arm, cell.source, cell.seed, row["scaffold"], *flat, collapsed))
    numbers = ("modal_share", "base_modal_share", "cut_off", "base_cut_off")
    schema: dict[str, Any] = dict.fromkeys(("adapter", "arm", "source"), pl.String) | {"seed": pl.Int64}
    schema |= {"scaffold": pl.String} | dict.fromkeys(numbers, pl.Float64) | {"collapsed": pl.Boolean}
    return pl.DataFrame(rows, schema=schema, orient="row")


def reading_table(
    found: Outcomes, best_of_four: Outcomes, collapsed: pl.DataFrame, decisions: Decisions
) -> pl.DataFrame:
    """The planned contrasts read otherwise, in the own format, questions resampled whole, p not adjusted.

    Readings: "planned"; "best of four", in which an answer without a letter is the likeliest of the four letters; and
    "without collapsed", in which collapsed adapters are left out.

    Columns: reading, contrast, axis, statistic, collapsed (adapters of either arm under the planned sources), then
    those of ``Estimate``.
    """
    gone = {CotCell(*cell) for cell in collapsed.filter("collapsed").select("source", "arm", "seed").iter_rows()}
    kept = replace(found, cells={cell: scores for cell, scores in found.cells.items() if cell not in gone})
    rows: list[tuple[Mapping[str, Any], Estimate]] = []
    for reading, outcomes in (("planned", found), ("best of four", best_of_four), ("without collapsed", kept)):
        there = differences(outcomes, decisions, HEADLINE_FAMILY)
        drawn = draw(there, "questions", decisions)
        for row, draws in zip(there, drawn, strict=True):
            arms = (row.contrast.first, row.contrast.second)
            labels = {
                "reading": reading,
                "contrast": row.contrast.name,
                "axis": row.axis,
                "statistic": row.contrast.statistic(row.axis, HEADLINE_FAMILY),
                "collapsed": sum(cell.arm in arms and cell.source in decisions.sources for cell in gone),
            }
            rows.append((labels, macro_estimate(row, draws, "questions", decisions)))
    texts = dict.fromkeys(("reading", "contrast", "axis", "statistic"), pl.String)
    return _typed(rows, {**texts, "collapsed": pl.Int64})


def _typed(rows: Sequence[tuple[Mapping[str, Any], Estimate]], kinds: Mapping[str, Any]) -> pl.DataFrame:
    """Label columns of these kinds before the estimate's, also where there are no rows."""
    table = estimate_table(rows)
    if rows:
        return table.with_columns(pl.col(name).cast(kind) for name, kind in kinds.items())
    return pl.DataFrame(schema={**kinds, **table.schema})
