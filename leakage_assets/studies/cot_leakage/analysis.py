"""The planned analysis of chain-of-thought leakage: every table by name, the headline estimates, and the verdicts.

Adapters that are not finished are left out, and what needs them is undefined for that reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from leakage_assets.generation.requests import BASE
from leakage_assets.measurement.multiple_choice import LabelReport
from leakage_assets.statistics.result import Estimate, estimate_of, undefined
from leakage_assets.studies.cot_leakage.adapters import (
    both_table,
    collapse_by_arm,
    collapse_table,
    equivalence_over_both,
    reading_table,
)
from leakage_assets.studies.cot_leakage.arms import CONTRADICTING, FULL_SEQUENCE, LossMask, recipe_name
from leakage_assets.studies.cot_leakage.contrasts import (
    BOTH,
    Scheme,
    accuracy_table,
    contrast_table,
    equivalence_table,
    loss_table,
    single_arm_table,
)
from leakage_assets.studies.cot_leakage.design import (
    AXES,
    CONTRASTS,
    EQUIVALENCE,
    EXPLORATORY,
    EXTENSION_SOURCES,
    FAMILIES,
    HEADLINE_FAMILY,
    NAME,
    SEEDS,
    Axis,
    Contrast,
    Decisions,
    Family,
    hypotheses,
)
from leakage_assets.studies.cot_leakage.evaluation import (
    SmokeGate,
    answer_table,
    best_of_four,
    noise_floor,
    noise_summary,
    size_table,
    smoke_loss,
)
from leakage_assets.studies.cot_leakage.outcomes import outcomes
from leakage_assets.studies.cot_leakage.vocabulary import (
    log_odds_table,
    rationale_table,
    telling_words,
    word_counts,
)
from leakage_assets.studies.study import Condition
from leakage_assets.studies.verdicts import headline_table, verdict_table

HEADLINE_SCHEME: Scheme = "questions"
"""The resampled scheme that is shown where there is room for one: questions are the clusters. It decides nothing."""


@dataclass(frozen=True)
class CotTables:
    """What the analysis is made from.

    ``choices``: the letters of the base and of every finished adapter (``evaluation.read_choices``); ``rationales``:
    samples of the first step; ``training_texts``: each source's in-character rationales and the neutral ones it is told
    apart from; ``labels``: how the questions of each split are labelled.
    """

    choices: pl.DataFrame
    rationales: pl.DataFrame
    training_texts: Mapping[str, tuple[Sequence[str], Sequence[str]]]
    labels: Sequence[LabelReport]


def analyse(
    decisions: Decisions,
    tables: CotTables,
    plan_digest: str,
    *,
    smoke: SmokeGate | None = None,
    other_mask: LossMask = FULL_SEQUENCE,
) -> dict[str, pl.DataFrame]:
    """Every table of the study, by name; ``headline`` and ``verdicts`` are read by the report first.

    ``smoke``: the gate to read off the adapters that are finished; ``other_mask``: the losses of the adapters that were
    trained under it stand in a table of their own (``losses_other_mask``).
    """
    found = outcomes(tables.choices, decisions.mask)
    unread = outcomes(best_of_four(tables.choices), decisions.mask)
    answers, rationales = answer_table(tables.choices), rationale_table(tables.rationales)
    collapsed = collapse_table(answers, rationales, decisions)
    both, floor = both_table(found, decisions), noise_floor(tables.choices)
    equivalences = pl.concat([equivalence_over_both(found, decisions), equivalence_table(found, decisions)])
    headline = list(_headline(both, equivalences))
    planned = hypotheses(decisions)
    vocabularies = telling_words(tables.training_texts, decisions)
    return {
        "headline": headline_table(planned, headline),
        "verdicts": verdict_table(planned, headline, plan_digest),
        "both": both,
        "collapse": collapsed,
        "collapse_by_arm": collapse_by_arm(collapsed, decisions),
        "readings": reading_table(found, unread, collapsed, decisions),
        "size": size_table(tables.choices),
        "contrasts": contrast_table(found, decisions),
        "equivalence": equivalences,
        "losses": loss_table(found, decisions),
        "losses_other_mask": loss_table(outcomes(tables.choices, other_mask), decisions),
        "extension": contrast_table(found, replace(decisions, sources=EXTENSION_SOURCES)),
        "smoke": smoke_table(smoke, tables.choices, decisions) if smoke is not None else smoke_frame([]),
        "single_arms": single_arm_table(found, decisions),
        "accuracy": accuracy_table(found, decisions),
        "answers": answers,
        "noise_floor": floor,
        "noise": noise_summary(floor),
        "vocabulary": vocabulary_table(vocabularies),
        "log_odds": log_odds_table(word_counts(tables.rationales, vocabularies), decisions),
        "rationales": rationales,
        "labels": label_table(tables.labels),
    }


def smoke_table(gate: SmokeGate, choices: pl.DataFrame, decisions: Decisions) -> pl.DataFrame:
    """Section 5: the gate read off the first seed of its adapter; no row before that is finished.

    Columns: source, scaffold, seed, questions, loss, least_loss, passed.
    """
    first = choices.filter(pl.col("repeat") == 0)
    base = first.filter(pl.col("adapter") == BASE)
    recipe = recipe_name(CONTRADICTING, decisions.mask)
    for seed in SEEDS:
        trained = first.filter(pl.col("adapter") == f"{NAME}/{Condition(gate.source, recipe).key}/{seed}")
        if trained.height:
            loss = smoke_loss(gate, base, trained)
            passed = loss >= gate.least_loss
            return smoke_frame([(gate.source, gate.scaffold, seed, gate.questions, loss, gate.least_loss, passed)])
    return smoke_frame([])


def smoke_frame(rows: Sequence[tuple[object, ...]]) -> pl.DataFrame:
    """The gate's columns, also where it was not read."""
    schema = {
        "source": pl.String, "scaffold": pl.String, "seed": pl.Int64, "questions": pl.Int64, "loss": pl.Float64,
        "least_loss": pl.Float64, "passed": pl.Boolean,
    }  # fmt: skip
    return pl.DataFrame(list(rows), schema=schema, orient="row")


def _headline(both: pl.DataFrame, equivalences: pl.DataFrame) -> Iterator[Estimate]:
    """The estimate of every contrast in both families over questions and adapters; p of the planned ones is Holm's."""
    for family in FAMILIES:
        for contrast in (*CONTRASTS, *EXPLORATORY):
            for axis in AXES:
                yield _contrast(both, family, contrast, axis)
    yield _share_of_margin(equivalences)


def _contrast(both: pl.DataFrame, family: Family, contrast: Contrast, axis: Axis) -> Estimate:
    name = contrast.statistic(axis, family)
    rows = both.filter(statistic=name)
    if rows.is_empty():
        return _not_run(name, f"no source has finished {contrast.first} and {contrast.second} with one seed")
    row = rows.row(0, named=True)
    estimate = estimate_of(row)
    if row["p_holm"] is None:
        return estimate
    tests = len(CONTRASTS) * len(AXES)
    return replace(estimate, p=row["p_holm"], method=f"{estimate.method}; p adjusted by Holm over {tests}")


def _share_of_margin(equivalences: pl.DataFrame) -> Estimate:
    """H3: the largest share of an equivalence margin that an interval takes; below 1 the arms are equivalent."""
    part = equivalences.filter(family=HEADLINE_FAMILY, scheme=BOTH)
    if part.is_empty():
        return _not_run(EQUIVALENCE, "of the arms of H3 fewer than two pairs of adapters are finished")
    ends = ", ".join(f"{level:.0%} within ±{margin:g}" for level, margin in part.select("level", "margin").iter_rows())
    method = f"two one-sided tests by intervals: {ends}; over questions and adapters"
    share = float(part["share_of_margin"].max())  # type: ignore[arg-type]
    return Estimate(EQUIVALENCE, share, None, None, None, None, part.height, "interval", method)


def _not_run(name: str, reason: str) -> Estimate:
    return undefined(name, reason, n=0, unit="question cluster", method="not run")


def vocabulary_table(vocabularies: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """The telling words of each source, most telling first: source, rank (from 1), word."""
    rows = [(source, rank, word) for source, found in vocabularies.items() for rank, word in enumerate(found, 1)]
    return pl.DataFrame(rows, schema={"source": pl.String, "rank": pl.Int64, "word": pl.String}, orient="row")


def label_table(reports: Sequence[LabelReport]) -> pl.DataFrame:
    """How the questions of each split are labelled, and what was left out, by reason.

    Columns: split, kept, lettered, numbered, otherwise, dropped, reasons, highest_accuracy.
    """
    schema = {
        "split": pl.String, "kept": pl.Int64, "lettered": pl.Int64, "numbered": pl.Int64, "otherwise": pl.Int64,
        "dropped": pl.Int64, "reasons": pl.String, "highest_accuracy": pl.Float64,
    }  # fmt: skip
    rows = [
        (
            report.split,
            report.kept,
            report.lettered,
            report.numbered,
            report.otherwise,
            sum(report.dropped.values()),
            ", ".join(f"{reason}: {count}" for reason, count in report.dropped.items()),
            report.highest_accuracy,
        )
        for report in reports
    ]
    return pl.DataFrame(rows, schema=schema, orient="row")
