"""Do other personas take over the words of the trained one? Log-odds of its vocabulary in generated rationales.

Section 10 asks for it; the write-up measured accuracy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from leakage_assets.generation.requests import BASE
from leakage_assets.statistics.log_odds import vocabulary, words
from leakage_assets.statistics.paired_bootstrap import bootstrap_estimate
from leakage_assets.statistics.resampling import Floats, cluster_weights
from leakage_assets.statistics.result import Estimate, estimate_table, undefined
from leakage_assets.studies.cot_leakage.arms import ARMS
from leakage_assets.studies.cot_leakage.design import AXES, SOURCE_LOSS, Axis, Decisions
from leakage_assets.studies.cot_leakage.outcomes import cell_of

HALF = 0.5
"""Added to both counts, so that a word that is never said has finite odds (Haldane 1956, Anscombe 1956)."""

UNIT = "question cluster"


def telling_words(
    texts: Mapping[str, tuple[Sequence[str], Sequence[str]]], decisions: Decisions
) -> dict[str, tuple[str, ...]]:
    """The words of each source's own rationales against neutral ones on the same questions, most telling first.

    ``texts`` maps a source to its in-character rationales and the neutral ones, as they are trained on.
    """
    return {
        source: vocabulary(voiced, neutral, least_score=decisions.least_score, most=decisions.most_words)
        for source, (voiced, neutral) in texts.items()
    }


def word_counts(rationales: pl.DataFrame, vocabularies: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """How many words of each source's vocabulary every rationale has.

    Args:
        rationales: samples of the first step: adapter, prompt_name, question_set (the scaffold), question_name, index,
            text.

    Returns:
        Columns source (whose vocabulary), adapter, prompt_name, scaffold, question_name, told (words of it), said
        (all words). An adapter has rows for its own source alone, the base for every one.
    """
    schema = {
        "source": pl.String, "adapter": pl.String, "prompt_name": pl.String, "scaffold": pl.String,
        "question_name": pl.String, "told": pl.Int64, "said": pl.Int64,
    }  # fmt: skip
    sets = {source: frozenset(words_) for source, words_ in vocabularies.items()}
    rows = []
    columns = ("adapter", "prompt_name", "question_set", "question_name", "text")
    for adapter, persona, scaffold, question, text in rationales.filter(index=0).select(columns).iter_rows():
        said = words(text)
        for source in sets if adapter == BASE else {cell_of(adapter)[0].source} & sets.keys():
            told = sum(word in sets[source] for word in said)
            rows.append((source, adapter, persona, scaffold, question, told, len(said)))
    return pl.DataFrame(rows, schema=schema, orient="row")


def log_odds_table(counts: pl.DataFrame, decisions: Decisions) -> pl.DataFrame:
    """Log-odds of a source's vocabulary in the rationales of its adapters minus those of the base, by arm and scaffold.

    ln((k+½)/(n-k+½)) of the adapters, seeds together, minus that of the base under the same prompts; questions
    resampled whole. On the axis of the bystanders all prompts but the source's own are taken together.

    Columns: source, arm, scaffold, axis, then those of ``Estimate``; 0 means that the words are as frequent as before.
    """
    rows: list[tuple[Mapping[str, Any], Estimate]] = []
    named = counts.filter(pl.col("adapter") != BASE)
    cells = {adapter: cell_of(adapter) for adapter in named["adapter"].unique(maintain_order=True)}
    for one in ARMS:
        mine = [a for a, (cell, mask) in cells.items() if cell.arm == one.name and mask == decisions.mask]
        part = named.filter(pl.col("adapter").is_in(mine))
        for source in decisions.sources:
            for scaffold in part.filter(source=source)["scaffold"].unique(maintain_order=True):
                for axis in AXES:
                    where = _where(source, scaffold, axis)
                    labels = {"source": source, "arm": one.name, "scaffold": scaffold, "axis": axis}
                    rows.append((labels, _log_odds(part.filter(where), _base(counts).filter(where), decisions)))
    table = estimate_table(rows)
    labels_schema = dict.fromkeys(("source", "arm", "scaffold", "axis"), pl.String)
    return table if rows else pl.DataFrame(schema=labels_schema | dict(table.schema))


def _base(counts: pl.DataFrame) -> pl.DataFrame:
    return counts.filter(pl.col("adapter") == BASE)


def _where(source: str, scaffold: str, axis: Axis) -> pl.Expr:
    own = pl.col("prompt_name") == source
    return (pl.col("source") == source) & (pl.col("scaffold") == scaffold) & (own if axis == SOURCE_LOSS else ~own)


def _log_odds(adapters: pl.DataFrame, base: pl.DataFrame, decisions: Decisions) -> Estimate:
    name = "vocabulary_log_odds"
    draws = decisions.published_draws
    method = f"log-odds minus the base's, questions resampled, percentile, {draws} draws, seed {decisions.seed}"
    first, second = _by_question(adapters), _by_question(base)
    joined = first.join(second, on="question_name", how="inner", suffix="_base").sort("question_name")
    n = joined.height
    totals = [float(joined[column].sum()) for column in ("said", "said_base")]
    if not n or not all(totals):
        reason = "the base or the adapters wrote no words here"
        return undefined(name, reason, n=n, unit=UNIT, method=method)
    arrays = [joined[c].to_numpy().astype(np.float64) for c in ("told", "said", "told_base", "said_base")]
    point = float(_difference(*(values.sum(keepdims=True) for values in arrays))[0])
    weights = cluster_weights(n, draws, decisions.seed)
    drawn = _difference(*(weights @ values for values in arrays))
    return bootstrap_estimate(
        name, point, drawn, level=decisions.level, n=n, unit=UNIT, method=method, published_p=False
    )


def _by_question(counts: pl.DataFrame) -> pl.DataFrame:
    return counts.group_by("question_name").agg(pl.col("told").sum(), pl.col("said").sum())


def _difference(told: Floats, said: Floats, told_base: Floats, said_base: Floats) -> Floats:
    odds: Floats = np.log((told + HALF) / (said - told + HALF))
    before: Floats = np.log((told_base + HALF) / (said_base - told_base + HALF))
    result: Floats = odds - before
    return result


def rationale_table(rationales: pl.DataFrame) -> pl.DataFrame:
    """Whether an adapter still writes different rationales for different questions.

    Columns: adapter, scaffold, n, distinct (share of different texts), modal_share (share of the most frequent text),
    cut_off (share that ran out of tokens), mean_tokens.
    """
    return (
        rationales.filter(index=0)
        .group_by("adapter", pl.col("question_set").alias("scaffold"), maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("n"),
            (pl.col("text").n_unique() / pl.len()).alias("distinct"),
            (pl.col("text").value_counts(sort=True).struct.field("count").first() / pl.len()).alias("modal_share"),
            (pl.col("finish_reason") == "length").mean().alias("cut_off"),
            pl.col("n_tokens").mean().alias("mean_tokens"),
        )
    )
