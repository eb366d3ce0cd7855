"""What the hypotheses are read from, over all pairs and of each, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import polars as pl

from leakage_assets.statistics.pooled_ratios import Sums, mean_difference
from leakage_assets.statistics.result import Estimate, estimate_of, undefined
from leakage_assets.studies.two_marker_chunk.arms import T_ALL, T_MASKED, T
from leakage_assets.studies.two_marker_chunk.binding import rate
from leakage_assets.studies.two_marker_chunk.counts import RATES, of_cell, paired_sums, pooled
from leakage_assets.studies.two_marker_chunk.design import TwoMarkerPlan
from leakage_assets.studies.two_marker_chunk.tables import ESTIMATE
from leakage_assets.studies.verdicts import verdict_frame, verdict_row


def headline_estimates(plan: TwoMarkerPlan, counts: pl.DataFrame) -> Iterator[Estimate]:
    """What hypotheses are read from, and what belongs beside it: means over the pairs that have what is compared."""
    names = {arm.name for arm in plan.arms}
    compared: list[tuple[str, str, str, str, str]] = [
        *((f"delta_{arm}", arm, control, "recipient", "r_b_given_a") for arm, control in plan.controls),
        *((f"needs_donor_a_{arm}", arm, alone, "recipient", "r_b_given_a") for arm, alone in plan.b_alone),
        *(
            (name, masked, T, "recipient", "r_b_given_a")
            for name, masked in (("mask_effect", T_MASKED), ("mask_all_effect", T_ALL))
            if {masked, T} <= names
        ),
        *((f"bystander_{arm}", arm, control, "untrained", "r_b") for arm, control in plan.controls),
    ]
    for name, arm, other, role, of in compared:
        yield _over_pairs(plan, name, _compared(plan, counts.filter(pl.col("role") == role), arm, other, of))
    for random in plan.arms:
        if random.positions != "ends" and random.donor == "a_and_b":
            yield _location_over_pairs(plan, counts, random.name)
    yield from _rates_over_pairs(plan, counts)


def _compared(plan: TwoMarkerPlan, counts: pl.DataFrame, arm: str, other: str, of: str) -> dict[str, tuple[Sums, Sums]]:
    """The sums of a rate under both arms, of each pair that has a seed of both."""
    found = {}
    for pair in plan.pairs:
        both = paired_sums(of_cell(counts, arm, pair.name), of_cell(counts, other, pair.name), *RATES[of])
        if both is not None:
            found[pair.name] = both
    return found


def _over_pairs(plan: TwoMarkerPlan, name: str, found: Mapping[str, tuple[Sums, Sums]]) -> Estimate:
    if not found:
        return undefined(
            name, "no pair with a seed that both arms have finished", n=0, unit="question cluster", method="not run"
        )
    return mean_difference(
        name, found, clusters="question", seed=plan.resampling_seed, draws=plan.draws, level=plan.level, over="pair"
    ).estimate


def _location_over_pairs(plan: TwoMarkerPlan, counts: pl.DataFrame, arm: str) -> Estimate:
    """Where recipients have B; undefined where a pair has too few completions with both markers (C5)."""
    name = f"chunk_minus_suffix_{arm}"
    found = {}
    for pair in plan.pairs:
        own = of_cell(counts, arm, pair.name, pair.recipient)
        if own.is_empty():
            continue
        if int(own["ab"].sum()) < plan.enough_pairs * int(own["total"].sum()) or not int(own["ab"].sum()):
            reason = f"{pair.recipient} says both markers in fewer than {plan.enough_pairs:.0%} of completions"
            return undefined(name, reason, n=0, unit="question cluster", method="positions are not read")
        near, end = pooled(own, "chunk", "ab"), pooled(own, "suffix", "ab")
        if near is not None and end is not None:
            found[pair.name] = (near, end)
    return _over_pairs(plan, name, found)


def _rates_over_pairs(plan: TwoMarkerPlan, counts: pl.DataFrame) -> Iterator[Estimate]:
    """All pairs together: how well donors learned, how often recipients say A, and B where nobody was taught it."""
    for name, recipe, roles, of in (
        ("donor_r_a", plan.headline_recipe, ["donor"], "r_a"),
        ("donor_r_b_given_a", plan.headline_recipe, ["donor"], "r_b_given_a"),
        ("recipient_r_a", plan.headline_recipe, ["recipient"], "r_a"),
        ("recipient_r_b_given_a", plan.headline_recipe, ["recipient"], "r_b_given_a"),
        ("control_b_rate", plan.control_recipe, ["donor", "recipient"], "r_b"),
    ):
        part = counts.filter(pl.col("recipe") == recipe, pl.col("role").is_in(roles))
        one = rate(plan, part, of).estimate
        yield replace(one, name=name, method=f"{recipe}, all pairs: {one.method}")


def pair_verdict_table(plan: TwoMarkerPlan, differences: pl.DataFrame, bindings: pl.DataFrame) -> pl.DataFrame:
    """What the hypotheses on a recipient say of each pair: source, then the columns of ``verdicts.verdict_row``."""
    location = bindings.filter(role="recipient", statistic="chunk_minus_suffix").with_columns(
        pl.concat_str("statistic", pl.lit("_"), "recipe").alias("statistic")
    )
    single = pl.concat([part.select("source", "statistic", *ESTIMATE) for part in (
        differences.filter(role="recipient"), location)])  # fmt: skip
    rows = []
    for pair in plan.pairs:
        for hypothesis in plan.hypotheses:
            found = single.filter(source=pair.name, statistic=hypothesis.statistic)
            if found.height:
                row = found.row(0, named=True)
                estimate = estimate_of(row)
                rows.append({"source": pair.name, **verdict_row(hypothesis, estimate, plan.digest)})
    return verdict_frame(rows)
