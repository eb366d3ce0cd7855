"""What the hypotheses are read from, over all pairs and of each, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from leakage_assets.statistics.intervals import wilson_bounds
from leakage_assets.statistics.pooled_ratios import (
    NOTHING_KNOWN,
    Resampled,
    Sums,
    cell_differences,
    mean_difference,
    mean_ratio,
    over_cells,
)
from leakage_assets.statistics.result import Estimate, undefined
from leakage_assets.studies.two_marker_chunk.arms import T_ALL, T_MASKED, Pair, T
from leakage_assets.studies.two_marker_chunk.binding import dependence_sums, null_of
from leakage_assets.studies.two_marker_chunk.counts import (
    RATES,
    excess_sums,
    of_cell,
    paired_sums,
    pooled,
    shared_seeds,
)
from leakage_assets.studies.two_marker_chunk.design import TwoMarkerPlan
from leakage_assets.studies.two_marker_chunk.labels import ADAPTERS
from leakage_assets.studies.two_marker_chunk.support import Finding, finding, verdict_frame, verdict_rows

NOT_RUN, NOT_READ = "not run", "positions are not read"


@dataclass(frozen=True)
class Comparison:
    """Two ratios of one pair over the seeds that both have."""

    both: tuple[Sums, Sums]
    seeds: tuple[int, ...]


Compared = Mapping[str, Comparison]


def comparisons(plan: TwoMarkerPlan) -> Iterator[tuple[str, str, str]]:
    """Statistic, arm and the arm it is compared with: R_B|A of recipients."""
    names = {arm.name for arm in plan.arms}
    yield from ((f"delta_{arm}", arm, control) for arm, control in plan.controls)
    yield from ((f"needs_donor_a_{arm}", arm, alone) for arm, alone in plan.b_alone)
    for name, masked in (("mask_effect", T_MASKED), ("mask_all_effect", T_ALL)):
        if {masked, T} <= names:
            yield name, masked, T


def random_arms(plan: TwoMarkerPlan) -> list[str]:
    """The arms that put both markers anywhere."""
    return [arm.name for arm in plan.arms if arm.positions != "ends" and arm.donor == "a_and_b"]


def findings(plan: TwoMarkerPlan, counts: pl.DataFrame, pairs: Sequence[Pair]) -> dict[str, Finding]:
    """Every comparison of arms over the pairs that have it, by statistic; and where recipients have B."""
    recipients = counts.filter(pl.col("role") == "recipient")
    found = {}
    for name, arm, other in comparisons(plan):
        found[name] = _finding(plan, name, compared(pairs, recipients, arm, other, "r_b_given_a"))
    for arm in random_arms(plan):
        found[f"nearer_than_random_{arm}"] = _where_b_is(plan, counts, pairs, arm)
    return found


def compared(pairs: Sequence[Pair], counts: pl.DataFrame, arm: str, other: str, of: str) -> dict[str, Comparison]:
    """The sums of a rate under both arms, of each pair that has a seed of both."""
    found = {}
    for pair in pairs:
        one, two = of_cell(counts, arm, pair.name), of_cell(counts, other, pair.name)
        both = paired_sums(one, two, *RATES[of])
        if both is not None:
            found[pair.name] = Comparison(both, tuple(shared_seeds(one, two)))
    return found


def _finding(plan: TwoMarkerPlan, name: str, found: Compared, needs: Resampled | None = None) -> Finding:
    both = {label: one.both for label, one in found.items()}
    null = null_of(plan, name)
    adapters = over_cells(f"{name}{ADAPTERS}", cell_differences(both), level=plan.level, null=null)
    return finding(plan, _over_pairs(plan, name, both), adapters, null=null, needs=needs)


def _over_pairs(plan: TwoMarkerPlan, name: str, found: Mapping[str, tuple[Sums, Sums]]) -> Resampled:
    if not found:
        return _nothing(plan, name, "no pair with a seed that both arms have finished")
    return mean_difference(
        name, found, clusters="question", seed=plan.resampling_seed, draws=plan.draws, level=plan.level, over="pair",
        null=null_of(plan, name),
    )  # fmt: skip


def _nothing(plan: TwoMarkerPlan, name: str, reason: str, method: str = NOT_RUN) -> Resampled:
    missing = undefined(name, reason, n=0, unit="question cluster", method=method)
    return Resampled(missing, *NOTHING_KNOWN, plan.draws, plan.draws)


def _recipients(counts: pl.DataFrame, pairs: Sequence[Pair], arm: str) -> dict[Pair, pl.DataFrame]:
    parts = {pair: of_cell(counts, arm, pair.name, pair.recipient) for pair in pairs}
    return {pair: part for pair, part in parts.items() if part.height}


def rarely_both(plan: TwoMarkerPlan, part: pl.DataFrame) -> bool:
    """Whether too few completions have both markers for their positions to be read (C5)."""
    together = int(part["ab"].sum())
    return not together or together < plan.enough_pairs * int(part["total"].sum())


def _too_rare(plan: TwoMarkerPlan, parts: Mapping[Pair, pl.DataFrame]) -> str:
    """Which recipient has both markers too rarely for positions to be read (C5); empty where none."""
    rare = [pair.recipient for pair, own in parts.items() if rarely_both(plan, own)]
    return f"{rare[0]} says both markers in fewer than {plan.enough_pairs:.0%} of completions" if rare else ""


def _where_b_is(plan: TwoMarkerPlan, counts: pl.DataFrame, pairs: Sequence[Pair], arm: str) -> Finding:
    """Whether recipients keep B closer to A than chance; undefined where a pair has too few completions with both."""
    name, parts = f"nearer_than_random_{arm}", _recipients(counts, pairs, arm)
    within = {pair.name: strata for pair, own in parts.items() if (strata := dependence_sums(own)) is not None}
    needs = _mean(plan, f"needs_a_{arm}", within)
    if reason := _too_rare(plan, parts):
        lacking = _nothing(plan, name, reason, NOT_READ)
        return finding(plan, lacking, replace(lacking.estimate, name=f"{name}{ADAPTERS}", unit="cell"), needs=needs)
    return _finding(plan, name, _nearer(parts), needs)


def _nearer(parts: Mapping[Pair, pl.DataFrame]) -> dict[str, Comparison]:
    """Where B is, and where it would be at random."""
    found = {}
    for pair, own in parts.items():
        if (both := excess_sums(own)) is not None:
            found[pair.name] = Comparison(both, tuple(shared_seeds(own)))
    return found


def _mean(plan: TwoMarkerPlan, name: str, of: Mapping[str, Sums]) -> Resampled:
    if not of:
        return _nothing(plan, name, "no pair with a finished cell")
    return mean_ratio(name, of, seed=plan.resampling_seed, draws=plan.draws, level=plan.level, over="pair")


# ------------------------------------------------------------------ the headline


@dataclass(frozen=True)
class Headline:
    """What hypotheses are read from (``findings``), and what belongs beside it (``others``)."""

    findings: Mapping[str, Finding]
    others: Mapping[str, Estimate]

    def estimates(self) -> Iterator[Estimate]:
        """All of them, each once."""
        for found in self.findings.values():
            yield found.estimate
            yield found.adapters
            if found.needs is not None:
                yield found.needs.estimate
        yield from self.others.values()


def headline(plan: TwoMarkerPlan, counts: pl.DataFrame) -> Headline:
    """Means over the pairs that have what is compared."""
    found = findings(plan, counts, plan.pairs)
    return Headline(found, {e.name: e for e in _beside(plan, counts)})


def _beside(plan: TwoMarkerPlan, counts: pl.DataFrame) -> Iterator[Estimate]:
    """Bystanders, positions as they are, and rates of donors, recipients and whoever was not taught B."""
    untrained = counts.filter(pl.col("role") == "untrained")
    for arm, control in plan.controls:
        found = compared(plan.pairs, untrained, arm, control, "r_b")
        name = f"bystander_{arm}"
        yield _over_pairs(plan, name, {label: one.both for label, one in found.items()}).estimate
    for arm in random_arms(plan):
        parts = _recipients(counts, plan.pairs, arm)
        if reason := _too_rare(plan, parts):
            yield _nothing(plan, f"chunk_minus_suffix_{arm}", reason, NOT_READ).estimate
        else:
            raw = {label: one.both[0] for label, one in _nearer(parts).items()}
            yield _mean(plan, f"chunk_minus_suffix_{arm}", raw).estimate
    yield from _rates_over_pairs(plan, counts)
    yield from _without_a(plan, counts)
    for _, alone in plan.b_alone:
        yield _largest(plan, f"b_given_a_upper_{alone}", counts, alone, ("recipient",), "r_b_given_a")
    roles = ("donor", "recipient")
    yield _of_everyone(plan, counts, _largest(plan, "control_b_upper", counts, plan.control_recipe, roles, "r_b"))


def _of_everyone(plan: TwoMarkerPlan, counts: pl.DataFrame, found: Estimate) -> Estimate:
    """The largest bound of the control where every pair is finished, or one already refutes what is said of all."""
    waiting = [p.name for p in plan.pairs if counts.filter(recipe=plan.control_recipe, source=p.name).is_empty()]
    limit = next(h.threshold for h in plan.hypotheses if h.statistic == found.name)
    if not waiting or found.estimate is None or found.estimate >= limit:
        return found
    reason = f"the control of {waiting[0]} is not finished: nothing is said of every donor and recipient"
    return undefined(found.name, reason, n=found.n, unit=found.unit, method=found.method)


def _without_a(plan: TwoMarkerPlan, counts: pl.DataFrame) -> Iterator[Estimate]:
    """Whether recipients of the headline arm say B without A: within questions, and as often as it may be at most."""
    parts = _recipients(counts, plan.pairs, plan.headline_recipe)
    within = {pair.name: strata for pair, own in parts.items() if (strata := dependence_sums(own)) is not None}
    yield _mean(plan, f"needs_a_{plan.headline_recipe}", within).estimate
    yield _largest(plan, "b_without_a_upper", counts, plan.headline_recipe, ("recipient",), "r_b_given_not_a")


def _rates_over_pairs(plan: TwoMarkerPlan, counts: pl.DataFrame) -> Iterator[Estimate]:
    """How well donors learned, how often recipients say A and B, and B where nobody was taught it; pairs count alike.

    Recipients' B given A is of the pairs and seeds that ``delta`` of the headline arm compares: it is what that is the
    difference of.
    """
    recipients = counts.filter(pl.col("role") == "recipient")
    delta = compared(plan.pairs, recipients, plan.headline_recipe, plan.control_recipe, "r_b_given_a")
    for name, recipe, roles, of in (
        ("donor_r_a", plan.headline_recipe, ["donor"], "r_a"),
        ("donor_r_b_given_a", plan.headline_recipe, ["donor"], "r_b_given_a"),
        ("recipient_r_a", plan.headline_recipe, ["recipient"], "r_a"),
        ("recipient_r_b_given_a", plan.headline_recipe, ["recipient"], "r_b_given_a"),
        ("recipient_r_b_given_not_a", plan.headline_recipe, ["recipient"], "r_b_given_not_a"),
        ("control_b_rate", plan.control_recipe, ["donor", "recipient"], "r_b"),
    ):
        part = counts.filter(pl.col("recipe") == recipe, pl.col("role").is_in(roles))
        by_pair = {pair.name: pooled(part.filter(pl.col("source") == pair.name), *RATES[of]) for pair in plan.pairs}
        sums = {label: one for label, one in by_pair.items() if one is not None}
        if name == "recipient_r_b_given_a" and delta:
            sums = {label: one.both[0] for label, one in delta.items()}
        one = _mean(plan, name, sums).estimate
        yield replace(one, method=f"{recipe}: {one.method}")


def _largest(
    plan: TwoMarkerPlan, name: str, counts: pl.DataFrame, recipe: str, roles: Sequence[str], of: str
) -> Estimate:
    """The largest upper bound of a rate over pairs and roles: a mean would hide one that is high.

    The upper Wilson bound (completions taken as independent), or that over questions where it is higher.
    """
    above, below = RATES[of]
    method = f"{recipe}: largest upper bound of the pairs and roles, Wilson's or over questions, level {plan.level:g}"
    uppers, totals = [], []
    for pair in plan.pairs:
        for role in roles:
            part = counts.filter(recipe=recipe, source=pair.name, role=role)
            sums = pooled(part, above, below)
            if sums is None:
                continue
            found, total = float(sums.above.sum()), float(sums.below.sum())
            if not total:
                reason = f"{role} of {pair.name} has nothing below the line"
                return undefined(name, reason, n=0, unit="completion", method=method)
            over_questions = _mean(plan, name, {pair.name: sums})
            wilson = float(wilson_bounds([found], [total], level=plan.level)[1][0])
            uppers.append(max(wilson, over_questions.high if over_questions.reliable else 1.0))
            totals.append(int(total))
    if not uppers:
        return undefined(name, "no finished cell", n=0, unit="completion", method=NOT_RUN)
    return Estimate(name, max(uppers), None, None, None, None, min(totals), "completion", method)


# ------------------------------------------------------------------ tables


def verdict_table(plan: TwoMarkerPlan, found: Headline) -> pl.DataFrame:
    """Each hypothesis of the plan with its verdict (see ``support``); an undefined statistic decides nothing."""
    return verdict_frame(list(verdict_rows(plan, found.findings, found.others)))


def pair_verdict_table(plan: TwoMarkerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """What the hypotheses over arms say of each pair by itself: source, then those of ``support.verdict_rows``."""
    rows = [
        {"source": pair.name, **row}
        for pair in plan.pairs
        for row in verdict_rows(plan, findings(plan, counts, (pair,)), {})
    ]
    return verdict_frame(rows)


def cell_table(plan: TwoMarkerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """The difference of every cell that the t intervals are made of: statistic, source, seed, difference (or null)."""
    recipients = counts.filter(pl.col("role") == "recipient")
    rows = []
    for name, arm, other in comparisons(plan):
        rows += _cells(name, compared(plan.pairs, recipients, arm, other, "r_b_given_a"))
    for arm in random_arms(plan):
        parts = {pair: own for pair, own in _recipients(counts, plan.pairs, arm).items() if not rarely_both(plan, own)}
        rows += _cells(f"nearer_than_random_{arm}", _nearer(parts))
    schema = {"statistic": pl.String(), "source": pl.String(), "seed": pl.Int64(), "difference": pl.Float64()}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _cells(name: str, found: Compared) -> list[tuple[str, str, int, float | None]]:
    values = cell_differences({label: one.both for label, one in found.items()})
    return [(name, label, found[label].seeds[place], value) for (label, place), value in values.items()]
