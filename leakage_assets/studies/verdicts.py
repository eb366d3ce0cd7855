"""What follows from a frozen hypothesis and the estimate it names."""

from __future__ import annotations

from leakage_assets.statistics.result import Estimate
from leakage_assets.studies.study import Hypothesis


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
