"""Section Verdicts of a report: the frozen plan's hypotheses and the headline statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from leakage_assets.reporting.report import Block, Column, Paragraph, Table
from leakage_assets.studies.citations import POINTS, RATE, Citations, Row

DIRECTIONS = {"greater": "above", "at_least": "at least", "less": "below", "at_most": "at most"}
BY_PERMUTATION = "by permutation: at least one over the number of permutations and one"


def plan_verdicts(cite: Citations, *, p: str = BY_PERMUTATION, also: str = "") -> Iterator[Block]:
    """The hypotheses with their verdicts, and every headline statistic; ``p`` explains how its column came about, and
    ``also`` what a verdict needs besides its rule.
    """
    digest = cite.tables["verdicts"]["plan_digest"][0]
    stored, scored = cite.fact("plan", "stored"), cite.fact("plan", "first_scores")
    order = (
        f"was stored at {stored} (UTC), before the first scores of the study ({scored})"
        if cite.facts["plan"]["came_first"]
        else f"was stored at {stored} (UTC), **after** the first scores of the study ({scored}): it may have "
        "been written with the data in sight"
    )
    yield Paragraph(
        f"The plan with digest `{digest}` {order}. A verdict follows from the plan's threshold and nothing else; a "
        f"statistic that is not defined decides nothing.{also and f' {also}'}"
    )
    columns = [
        Column("hypothesis", ""),
        Column("claim", "claim"),
        Column("statistic", "statistic"),
        Column("rule", "rule"),
        Column("estimate", "estimate"),
        Column("p", "p"),
        Column("verdict", "verdict"),
    ]
    rows = [_verdict_row(cite, row) for row in cite.tables["verdicts"].iter_rows(named=True)]
    if cite.facts["plan"]["changes"]:
        yield Paragraph(plan_changed(cite))
    yield Table("The plan's hypotheses.", tuple(columns), tuple(rows))
    yield _headline_table(cite, p)
    defined = cite.tables["headline"].drop_nulls("estimate")["statistic"]
    if not defined.len():
        return
    yield Table(
        "How each of them is computed.",
        (Column("label", "statistic"), Column("method", "method")),
        tuple(
            {"label": cite.labels[name][0], "method": cite.bound("headline", "method", "", statistic=name)}
            for name in defined
        ),
    )


def plan_changed(cite: Citations) -> str:
    """What follows from more than one plan having been stored."""
    times = "time" if cite.facts["plan"]["changes"] == 1 else "times"
    return (
        f"The plan was changed {cite.fact('plan', 'changes')} {times}; results seen before the current plan cannot "
        "count as confirmation."
    )


def _verdict_row(cite: Citations, row: Mapping[str, Any]) -> Row:
    name = {"hypothesis": row["hypothesis"]}
    label, spec = cite.labels[row["statistic"]]
    return {
        "hypothesis": cite.bound("verdicts", "hypothesis", "", **name),
        "claim": cite.bound("verdicts", "claim", "", **name),
        "statistic": label,
        "rule": rule_in_words(cite, row),
        "estimate": cite.bound("verdicts", "estimate", spec, **name),
        "p": cite.bound("verdicts", "p", "p", **name),
        "verdict": cite.bound("verdicts", "verdict", "", **name),
    }


def _headline_table(cite: Citations, p: str) -> Table:
    columns = [
        Column("label", "statistic"),
        Column("status", "status", explanation="planned: decides a hypothesis of the plan; exploratory: none names it"),
        Column("estimate", "estimate"),
        Column("ci_low", "low", explanation="lower end of the interval"),
        Column("ci_high", "high", explanation="upper end of the interval"),
        Column("p", "p", explanation=p),
        Column("n", "n"),
        Column("unit", "counts", explanation="what n counts: the unit that varies independently"),
        Column("undefined", "why not defined"),
    ]
    rows = []
    for name in cite.tables["headline"]["statistic"]:
        label, spec = cite.labels[name]
        numbers = {"estimate": spec, "ci_low": spec, "ci_high": spec, "p": "p", "n": "d"}
        specs = {"status": "", **numbers, "unit": "", "undefined": ""}
        bound: Row = {key: cite.bound("headline", key, form, statistic=name) for key, form in specs.items()}
        rows.append(bound | {"label": label})
    return Table(f"Headline statistics of recipe `{cite.recipe}`.", tuple(columns), tuple(rows))


def rule_in_words(cite: Citations, row: Mapping[str, Any]) -> str:
    """The plan's threshold in words."""
    name = {"hypothesis": row["hypothesis"]}
    printed = cite.labels[row["statistic"]][1]
    spec = ".2g"
    if printed == RATE:
        spec = ".0%"
    elif row["threshold"] and (printed == POINTS or printed.endswith("%")):  # a change of nothing is "0"
        spec = POINTS if printed == POINTS else ".0%"
    rule = f"{DIRECTIONS[row['direction']]} {cite.cell('verdicts', 'threshold', spec, **name)}"
    if row["max_p"] is None:
        return rule
    return f"{rule} with p below {cite.cell('verdicts', 'max_p', '.2g', **name)}"
