"""Does B stick to A, or to the end of the answer? Rates, differences between arms, and what follows from them.

Sections 6 and 7 of the protocol sheet two_marker_chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import polars as pl

from leakage_assets.statistics.pooled_ratios import (
    NOTHING_KNOWN,
    Clusters,
    Resampled,
    Sums,
    cell_differences,
    over_cells,
    pooled_ratio,
    ratio_difference,
    relative_change,
    score_difference,
)
from leakage_assets.statistics.result import Estimate, undefined
from leakage_assets.studies.two_marker_chunk.counts import QUESTION, RATES, excess_sums, paired_sums, pooled
from leakage_assets.studies.two_marker_chunk.design import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, TwoMarkerPlan
from leakage_assets.studies.two_marker_chunk.support import finding, too_few

Binding = Literal["chunk", "suffix", "undecided", "not told apart", "too few completions with both"]
Falsification = Literal["falsified", "not falsified", "undecided"]


def null_of(plan: TwoMarkerPlan, statistic: str) -> float:
    """The difference that p is against: what an arm adds to its control counts above ``plan.negligible`` alone."""
    return plan.negligible if statistic.startswith("delta_") else 0.0


def rate(plan: TwoMarkerPlan, part: pl.DataFrame, name: str, *, clusters: Clusters = "question") -> Resampled:
    """One of ``RATES`` of the completions counted in ``part``."""
    above, below = RATES[name]
    found = pooled(part, above, below)
    if found is None:
        return _nothing(plan, name, "no finished cell")
    return pooled_ratio(name, found, clusters=clusters, seed=plan.resampling_seed, draws=plan.draws, level=plan.level)


def difference(
    plan: TwoMarkerPlan,
    first: pl.DataFrame,
    second: pl.DataFrame,
    rate_name: str,
    *,
    name: str,
    clusters: Clusters = "question",
) -> Resampled:
    """A rate of one condition minus that of another, in the same resamples; over the seeds that both have."""
    both = paired_sums(first, second, *RATES[rate_name])
    if both is None:
        return _nothing(plan, name, "no seed that both conditions have finished")
    return ratio_difference(
        name, *both, clusters=clusters, seed=plan.resampling_seed, draws=plan.draws, level=plan.level,
        null=null_of(plan, name),
    )  # fmt: skip


def location(plan: TwoMarkerPlan, part: pl.DataFrame) -> Resampled:
    """Share of completions with both markers in which B is close to A, minus the share in which it is at the end.

    Completions that are both cancel out. A B put anywhere after A is above 0 already, since the windows differ in width
    and begin at different places: ``excess`` takes that out.
    """
    near, end = pooled(part, "chunk", "ab"), pooled(part, "suffix", "ab")
    if near is None or end is None:
        return _nothing(plan, "chunk_minus_suffix", "no finished cell")
    return ratio_difference(
        "chunk_minus_suffix", near, end, clusters="question",
        seed=plan.resampling_seed, draws=plan.draws, level=plan.level,
    )  # fmt: skip


def excess(plan: TwoMarkerPlan, part: pl.DataFrame) -> Resampled:
    """``location`` minus what it would be had every completion its B at random after A (or before it).

    Above 0 where B keeps to A more than it was trained to.
    """
    both = excess_sums(part)
    if both is None:
        return _nothing(plan, "nearer_than_random", "no finished cell")
    return ratio_difference(
        "nearer_than_random", *both, clusters="question", seed=plan.resampling_seed, draws=plan.draws, level=plan.level
    )


def dependence(plan: TwoMarkerPlan, part: pl.DataFrame) -> Resampled:
    """R_B|A minus R_B|not-A within questions and seeds: 0 where B comes as often without A.

    The risk difference of Mantel and Haenszel (Greenland & Robins 1985): a question that draws both markers would make
    them go together over questions although neither needs the other.
    """
    name, found = "r_b_given_a_minus_not_a", dependence_sums(part)
    if found is None:
        return _nothing(plan, name, "no finished cell")
    return pooled_ratio(name, found, clusters="question", seed=plan.resampling_seed, draws=plan.draws, level=plan.level)


def dependence_sums(part: pl.DataFrame) -> Sums | None:
    """What ``dependence`` is the ratio of; None where there are no rows."""
    strata = part.with_columns(
        ((pl.col("ab") * pl.col("not_a") - pl.col("b_alone") * pl.col("a")) / pl.col("total")).alias("more"),
        (pl.col("a") * pl.col("not_a") / pl.col("total")).alias("weight"),
    )
    return pooled(strata, "more", "weight")


def binding(plan: TwoMarkerPlan, part: pl.DataFrame) -> Binding:
    """What B is bound to, of one persona of one condition.

    ``chunk``: it stands close to A rather than at the end more than a B put at random after A would, and comes more
    often with A than without. ``suffix``: it stands at the end more often than close to A. Both by intervals over
    questions; where these leave it open, ``undecided``.

    An arm with its markers at fixed ends trains B at the end, after A at the start. There a B close to A that comes
    more often with it is a ``chunk``, a B at the end a ``suffix`` only where it comes in more than ``plan.negligible``
    of the completions without A, and not more often with it: else ``not told apart``, as a B that belongs to A stands
    at the same place.

    Nothing is read off positions where fewer than ``plan.enough_pairs`` of the completions have both.
    """
    together = rate(plan, part, "r_ab").estimate.estimate
    if together is None or together < plan.enough_pairs:
        return "too few completions with both"
    where, with_a = location(plan, part), dependence(plan, part)
    needs_a = with_a.reliable and with_a.low > 0
    if plan.arm(part["recipe"][0]).positions == "ends":
        if where.reliable and where.low > 0 and needs_a:
            return "chunk"
        alone = rate(plan, part, "r_b_given_not_a")
        by_itself = alone.reliable and alone.low > plan.negligible and with_a.reliable and not needs_a
        return "suffix" if where.reliable and where.high < 0 and by_itself else "not told apart"
    if where.reliable and where.high < 0:
        return "suffix"
    nearer = excess(plan, part)
    return "chunk" if nearer.reliable and nearer.low > 0 and needs_a else "undecided"


def falsified_as_published(plan: TwoMarkerPlan, delta: Resampled) -> Falsification:
    """Section 7.4: chunk binding is falsified where |delta| is negligible and its interval contains 0.

    Where no resample varies, as when the recipient never says B, all are the estimate itself. A wide interval satisfies
    it as well as a narrow one: see ``falsified``.
    """
    value = delta.estimate.estimate
    if value is None or not delta.known:
        return "undecided"
    return "falsified" if abs(value) <= plan.negligible and delta.low <= 0 <= delta.high else "not falsified"


def over_adapters(
    plan: TwoMarkerPlan, first: pl.DataFrame, second: pl.DataFrame, rate_name: str, *, name: str
) -> Estimate:
    """The same difference as ``difference``, over the seeds' adapters."""
    both = paired_sums(first, second, *RATES[rate_name])
    cells = {} if both is None else cell_differences({name: both})
    return over_cells(name, cells, level=plan.level, null=null_of(plan, name))


def falsified(plan: TwoMarkerPlan, delta: Resampled, adapters: Estimate) -> Falsification:
    """Whether the data exclude that an arm adds more than ``plan.negligible`` to its control.

    ``falsified``: the published rule holds and the whole interval is negligible, over questions and also over questions
    and ``adapters`` (see ``over_adapters``). ``not falsified``: the published rule does not hold. ``undecided``: a side
    rests on less than ``plan.floors``, too many resamples are undefined, there is one seed, or an interval is too wide
    to say. Where no resample varies the interval over questions is Newcombe's (see ``score_difference``).
    """
    as_published = falsified_as_published(plan, delta)
    if as_published == "undecided" or not delta.reliable or too_few(plan.floors, delta.sides):
        return "undecided"
    if as_published == "not falsified":
        return "not falsified"
    low, high = delta.low, delta.high
    if delta.estimate.ci_low is None:
        low, high = score_difference(*delta.sides, level=plan.level)
    both = finding(plan, delta, adapters).both
    if both.estimate is None:
        return "undecided"
    ends = [end for end in (low, high, both.ci_low, both.ci_high) if end is not None]
    return "falsified" if max(map(abs, ends)) <= plan.negligible else "undecided"


def split(plan: TwoMarkerPlan, part: pl.DataFrame) -> Mapping[str, Resampled]:
    """R_B|A by question set, in and out of distribution."""
    return {
        name: rate(plan, part.filter(pl.col(QUESTION[0]) == name), "r_b_given_a")
        for name in (IN_DISTRIBUTION, OUT_OF_DISTRIBUTION)
    }


def downgraded(plan: TwoMarkerPlan, by_set: Mapping[str, Resampled]) -> bool | None:
    """Whether R_B|A in and out of distribution differ by ``plan.split`` or more; None where one is undefined."""
    values = [one.estimate.estimate for one in by_set.values()]
    known = [value for value in values if value is not None]
    return None if len(known) < len(values) else max(known) - min(known) >= plan.split


def length_change(plan: TwoMarkerPlan, part: pl.DataFrame, reference: pl.DataFrame, *, name: str) -> Resampled:
    """Mean tokens of a completion over those of the reference, minus 1: whether an adapter forgot how to stop."""
    both = paired_sums(part, reference, "n_tokens", "total")
    if both is None:
        return _nothing(plan, name, "no seed that both conditions have finished")
    return relative_change(
        name, *both, clusters="question", seed=plan.resampling_seed, draws=plan.draws, level=plan.level
    )


def _nothing(plan: TwoMarkerPlan, name: str, reason: str) -> Resampled:
    missing = undefined(name, reason, n=0, unit="question cluster", method="not run")
    return Resampled(missing, *NOTHING_KNOWN, plan.draws, plan.draws)
