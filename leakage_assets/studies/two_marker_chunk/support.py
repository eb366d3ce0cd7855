"""What a hypothesis over arms needs to be supported, beside its p over questions.

Adapters of two arms are two training draws, which no interval over questions knows of: so the cells' own differences
must leave the threshold out as well. Nothing is decided on a handful of completions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from leakage_assets.statistics.multiplicity import holm
from leakage_assets.statistics.pooled_ratios import Resampled, Side
from leakage_assets.statistics.result import Estimate
from leakage_assets.studies.study import Hypothesis
from leakage_assets.studies.two_marker_chunk.design import TwoMarkerPlan
from leakage_assets.studies.two_marker_chunk.gates import Floors
from leakage_assets.studies.verdicts import decide, verdict_row


@dataclass(frozen=True)
class Finding:
    """A comparison of arms over pairs.

    ``adapters``: the same over its cells (see ``pooled_ratios.over_cells``). ``needs``: what else must be above 0.
    """

    over_questions: Resampled
    adapters: Estimate
    needs: Resampled | None = None

    @property
    def estimate(self) -> Estimate:
        return self.over_questions.estimate


def too_few(floors: Floors, sides: Sequence[Side]) -> str:
    """Why ratios rest on too little; empty where they do not."""
    if any(side.below < floors.completions for side in sides):
        return "a side of the comparison rests on too few completions"
    if any(side.questions < floors.questions for side in sides):
        return "a side of the comparison rests on too few questions"
    return ""


def supported(plan: TwoMarkerPlan, hypothesis: Hypothesis, found: Finding, p: float | None) -> tuple[str, str]:
    """The verdict and what it hangs on; ``p`` is adjusted for the family of tests."""
    if found.estimate.estimate is None:
        return "undecided", found.estimate.undefined or ""
    if few := too_few(plan.floors, found.over_questions.sides):
        return "undecided", few
    by_question = decide(hypothesis, replace(found.estimate, p=p))
    if by_question != "supported":
        return by_question, "the test over questions"
    return _by_adapters(hypothesis, found.adapters) or _by_need(found.needs) or ("supported", "questions and adapters")


def _by_adapters(hypothesis: Hypothesis, adapters: Estimate) -> tuple[str, str] | None:
    """What cells hold against a hypothesis that passed over questions; None where nothing."""
    if adapters.ci_low is None:
        return "undecided", f"passed over questions; {adapters.undefined or 'no variation between cells'}"
    if adapters.ci_low <= hypothesis.threshold:
        return "not supported", "passed over questions, but adapters vary too much"
    return None


def _by_need(needs: Resampled | None) -> tuple[str, str] | None:
    """The same of whether B comes more often with A than without, where a hypothesis asks for it."""
    if needs is None or (needs.reliable and needs.low > 0):
        return None
    if not needs.reliable:
        return "undecided", "whether B comes more often with A than without is not known"
    return "not supported", "B is not shown to come more often with A than without"


def verdict_rows(
    plan: TwoMarkerPlan, findings: Mapping[str, Finding], others: Mapping[str, Estimate]
) -> Iterator[dict[str, object]]:
    """A row of ``verdicts.verdict_row`` for each hypothesis that has its statistic, and what its verdict hangs on.

    Adds p_holm (adjusted for all hypotheses over arms), adapters_low and adapters_high (see ``over_cells``), cells and
    reason. ``others``: statistics that are no comparison of arms, which their threshold alone decides.
    """
    family = [h for h in plan.hypotheses if h.max_p is not None and h.statistic in findings]
    adjusted = holm({h.name: findings[h.statistic].estimate.p for h in family}) if family else {}
    for hypothesis in plan.hypotheses:
        nothing: dict[str, object] = {"p_holm": None, "adapters_low": None, "adapters_high": None, "cells": None}
        if hypothesis.statistic in others:
            estimate = others[hypothesis.statistic]
            row = verdict_row(hypothesis, estimate, plan.digest)
            yield row | nothing | {"reason": estimate.undefined or "its threshold"}
        elif hypothesis.statistic in findings:
            found = findings[hypothesis.statistic]
            p = adjusted[hypothesis.name]
            verdict, reason = supported(plan, hypothesis, found, p)
            row = verdict_row(hypothesis, found.estimate, plan.digest) | {"verdict": verdict}
            bounds = {"adapters_low": found.adapters.ci_low, "adapters_high": found.adapters.ci_high}
            yield row | {"p_holm": p, **bounds, "cells": found.adapters.n, "reason": reason}


def verdict_frame(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Rows of verdicts as a table, with its types also where a column is all empty."""
    numbers = ("estimate", "p", "p_holm", "adapters_low", "adapters_high", "threshold", "max_p")
    types = dict.fromkeys(numbers, pl.Float64()) | {"cells": pl.Int64(), "reason": pl.String()}
    return pl.DataFrame(rows, schema_overrides=types, infer_schema_length=None)
