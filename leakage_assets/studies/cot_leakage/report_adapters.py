"""Sections of the report of chain-of-thought leakage on what another training, or another reading, would change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from leakage_assets.reporting.report import Block, Column, Paragraph, Table
from leakage_assets.studies.citations import POINTS, Citations, Row
from leakage_assets.studies.cot_leakage.design import CONTRASTS, EQUIVALENCE, HEADLINE_FAMILY, SOURCE_LOSS, Contrast
from leakage_assets.studies.cot_leakage.figures import ARM_NAMES, AXIS_NAMES, SCAFFOLD_NAMES
from leakage_assets.studies.cot_leakage.labels import DIFFERENCE, SHARE, source_name, words
from leakage_assets.studies.cot_leakage.plan import CotPlan

INTERVAL = ("estimate", "ci_low", "ci_high")


def side(cite: Citations, statistic: str) -> int:
    """On which side of zero a planned contrast lies, for other questions and adapters alike: 1, -1, or 0 where its
    adjusted p is not below the plan's level. The side that a hypothesis claims is this one exactly where its verdict is
    "supported".
    """
    alpha = cite.study.plan_as(CotPlan).decisions.alpha
    estimate, p = cite.tables["headline"].filter(statistic=statistic).select("estimate", "p").row(0)
    if p is None or p >= alpha or not estimate:
        return 0
    return 1 if estimate > 0 else -1


def collapsed_of(cite: Citations, statistic: str) -> int:
    """How many adapters of a planned contrast's arms have collapsed."""
    rows = cite.tables["readings"].filter(reading="planned", statistic=statistic)
    return int(rows["collapsed"].item()) if rows.height else 0


def comparable(cite: Citations, statistic: str) -> bool:
    """Whether a planned contrast has pairs of adapters enough of which neither has collapsed (``least_left``)."""
    if not collapsed_of(cite, statistic):
        return True
    left = cite.tables["readings"].filter(reading=WITHOUT, statistic=statistic)
    return bool(left.height and left["pairs"].item() >= cite.study.plan_as(CotPlan).decisions.least_left)


def collapsed_arm(cite: Citations, contrast: Contrast) -> str:
    """In words, how much of the arm of a contrast that collapsed most has, and into what."""
    table = cite.tables["collapse_by_arm"].filter(pl.col("arm").is_in([contrast.first, contrast.second]))
    worst = table.sort(pl.col("collapsed") / pl.col("adapters"), descending=True, maintain_order=True).row(
        0, named=True
    )
    return f"{of_arm(cite, worst['arm'])} trained on {ARM_NAMES[worst['arm']]} have collapsed{_onto(worst)}"


def of_arm(cite: Citations, arm: str) -> str:
    """How many adapters of an arm have collapsed, of how many."""
    found, total = (cite.cell("collapse_by_arm", key, "d", arm=arm) for key in ("collapsed", "adapters"))
    row = cite.tables["collapse_by_arm"].filter(arm=arm).row(0, named=True)
    return f"all {total} adapters" if row["collapsed"] == row["adapters"] else f"{found} of {total} adapters"


def _onto(row: Mapping[str, int]) -> str:
    return " onto one letter" if row["one_letter"] == row["collapsed"] else ""


def without_collapsed(cite: Citations, statistic: str) -> str:
    """What a planned contrast is without collapsed adapters, or that too few pairs are left."""
    where = {"reading": WITHOUT, "statistic": statistic}
    left = cite.tables["readings"].filter(**where)
    if not left.height:
        return "without them no pair of adapters is left"
    pairs = cite.cell("readings", "pairs", "d", **where)
    if not comparable(cite, statistic):
        return f"without them {pairs} pair of adapters is left, too few to compare"
    estimate, low, high = (cite.cell("readings", key, DIFFERENCE, **where) for key in INTERVAL)
    level = cite.cell("readings", "ci_level", ".0%", **where)
    return f"without them the difference is {estimate} ({pairs} pairs; {level}, over questions alone: {low} to {high})"


def asked(cite: Citations, what: str) -> str:
    """How much was asked of every adapter, counted on the answers."""
    return cite.cell("size", what, ",d", of="every adapter")


def other_adapters(cite: Citations) -> Iterator[Block]:
    """The planned contrasts with their intervals over questions, over adapters, and over both, which decides."""
    both, verdicts = cite.tables["both"], cite.tables["verdicts"]
    decisions = cite.study.plan_as(CotPlan).decisions
    level = cite.bind(cite.context.planned("decisions", "adapter_level", value=decisions.adapter_level, spec=".0%"))
    yield Paragraph(
        "Questions tell nothing of another training, and arms of one source and seed do not share theirs: they begin "
        "at other weights and see the rows in another order. What decides is one t test whose variance is that over "
        "questions plus that over pairs of adapters (one source, one seed). It takes the pairs as independent and "
        "speaks for other trainings of these sources on these rows and questions; for other sources only as far as "
        f"these stand for them. All intervals of this table are of {level}; those over one kind alone hold the other "
        "fixed and decide nothing."
    )
    columns = (
        Column("hypothesis", ""),
        Column("label", "statistic"),
        Column("estimate", "difference"),
        Column("questions_low", "over questions: low"),
        Column("questions_high", "high"),
        Column("pairs_low", "over adapters: low"),
        Column("pairs_high", "high"),
        Column("ci_low", "over both: low"),
        Column("ci_high", "high"),
        Column("p_holm", "p", explanation="over both, adjusted by Holm"),
        Column("questions", "questions"),
        Column("pairs", "pairs"),
        Column("verdict", "verdict"),
    )
    rows: list[Row] = []
    for name, found in verdicts.select("hypothesis", "statistic").iter_rows():
        # The equivalence hypothesis is about a contrast that the table has under its own name.
        statistic = EQUIVALENT if found == EQUIVALENCE else found
        there = both.filter(statistic=statistic).height
        row: Row = {key: cite.bound("verdicts", key, "", hypothesis=name) for key in ("hypothesis", "verdict")}
        row["label"] = cite.labels[statistic][0]
        specs = {**dict.fromkeys(SHOWN, DIFFERENCE), "p_holm": "p", "questions": "d", "pairs": "d"}
        row |= {
            key: cite.bound("both", key, spec, statistic=statistic) if there else "–" for key, spec in specs.items()
        }
        rows.append(row)
    yield Table(
        "The planned contrasts over questions, over adapters, and over both. The equivalence hypothesis is decided by "
        "its own intervals (next section); its contrast stands here.",
        columns,
        tuple(rows),
    )


EQUIVALENT = CONTRASTS[3].statistic(SOURCE_LOSS, HEADLINE_FAMILY)
SHOWN = ("estimate", "questions_low", "questions_high", "pairs_low", "pairs_high", "ci_low", "ci_high")


def readings(cite: Citations) -> Iterator[Block]:
    """Which adapters collapsed, and the planned contrasts without them and with every answer read."""
    if not cite.tables["readings"].height:
        return
    decisions = cite.study.plan_as(CotPlan).decisions
    limit, least = (
        cite.bind(cite.context.planned("decisions", key, value=getattr(decisions, key), spec=spec))
        for key, spec in (("most_excess", POINTS), ("least_modal", ".0%"))
    )
    collapsed = cite.tables["collapse"].filter("collapsed")
    yield Paragraph(
        f"An adapter has collapsed where, asked in its own format, one letter takes at least {least} of its answers "
        f"and lies more than {limit} above that of the untrained base, or rationales cut off lie as far above. What "
        "it loses then is no choice of wrong letters." + ("" if collapsed.height else " None has.")
    )
    if collapsed.height:
        yield _collapsed(cite, list(collapsed["adapter"]))
    columns = (
        Column("contrast", "loss of"),
        Column("axis", "of"),
        Column("collapsed", "collapsed", explanation="adapters of either arm"),
        *(
            Column(f"{reading}_{key}", title)
            for reading in READINGS
            for key, title in zip(INTERVAL, (reading, "low", "high"), strict=True)
        ),
    )
    yield Table(
        "The planned contrasts as planned; with the likeliest of the four letters where no letter was read, however "
        "unlikely it is; and without collapsed adapters.",
        columns,
        tuple(_reading_rows(cite)),
    )


WITHOUT = "without collapsed"
READINGS = ("planned", "best of four", WITHOUT)


def _reading_rows(cite: Citations) -> Iterator[Row]:
    table = cite.tables["readings"]
    for contrast in CONTRASTS:
        for axis in table.filter(contrast=contrast.name)["axis"].unique(maintain_order=True):
            keys = {"contrast": contrast.name, "axis": axis}
            row: Row = {
                "contrast": words(contrast), "axis": AXIS_NAMES[axis],
                "collapsed": cite.bound("readings", "collapsed", "d", reading="planned", **keys),
            }  # fmt: skip
            for reading in READINGS:
                there = table.filter(reading=reading, **keys).height
                for key in INTERVAL:
                    found = cite.bound("readings", key, DIFFERENCE, reading=reading, **keys) if there else "–"
                    row[f"{reading}_{key}"] = found
            yield row


def _collapsed(cite: Citations, adapters: list[str]) -> Table:
    shares = ("modal_share", "base_modal_share", "cut_off", "base_cut_off")
    titles = ("share of one letter", "of the base", "cut off", "of the base")
    columns = (
        Column("arm", "arm"),
        Column("source", "source"),
        Column("seed", "seed"),
        Column("scaffold", "asked with"),
        *(Column(key, title) for key, title in zip(shares, titles, strict=True)),
    )
    rows: list[Row] = []
    for adapter in adapters:
        (found,) = cite.tables["collapse"].filter(adapter=adapter).iter_rows(named=True)
        row: Row = {
            "arm": ARM_NAMES[found["arm"]], "source": source_name(found["source"]),
            "scaffold": SCAFFOLD_NAMES[found["scaffold"]], "seed": cite.bound("collapse", "seed", "d", adapter=adapter),
        }  # fmt: skip
        rows.append(row | {key: cite.bound("collapse", key, SHARE, adapter=adapter) for key in shares})
    return Table("Adapters that have collapsed, asked in their own format.", columns, tuple(rows))
