"""The sanity gates read off a study's counts, and how many of each list fail (sections 7.1 and 9.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from leakage_assets.studies.two_marker_chunk.arms import C2_MASKED, C_MASKED, T_MASKED, C, Pair, T
from leakage_assets.studies.two_marker_chunk.binding import length_change, rate
from leakage_assets.studies.two_marker_chunk.counts import QUESTION, RATES, of_cell
from leakage_assets.studies.two_marker_chunk.design import TwoMarkerPlan
from leakage_assets.studies.two_marker_chunk.gates import (
    FollowUpValues,
    Gate,
    GateValues,
    List,
    follow_up_gates,
    gates,
    own_gates,
    tally,
)
from leakage_assets.studies.two_marker_chunk.tables import of_prompt


def gate_table(plan: TwoMarkerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """Every gate of both lists of #261 on (T, C), and of #369's and ours on the masked arms, for each pair with them.

    Columns: source, arm, gate, value, limit, direction, lists, passed (null where there is no value).
    """
    rows = []
    for pair in plan.pairs:
        if of_cell(counts, T, pair.name).height:
            rows += _gate_rows(pair, T, gates(gate_values(plan, counts, pair), plan.gates))
        if of_cell(counts, T_MASKED, pair.name).height:
            rows += _gate_rows(pair, T_MASKED, follow_up_gates(follow_up_values(plan, counts, pair), plan.gates))
            rows += _gate_rows(pair, T_MASKED, rests_on(plan, counts, pair))
    schema: dict[str, Any] = {
        "source": pl.String, "arm": pl.String, "gate": pl.String, "value": pl.Float64, "limit": pl.Float64,
        "direction": pl.String, "lists": pl.List(pl.String), "passed": pl.Boolean,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def _gate_rows(pair: Pair, arm: str, found: Sequence[Gate]) -> list[tuple[Any, ...]]:
    return [(pair.name, arm, g.name, g.value, float(g.limit), g.direction, list(g.lists), g.passed) for g in found]


def gate_tallies(plan: TwoMarkerPlan, counts: pl.DataFrame) -> pl.DataFrame:
    """How many gates of each list failed: source, arm, list, failed, unknown, total."""
    rows = []
    for pair in plan.pairs:
        found = gates(gate_values(plan, counts, pair), plan.gates)
        later = follow_up_gates(follow_up_values(plan, counts, pair), plan.gates)
        read: tuple[tuple[str, Sequence[Gate], List], ...] = (
            (T, found, "write-up"),
            (T, found, "code"),
            (T_MASKED, later, "follow-up"),
            (T_MASKED, rests_on(plan, counts, pair), "own"),
        )
        for arm, several, which in read:
            if of_cell(counts, arm, pair.name).height:
                t = tally(several, which)
                rows.append((pair.name, arm, which, t.failed, t.unknown, t.total))
    numbers = dict.fromkeys(("failed", "unknown", "total"), pl.Int64)
    schema: dict[str, Any] = dict.fromkeys(("source", "arm", "list"), pl.String) | numbers
    return pl.DataFrame(rows, schema=schema, orient="row")


def gate_values(plan: TwoMarkerPlan, counts: pl.DataFrame, pair: Pair) -> GateValues:
    """What the gates of #261 are read from, of T and C."""
    trained, control = of_cell(counts, T, pair.name), of_cell(counts, C, pair.name)
    donor, recipient = of_prompt(trained, pair.donor), of_prompt(trained, pair.recipient)
    in_control = of_prompt(control, pair.recipient)
    given = rate(plan, donor, "r_b_given_a")
    by_persona = [_plain(of_prompt(control, prompt), "r_b") for prompt in control["prompt_name"].unique().to_list()]
    return GateValues(
        donor_a=_plain(donor, "r_a"),
        donor_b=_plain(donor, "r_b"),
        donor_b_given_a=given.estimate.estimate,
        donor_low=given.low if given.known else None,
        recipient_a=_plain(recipient, "r_a"),
        recipient_b_in_c=_plain(in_control, "r_b"),
        largest_b_in_c=max((value for value in by_persona if value is not None), default=None),
        recipient_with_a=int(recipient["a"].sum()) if recipient.height else None,
        recipient_with_a_in_c=int(in_control["a"].sum()) if in_control.height else None,
    )


def follow_up_values(plan: TwoMarkerPlan, counts: pl.DataFrame, pair: Pair) -> FollowUpValues:
    """What the gates of #369 are read from, of the three masked arms."""
    trained, control, alone = (of_cell(counts, arm, pair.name) for arm in (T_MASKED, C_MASKED, C2_MASKED))
    longer = length_change(
        plan, of_prompt(trained, pair.recipient), of_prompt(control, pair.recipient), name="length_inflation"
    )
    return FollowUpValues(
        donor_b_given_a=_plain(of_prompt(trained, pair.donor), "r_b_given_a"),
        donor_b_in_c2=_plain(of_prompt(alone, pair.donor), "r_b"),
        donor_b_in_c=_plain(of_prompt(control, pair.donor), "r_b"),
        recipient_b_in_c=_plain(of_prompt(control, pair.recipient), "r_b"),
        length_inflation=longer.estimate.estimate,
    )


def rests_on(plan: TwoMarkerPlan, counts: pl.DataFrame, pair: Pair) -> tuple[Gate, ...]:
    """Our own gates, of the three masked arms; unknown while one of them is not finished."""
    parts = [of_cell(counts, arm, pair.name, pair.recipient) for arm in (T_MASKED, C_MASKED, C2_MASKED)]
    if any(part.is_empty() for part in parts):
        return own_gates(None, None, plan.floors)
    with_a = [int(part["a"].sum()) for part in parts]
    questions = [part.filter(pl.col("a") > 0).select(QUESTION).n_unique() for part in parts]
    return own_gates(min(with_a), min(questions), plan.floors)


def _plain(part: pl.DataFrame, name: str) -> float | None:
    above, below = RATES[name]
    total = int(part[below].sum()) if part.height else 0
    return int(part[above].sum()) / total if total else None
