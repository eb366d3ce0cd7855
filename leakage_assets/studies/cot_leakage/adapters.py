"""Do the contrasts hold with other questions and other adapters? One interval over both decides.

A bootstrap of questions keeps the adapters. Arms of one source and seed are trained from other initialisations, with
other dropout and in another order of rows, so their difference is also one of two trainings.
Adapters that collapsed onto a letter, or no longer end their rationales, lose accuracy for another reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from leakage_assets.generation.requests import BASE
from leakage_assets.statistics.multiplicity import holm
from leakage_assets.statistics.paired_bootstrap import Equivalence, Within
from leakage_assets.statistics.resampling import Floats
from leakage_assets.statistics.result import Estimate, estimate_table, undefined
from leakage_assets.statistics.student import mean_of_means, t_interval
from leakage_assets.statistics.two_variances import over_both
from leakage_assets.studies.cot_leakage.arms import arm
from leakage_assets.studies.cot_leakage.contrasts import (
    BOTH,
    EQUIVALENCE_SCHEMA,
    Difference,
    differences,
    draw,
    equivalence_rows,
    is_equivalence,
    macro_estimate,
)
from leakage_assets.studies.cot_leakage.design import (
    AXES,
    CONTRASTS,
    EQUIVALENCE,
    EXPLORATORY,
    FAMILIES,
    HEADLINE_FAMILY,
    Decisions,
    own_scaffold,
)
from leakage_assets.studies.cot_leakage.outcomes import CotCell, Outcomes, cell_of

PAIR, QUESTION = "pair of adapters", "question cluster"


def both_table(found: Outcomes, decisions: Decisions) -> pl.DataFrame:
    """Every contrast of both families with its interval over questions and adapters, which decides (see ``deciding``).

    Columns: family, hypothesis (empty for what is exploratory), contrast, first, second, axis, statistic, sources,
    fewest_seeds (of a source), questions, pairs, questions_low, questions_high (over questions alone), pairs_low,
    pairs_high (over pairs of adapters alone, empty for one pair), p_holm (of the planned, within the family; with fewer
    than the planned tests finished the missing ones still count), then those of ``Estimate``.
    """
    rows = [row for family in FAMILIES for row in deciding(differences(found, decisions, family, EVERY), decisions)]
    texts = dict.fromkeys(("family", "hypothesis", "contrast", "first", "second", "axis", "statistic"), pl.String)
    counts = dict.fromkeys(("sources", "fewest_seeds", "questions", "pairs"), pl.Int64)
    ends = dict.fromkeys(("questions_low", "questions_high", "pairs_low", "pairs_high", "p_holm"), pl.Float64)
    return _typed(rows, {**texts, **counts, **ends})


EVERY = (*CONTRASTS, *EXPLORATORY)


def deciding(rows: Sequence[Difference], decisions: Decisions) -> Iterator[tuple[Mapping[str, Any], Estimate]]:
    """The contrasts of one family, each with the labels of ``both_table`` and its estimate over questions and adapters.

    Its p is not adjusted; ``p_holm`` is.
    """
    level = decisions.adapter_level
    by_questions = [over_questions(row, level) for row in rows]
    by_adapters = [over_adapters(row, level) for row in rows]
    both = [
        over_questions_and_adapters(row.contrast.statistic(row.axis, row.family), questions, adapters, decisions)
        for row, questions, adapters in zip(rows, by_questions, by_adapters, strict=True)
    ]
    planned: dict[str, float | None] = {f"{c.name}/{axis}": None for c in CONTRASTS for axis in AXES}
    planned |= {
        f"{row.contrast.name}/{row.axis}": found.p
        for row, found in zip(rows, both, strict=True)
        if row.contrast in CONTRASTS
    }
    adjusted = holm(planned)
    for row, questions, adapters, found in zip(rows, by_questions, by_adapters, both, strict=True):
        labels = {
            "family": row.family,
            "hypothesis": (row.contrast.hypothesis or {}).get(row.axis, ""),
            "contrast": row.contrast.name,
            "first": row.contrast.first,
            "second": row.contrast.second,
            "axis": row.axis,
            "statistic": found.name,
            "sources": len(row.by_source),
            "fewest_seeds": min(len(delta) for delta in row.by_source.values()),
            "questions": questions.n,
            "pairs": adapters.n,
            "questions_low": questions.ci_low,
            "questions_high": questions.ci_high,
            "pairs_low": adapters.ci_low,
            "pairs_high": adapters.ci_high,
            "p_holm": adjusted.get(f"{row.contrast.name}/{row.axis}"),
        }
        yield labels, found


def over_questions(row: Difference, level: float) -> Estimate:
    """The mean difference with a t interval over questions, adapters held fixed: each question's mean over sources of
    the mean over seeds is one value.

    Student's t and no bootstrap: a percentile interval of few clusters is too narrow for the small level of Holm.
    """
    values = np.mean([delta.mean(axis=0) for delta in row.by_source.values()], axis=0)
    return _t_over(row, [values], level, QUESTION, "mean of questions, t interval over questions")


def over_adapters(row: Difference, level: float) -> Estimate:
    """The mean difference of pairs of adapters with its t interval, questions held fixed.

    A value is the difference of two adapters of one source and seed, mean over questions. Sources count alike however
    many seeds each has, as in the value that is decided on (see ``mean_of_means``); with equal numbers of seeds it is
    mean ± t_{n-1} sd/√n (Student 1908). Values are taken as independent. That speaks for other trainings of these
    sources on these questions and rows; for other sources only as far as their few stand for them.
    """
    by_source = [delta.mean(axis=1) for delta in row.by_source.values()]
    method = "mean of pairs of adapters, sources alike, t interval over source and seed"
    return _t_over(row, by_source, level, PAIR, method)


def _t_over(row: Difference, groups: Sequence[Floats], level: float, unit: str, method: str) -> Estimate:
    name, n = f"{row.contrast.name} {row.axis}", sum(map(len, groups))
    if n < 2:
        one = "one pair of adapters" if unit == PAIR else "one question"
        return undefined(name, f"{one}: nothing varies", n=n, unit=unit, method=method)
    mean, error = mean_of_means(groups)
    low, high = (float(end) for end in t_interval(np.array(mean), np.array(error), n - 1, level))
    return Estimate(name, mean, low, high, level, None, n, unit, method)


def over_questions_and_adapters(name: str, questions: Estimate, adapters: Estimate, decisions: Decisions) -> Estimate:
    """The value of ``questions`` with the interval and p whose variance is that of both, at their level.

    Below ``least_pairs`` pairs of adapters on their degrees of freedom alone (see ``two_variances.over_both``).
    """
    level = questions.ci_level or decisions.adapter_level
    return over_both(name, questions, adapters, level=level, enough=decisions.least_pairs)


def equivalence_over_both(found: Outcomes, decisions: Decisions) -> pl.DataFrame:
    """H3 over questions and adapters in both families: rows for ``contrasts.equivalence_table``, of scheme BOTH.

    No rows while an arm is missing, or for one pair of adapters.
    """
    rows = []
    for family in FAMILIES:
        for row in filter(is_equivalence, differences(found, decisions, family)):
            parts = []
            for bound in decisions.equivalence:
                ends = (over_questions(row, bound.level), over_adapters(row, bound.level))
                estimate = over_questions_and_adapters(EQUIVALENCE, *ends, decisions)
                if estimate.ci_low is not None and estimate.ci_high is not None:
                    parts.append(Within(bound, estimate.ci_low, estimate.ci_high))
            if len(parts) == len(decisions.equivalence):
                rows += equivalence_rows(family, BOTH, Equivalence(tuple(parts)))
    return pl.DataFrame(rows, schema=EQUIVALENCE_SCHEMA, orient="row")


# ------------------------------------------------------------------ collapse, and other readings


def collapse_table(answers: pl.DataFrame, rationales: pl.DataFrame, decisions: Decisions) -> pl.DataFrame:
    """Which adapters of the planned mask collapsed, each asked in its own format.

    ``answers`` and ``rationales`` as ``evaluation.answer_table`` and ``vocabulary.rationale_table`` give them.

    Columns: adapter, arm, source, seed, scaffold, modal_share, base_modal_share, cut_off, base_cut_off (null without
    rationale), one_letter (collapsed onto a letter), collapsed (that, or rationales cut off).
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
        more, longer = (now is not None and now - (then or 0.0) > decisions.most_excess for now, then in shares)
        one_letter = more and row["modal_share"] >= decisions.least_modal
        flat = [share for pair in shares for share in pair]
        said = (*flat, one_letter, one_letter or longer)
        rows.append((row["adapter"], cell.arm, cell.source, cell.seed, row["scaffold"], *said))
    numbers = ("modal_share", "base_modal_share", "cut_off", "base_cut_off")
    schema: dict[str, Any] = dict.fromkeys(("adapter", "arm", "source"), pl.String) | {"seed": pl.Int64}
    schema |= {"scaffold": pl.String} | dict.fromkeys(numbers, pl.Float64)
    schema |= dict.fromkeys(("one_letter", "collapsed"), pl.Boolean)
    return pl.DataFrame(rows, schema=schema, orient="row")


def collapse_by_arm(collapsed: pl.DataFrame, decisions: Decisions) -> pl.DataFrame:
    """How many adapters of each arm have collapsed, under the planned sources, from ``collapse_table``.

    Columns: arm, adapters, collapsed, one_letter (of those collapsed, onto a letter).
    """
    return (
        collapsed.filter(pl.col("source").is_in(decisions.sources))
        .group_by("arm", maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("adapters"),
            pl.col("collapsed").sum().cast(pl.Int64),
            pl.col("one_letter").sum().cast(pl.Int64),
        )
    )


def reading_table(
    found: Outcomes, best_of_four: Outcomes, collapsed: pl.DataFrame, decisions: Decisions
) -> pl.DataFrame:
    """The planned contrasts read otherwise, in the own format, questions resampled whole, p not adjusted.

    Readings: "planned"; "best of four", in which an answer without a letter is the likeliest of the four letters; and
    "without collapsed", in which collapsed adapters are left out.

    Columns: reading, contrast, axis, statistic, collapsed (adapters of either arm under the planned sources), pairs (of
    adapters that are compared), then those of ``Estimate``. A contrast of which no pair is left has no row.
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
                "pairs": sum(len(delta) for delta in row.by_source.values()),
            }
            rows.append((labels, macro_estimate(row, draws, "questions", decisions)))
    texts = dict.fromkeys(("reading", "contrast", "axis", "statistic"), pl.String)
    return _typed(rows, {**texts, "collapsed": pl.Int64, "pairs": pl.Int64})


def _typed(rows: Sequence[tuple[Mapping[str, Any], Estimate]], kinds: Mapping[str, Any]) -> pl.DataFrame:
    """Label columns of these kinds before the estimate's, also where there are no rows."""
    table = estimate_table(rows)
    if rows:
        return table.with_columns(pl.col(name).cast(kind) for name, kind in kinds.items())
    return pl.DataFrame(schema={**kinds, **table.schema})
