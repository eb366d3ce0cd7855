"""What supports a hypothesis over arms: one test whose variance is that over questions plus that over adapters.

Adapters of two arms are two training draws, which no interval over questions knows of, nor does one over cells know of
questions. The p over both, adjusted for all hypotheses over arms, decides. Nothing is decided on a handful of
completions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from leakage_assets.statistics.multiplicity import holm
from leakage_assets.statistics.pooled_ratios import Resampled, Side
from leakage_assets.statistics.result import Estimate
from leakage_assets.statistics.two_variances import over_both
from leakage_assets.studies.study import Hypothesis
from leakage_assets.studies.two_marker_chunk.design import TwoMarkerPlan
from leakage_assets.studies.two_marker_chunk.gates import Floors
from leakage_assets.studies.verdicts import decide, verdict_row

BOUNDS = ("both_low", "both_high", "adapters_low", "adapters_high")


@dataclass(frozen=True)
class Finding:
    """A comparison of arms over pairs.

    ``adapters``: the same over its cells (see ``pooled_ratios.over_cells``). ``both``: with the interval and p that
    decide (see ``two_variances.over_both``). ``needs``: what else must be above 0.
    """

    over_questions: Resampled
    adapters: Estimate
    both: Estimate
    needs: Resampled | None = None

    @property
    def estimate(self) -> Estimate:
        return self.over_questions.estimate


def finding(
    plan: TwoMarkerPlan,
    over_questions: Resampled,
    adapters: Estimate,
    *,
    null: float = 0.0,
    needs: Resampled | None = None,
) -> Finding:
    """A comparison with what decides on it; ``null`` is the difference that p is against.

    Where neither questions nor adapters vary there is no interval over both, and p is that over questions: 1 where
    every share is the same (also against a null other than 0, of which ``over_both`` has none), and none otherwise.
    """
    found = over_questions.estimate
    both = over_both(
        found.name, found, adapters, level=plan.level, null=null, enough=plan.least_cells,
        questions_error=over_questions.error,
    )  # fmt: skip
    if both.estimate is not None and not over_questions.reliable:
        # Without the questions' part of the variance an interval would claim too much.
        both = replace(both, ci_low=None, ci_high=None, ci_level=None, p=None)
    elif both.estimate is not None and both.ci_low is None:
        both = replace(both, p=found.p)
    return Finding(over_questions, adapters, both, needs)


def too_few(floors: Floors, sides: Sequence[Side]) -> str:
    """Why ratios rest on too little; empty where they do not."""
    if any(side.below < floors.completions for side in sides):
        return "a side of the comparison rests on too few completions"
    if any(side.questions < floors.questions for side in sides):
        return "a side of the comparison rests on too few questions"
    return ""


def supported(plan: TwoMarkerPlan, hypothesis: Hypothesis, found: Finding, p: float | None) -> tuple[str, str]:
    """The verdict and what it hangs on; ``p`` is that over both, adjusted for the family of tests."""
    if open_for := _too_little(plan, found):
        return "undecided", open_for
    if decide(replace(hypothesis, max_p=None), found.estimate) != "supported":
        high = found.both.ci_high
        out = high is not None and high < hypothesis.threshold
        return "not supported", "excluded by the interval over both" if out else "its value is not beyond the threshold"
    if p is None:
        return "undecided", found.both.undefined or "neither questions nor adapters vary"
    if decide(hypothesis, replace(found.both, p=p)) != "supported":
        return "not supported", "not certain over questions and adapters"
    return _by_need(found.needs) or ("supported", "questions and adapters")


def _too_little(plan: TwoMarkerPlan, found: Finding) -> str:
    """Why nothing can be decided, whatever p is; empty where it can."""
    if found.estimate.undefined:
        return found.estimate.undefined
    if few := too_few(plan.floors, found.over_questions.sides):
        return few
    # Without an interval over questions they would add no variance.
    return "" if found.over_questions.reliable else "too many resamples of questions are undefined"


def _by_need(needs: Resampled | None) -> tuple[str, str] | None:
    """What is held against a hypothesis that asks for B to come more often with A than without; None where nothing."""
    if needs is None or (needs.reliable and needs.low > 0):
        return None
    if not needs.reliable:
        return "undecided", "whether B comes more often with A than without is not known"
    return "not supported", "B is not shown to come more often with A than without"


def verdict_rows(
    plan: TwoMarkerPlan, findings: Mapping[str, Finding], others: Mapping[str, Estimate]
) -> Iterator[dict[str, object]]:
    """A row of ``verdicts.verdict_row`` for each hypothesis that has its statistic, and what its verdict hangs on.

    p is that over both of a comparison of arms. Adds p_holm (p adjusted for all hypotheses over arms), both_low and
    both_high (see ``over_both``), adapters_low and adapters_high (see ``over_cells``), cells and reason. ``others``:
    statistics that are no comparison of arms, which their threshold alone decides.
    """
    family = [h for h in plan.hypotheses if h.max_p is not None and h.statistic in findings]
    adjusted = holm({h.name: findings[h.statistic].both.p for h in family}) if family else {}
    for hypothesis in plan.hypotheses:
        nothing: dict[str, object] = dict.fromkeys(("p_holm", *BOUNDS, "cells"))
        if hypothesis.statistic in others:
            estimate = others[hypothesis.statistic]
            row = verdict_row(hypothesis, estimate, plan.digest)
            yield row | nothing | {"reason": estimate.undefined or "its threshold"}
        elif hypothesis.statistic in findings:
            found = findings[hypothesis.statistic]
            p = adjusted[hypothesis.name]
            verdict, reason = supported(plan, hypothesis, found, p)
            estimate = replace(found.estimate, p=found.both.p)
            row = verdict_row(hypothesis, estimate, plan.digest) | {"verdict": verdict}
            ends = (found.both.ci_low, found.both.ci_high, found.adapters.ci_low, found.adapters.ci_high)
            bounds = dict(zip(BOUNDS, ends, strict=True))
            yield row | {"p_holm": p, **bounds, "cells": found.adapters.n, "reason": reason}


def verdict_frame(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Rows of verdicts as a table, with its types also where a column is all empty."""
    numbers = ("estimate", "p", "p_holm", *BOUNDS, "threshold", "max_p")
    types = dict.fromkeys(numbers, pl.Float64()) | {"cells": pl.Int64(), "reason": pl.String()}
    return pl.DataFrame(rows, schema_overrides=types, infer_schema_length=None)
