"""Sections of the report of chain-of-thought leakage beside the contrasts: masks, words, answers, noise, labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import polars as pl

from leakage_assets.generation.requests import BASE
from leakage_assets.reporting.report import Block, Column, Paragraph, Table
from leakage_assets.studies.citations import RHO, Citations, Row
from leakage_assets.studies.cot_leakage.arms import ARMS
from leakage_assets.studies.cot_leakage.design import AXES, COMMON, CONTRASTS, own_scaffold
from leakage_assets.studies.cot_leakage.figures import ARM_NAMES, AXIS_NAMES, SCAFFOLD_NAMES
from leakage_assets.studies.cot_leakage.labels import DIFFERENCE, IN_WORDS, SHARE, source_name, words
from leakage_assets.studies.cot_leakage.outcomes import cell_of
from leakage_assets.studies.report_parts import estimate_columns, published_elsewhere, published_figures, table_of_rows

PUBLISHED_FILE = "cot_leakage.json"
SHOWN_WORDS = 12


def mask(cite: Citations) -> Iterator[Block]:
    """Losses under the mask that the published code fell back to, beside those under the planned one."""
    other, planned = cite.tables["losses_other_mask"], cite.tables["losses"]
    keys = ("arm", "scaffold", "axis", "unit_of")
    both = other.filter(pl.col("own_format"), pl.col("unit_of") != "macro").join(
        planned.select(keys), on=keys, how="semi", maintain_order="left"
    )
    if not both.height:
        yield Paragraph("No adapter is finished under both masks: nothing says what the mask changes.")
        return
    columns = (
        Column("arm", "arm"),
        Column("source", "source"),
        Column("axis", "of"),
        Column("planned", "assistant only loses"),
        Column("planned_low", "low"),
        Column("planned_high", "high"),
        Column("other", "whole sequence loses"),
        Column("other_low", "low"),
        Column("other_high", "high"),
    )
    rows: list[Row] = []
    for values in both.select(keys).iter_rows():
        where = dict(zip(keys, values, strict=True))
        row: Row = {
            "arm": ARM_NAMES[where["arm"]],
            "source": source_name(where["unit_of"]),
            "axis": AXIS_NAMES[where["axis"]],
        }
        for name, table in (("planned", "losses"), ("other", "losses_other_mask")):
            for suffix, key in (("", "estimate"), ("_low", "ci_low"), ("_high", "ci_high")):
                row[name + suffix] = cite.bound(table, key, DIFFERENCE, **where)
        rows.append(row)
    yield Paragraph(
        "The published code fell back to loss on the whole sequence, system and user turn included, with a warning "
        "only. Here the mask of every row is checked on its token ids before training, and both are trained."
    )
    yield Table("Accuracy lost in the own format under both masks.", columns, tuple(rows))


def vocabulary(cite: Citations) -> Iterator[Block]:
    """Do others take over the words of the trained persona?"""
    found = cite.tables["vocabulary"]
    if not found.height:
        return
    told = [
        f"{source_name(source)}: {', '.join(f'`{w}`' for w in part['word'][:SHOWN_WORDS])}"
        for (source,), part in found.group_by("source", maintain_order=True)
    ]
    yield Paragraph(
        "A source's own words are those that are more frequent in its training rationales than in the plain ones on "
        f"the same questions; the most telling are, of {'; of '.join(told)}."
    )
    table = cite.tables["log_odds"].drop_nulls("estimate")
    own = {one.name: own_scaffold(one) for one in ARMS}
    table = table.filter(pl.col("arm").replace_strict(own) == pl.col("scaffold"))
    if not table.height:
        return
    columns = (
        Column("source", "source"),
        Column("arm", "arm"),
        Column("axis", "rationales of"),
        *estimate_columns(
            "log-odds",
            RHO,
            "questions resampled whole",
            explanation="of its words, minus that of the base; zero: as frequent as before",
        ),
    )
    caption = "How much more often a source's words are said than by the base, in the own format."
    yield table_of_rows(cite, "log_odds", table, caption, columns, ["source", "arm", "scaffold", "axis"], IN_WORDS)


def answers(cite: Citations) -> Iterator[Block]:
    """Collapse onto a letter, unread answers, and rationales that repeat: the worst of each arm in its own format."""
    named = cite.tables["answers"].filter(pl.col("adapter") != BASE)
    columns = (
        Column("arm", "arm"),
        Column("asked", "asked with"),
        Column("adapter", "adapter"),
        Column("modal_letter", "letter"),
        Column("modal_share", "its share", explanation="of all answers; a quarter is what equal letters give"),
        Column("from_logprobs", "by log-probs", explanation="share of answers read by log-probs"),
        Column("unparsed", "unread", explanation="share of answers without a letter"),
        Column("distinct", "different rationales", explanation="share of different texts among all"),
        Column("cut_off", "cut off", explanation="share of rationales that ran out of tokens"),
    )
    rows: list[Row] = [_answer_row(cite, BASE, "untrained base", name) for name in _asked(cite)]
    for one in ARMS:
        mine = [a for a in named["adapter"].unique(maintain_order=True) if cell_of(a)[0].arm == one.name]
        part = named.filter(pl.col("adapter").is_in(mine), scaffold=own_scaffold(one))
        if part.height:
            worst = part.sort("modal_share", descending=True, maintain_order=True)["adapter"][0]
            rows.append(_answer_row(cite, worst, ARM_NAMES[one.name], own_scaffold(one)))
    yield Table(
        "The base under every scaffold, and of each arm the adapter that answers most with one letter, in its own "
        "format.",
        columns,
        tuple(rows),
    )


def _asked(cite: Citations) -> list[str]:
    return sorted(cite.tables["answers"].filter(adapter=BASE)["scaffold"])


def _answer_row(cite: Citations, adapter: str, arm: str, scaffold: str) -> Row:
    keys = {"adapter": adapter, "scaffold": scaffold}
    name = "`base`" if adapter == BASE else f"`{adapter.split('/', 1)[1]}`"
    row: Row = {"arm": arm, "asked": SCAFFOLD_NAMES[scaffold], "adapter": name}
    row |= {k: cite.bound("answers", k, SHARE, **keys) for k in ("modal_share", "from_logprobs", "unparsed")}
    row["modal_letter"] = cite.bound("answers", "modal_letter", "", **keys)
    written = cite.tables["rationales"].filter(**keys).height > 0
    for key in ("distinct", "cut_off"):
        row[key] = cite.bound("rationales", key, SHARE, **keys) if written else "–"
    return row


def drift(cite: Citations) -> Iterator[Block]:
    table = cite.tables["noise_floor"]
    if not table.height:
        yield Paragraph(
            "Nothing was asked twice: run the study with its further panels (`--extras`) to see how far a greedy "
            "evaluation of the same adapter comes out otherwise."
        )
        return
    worst = table.with_row_index().sort("changed", descending=True, maintain_order=True).row(0, named=True)
    keys = {key: worst[key] for key in ("adapter", "scaffold", "prompt_name")}
    changed, n, moved = (
        cite.cell("noise_floor", key, spec, **keys)
        for key, spec in (("changed", SHARE), ("n", "d"), ("drift", DIFFERENCE))
    )
    repeated = cite.tables["noise"]["base_repeated"].item()
    base = "" if repeated else " The untrained base was not asked twice: its share in a loss is unknown."
    if not worst["changed"]:
        yield Paragraph(
            f"Asked a second time, every adapter chose the same letters ({n} questions for each persona and scaffold): "
            f"on this engine a greedy evaluation has no noise of its own.{base}"
        )
        return
    of_all = {
        key: cite.cell("noise", key, spec, base_repeated=repeated)
        for key, spec in (
            ("adapters", "d"),
            ("answers", ",d"),
            ("changed", SHARE),
            ("drift", DIFFERENCE),
            ("moved", DIFFERENCE),
        )
    }
    yield Paragraph(
        f"Asked a second time, {of_all['adapters']} adapters gave another letter to {of_all['changed']} of "
        f"{of_all['answers']} questions, and their accuracy changed by {of_all['drift']} in the mean, where gains and "
        f"losses cancel, and by {of_all['moved']} in absolute value, mean of single cells. The largest change "
        f"for one adapter, persona and scaffold is {changed} of {n} questions (`{worst['adapter']}`, accuracy "
        f"{moved}): that is the noise of a single cell of that size, not of the means that are compared here.{base}"
    )


def labels(cite: Citations) -> Iterator[Block]:
    columns = (
        Column("split", "split"),
        Column("kept", "questions", "d"),
        Column("lettered", "lettered", "d"),
        Column("numbered", "numbered", "d"),
        Column("otherwise", "otherwise", "d"),
        Column("dropped", "left out", "d"),
        Column("highest_accuracy", "highest accuracy", SHARE, "always choosing the right letter"),
    )
    caption = (
        "Questions that are not labelled with letters can never be answered rightly, by the base as by the adapters."
    )
    yield table_of_rows(cite, "labels", cite.tables["labels"], caption, columns, ["split"], {"split": "`{}`".format})


PUBLISHED_NAMES = {"scrambled_english_cot": "scrambled_english"}


def published_and_this_run(cite: Citations) -> Iterator[Block]:
    """The eight contrasts beside the published ones, in their family and scheme."""
    yield published_elsewhere(
        cite,
        "The published study ran on `Qwen2.5-7B-Instruct`",
        "The published rationales were written by another model.",
    )
    known = published_figures(PUBLISHED_FILE)
    columns = (
        Column("contrast", "loss of"),
        Column("axis", "of"),
        Column("published", "published"),
        Column("published_low", "low"),
        Column("published_high", "high"),
        Column("run", "this run"),
        Column("run_low", "low"),
        Column("run_high", "high"),
    )
    rows: list[Row] = []
    for contrast in CONTRASTS:
        first, second = (
            PUBLISHED_NAMES.get(name, name).removesuffix("_cot") for name in (contrast.first, contrast.second)
        )
        for axis in AXES:
            row: Row = {"contrast": words(contrast), "axis": AXIS_NAMES[axis]}
            for key, metric in (("", "macro"), ("_low", "macro ci95_lo"), ("_high", "macro ci95_hi")):
                row[f"published{key}"] = replace(known[f"{first} - {second}", axis, metric], format=DIFFERENCE)
            statistic = contrast.statistic(axis, COMMON)
            for key, column in (("", "estimate"), ("_low", "ci_low"), ("_high", "ci_high")):
                row[f"run{key}"] = cite.bound("headline", column, DIFFERENCE, statistic=statistic)
            rows.append(row)
    yield Table(
        "Differences of the accuracy lost, mean of sources, persona's tag. Published intervals take every question of "
        "every seed as independent; those of this run are over questions and adapters, and wider by their level.",
        columns,
        tuple(rows),
    )
