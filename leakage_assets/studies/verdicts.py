"""What follows from frozen hypotheses and the estimates they name: the tables ``headline`` and ``verdicts``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from leakage_assets.statistics.result import Estimate, estimate_table
from leakage_assets.studies.study import Hypothesis


def headline_table(hypotheses: Iterable[Hypothesis], headline: Iterable[Estimate]) -> pl.DataFrame:
    """Estimates in their order: statistic, status (planned: a hypothesis names it; exploratory), then those of
    ``Estimate``.
    """
    planned = {h.statistic for h in hypotheses}
    return estimate_table(
        ({"statistic": e.name, "status": "planned" if e.name in planned else "exploratory"}, e) for e in headline
    )


def verdict_table(hypotheses: Iterable[Hypothesis], headline: Iterable[Estimate], plan_digest: str) -> pl.DataFrame:
    """Each hypothesis against its threshold (see ``verdict_row``); an undefined statistic decides nothing.

    Raises ``KeyError`` for a hypothesis on a statistic that is not among the estimates.
    """
    estimates = {e.name: e for e in headline}
    return verdict_frame([verdict_row(h, estimates[h.statistic], plan_digest) for h in hypotheses])


def verdict_frame(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Rows of verdicts as a table, whose numbers are floats also where none is defined."""
    numbers = dict.fromkeys(("estimate", "p", "threshold", "max_p"), pl.Float64)
    return pl.DataFrame(rows, schema_overrides=numbers, infer_schema_length=None)


def verdict_row(
    hypothesis: Hypothesis, estimate: Estimate, plan_digest: str, *, sources_to_come: int = 0
) -> dict[str, object]:
    """A row of a study's table of verdicts: the hypothesis, its estimate and p, and what follows (see ``decide``)."""
    return {
        "hypothesis": hypothesis.name,
        "claim": hypothesis.claim,
        "statistic": hypothesis.statistic,
        "estimate": estimate.estimate,
        "p": estimate.p,
        "threshold": hypothesis.threshold,
        "direction": hypothesis.direction,
        "max_p": hypothesis.max_p,
        "verdict": decide(hypothesis, estimate, sources_to_come=sources_to_come),
        "plan_digest": plan_digest,
    }


def decide(hypothesis: Hypothesis, estimate: Estimate, *, sources_to_come: int = 0) -> str:
    """``supported``, ``not supported`` or ``undecided``, from the plan's threshold and nothing else.

    A count of sources that misses its threshold is undecided while unfinished sources could still make it up.
    """
    value = estimate.estimate
    if value is None or (hypothesis.max_p is not None and estimate.p is None):
        return "undecided"
    beyond = {
        "greater": value > hypothesis.threshold,
        "at_least": value >= hypothesis.threshold,
        "less": value < hypothesis.threshold,
        "at_most": value <= hypothesis.threshold,
    }[hypothesis.direction]
    if not beyond and hypothesis.direction == "at_least" and sources_to_come:
        return "undecided" if value + sources_to_come >= hypothesis.threshold else "not supported"
    certain = hypothesis.max_p is None or (estimate.p is not None and estimate.p < hypothesis.max_p)
    return "supported" if beyond and certain else "not supported"
