"""Sections of the report of chain-of-thought leakage on what another training, or another reading, would change."""

from __future__ import annotations

from collections.abc import Iterator

from leakage_assets.reporting.report import Block, Column, Paragraph, Table
from leakage_assets.studies.citations import Citations, Row
from leakage_assets.studies.cot_leakage.design import CONTRASTS
from leakage_assets.studies.cot_leakage.figures import ARM_NAMES, AXIS_NAMES, SCAFFOLD_NAMES
from leakage_assets.studies.cot_leakage.labels import DIFFERENCE, SHARE, source_name, words
from leakage_assets.studies.cot_leakage.plan import CotPlan

INTERVAL = ("estimate", "ci_low", "ci_high")


def side(cite: Citations, statistic: str) -> int:
    """On which side of zero a difference lies, for other questions and for other adapters alike: 1, -1, or 0 where the
    intervals do not say.
    """
    sides = set()
    for table in ("headline", "adapters"):
        rows = cite.tables[table].filter(statistic=statistic)
        low, high = rows.select("ci_low", "ci_high").row(0) if rows.height else (None, None)
        sides.add(0 if low is None or low <= 0 <= high else 1 if low > 0 else -1)
    return sides.pop() if len(sides) == 1 else 0


def collapsed_of(cite: Citations, statistic: str) -> int:
    """How many adapters of a planned contrast's arms have collapsed."""
    rows = cite.tables["readings"].filter(reading="planned", statistic=statistic)
    return int(rows["collapsed"].item()) if rows.height else 0


def asked(cite: Citations, what: str) -> str:
    """How much was asked of every adapter, counted on the answers."""
    return cite.cell("size", what, ",d", of="every adapter")


def other_adapters(cite: Citations) -> Iterator[Block]:
    """The planned contrasts with an interval over trainings, and what it does to the verdicts."""
    table, verdicts = cite.tables["adapters"], cite.tables["verdicts"]
    level = cite.bind(
        cite.context.planned(
            "decisions", "adapter_level", value=cite.study.plan_as(CotPlan).decisions.adapter_level, spec=".0%"
        )
    )
    yield Paragraph(
        "Questions tell nothing of another training, and arms of one source and seed do not share theirs: they begin "
        "at other weights and see the rows in another order. So a claim that the questions support is supported only "
        f"where a {level} t interval over pairs of adapters (one source, one seed) leaves the threshold out as well. "
        "It takes the pairs as independent and speaks for other trainings of these sources on these rows and "
        "questions; for other sources only as far as these stand for them."
    )
    columns = (
        Column("hypothesis", ""),
        Column("label", "statistic"),
        Column("questions_alone", "by questions"),
        Column("estimate", "mean of pairs"),
        Column("ci_low", "low"),
        Column("ci_high", "high"),
        Column("n", "pairs"),
        Column("adapters", "over adapters"),
        Column("verdict", "verdict"),
    )
    rows: list[Row] = []
    for name, statistic in verdicts.select("hypothesis", "statistic").iter_rows():
        row: Row = {
            key: cite.bound("verdicts", key, "", hypothesis=name)
            for key in ("hypothesis", "questions_alone", "adapters", "verdict")
        }
        row["label"] = cite.labels[statistic][0]
        for key, spec in {**dict.fromkeys(INTERVAL, DIFFERENCE), "n": "d"}.items():
            there = table.filter(statistic=statistic).height
            row[key] = cite.bound("adapters", key, spec, statistic=statistic) if there else "–"
        rows.append(row)
    yield Table(
        "What the questions say, and what an interval over pairs of adapters makes of it.", columns, tuple(rows)
    )


def readings(cite: Citations) -> Iterator[Block]:
    """Which adapters collapsed, and the planned contrasts without them and with every answer read."""
    if not cite.tables["readings"].height:
        return
    excess = cite.study.plan_as(CotPlan).decisions.most_excess
    limit = cite.bind(cite.context.planned("decisions", "most_excess", value=excess, spec=".0%"))
    collapsed = cite.tables["collapse"].filter("collapsed")
    yield Paragraph(
        "An adapter has collapsed where, asked in its own format, one letter or rationales cut off take a share of its "
        f"answers more than {limit} (of all answers) above that of the untrained base. What it loses then is no choice "
        "of wrong letters." + ("" if collapsed.height else " None has.")
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


READINGS = ("planned", "best of four", "without collapsed")


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
