"""Sections of the report of two markers beside its hypotheses: seeds, questions, lengths, the probe, distances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import polars as pl

from leakage_assets.reporting.report import ABSENT, Block, Bound, Column, Paragraph, Table
from leakage_assets.studies.citations import LIMIT, RATE, RHO, Citations, Row, code_list
from leakage_assets.studies.report_parts import (
    estimate_columns,
    published_elsewhere,
    published_figures,
    rows_of_table,
    table_of_rows,
)
from leakage_assets.studies.two_marker_chunk.arms import C2_MASKED, C_MASKED, PAIRS, T_MASKED, C, T
from leakage_assets.studies.two_marker_chunk.labels import CHANGE, RATE_NAMES
from leakage_assets.studies.two_marker_chunk.probe import ECHO
from leakage_assets.studies.two_marker_chunk.report_sections import OVER_SEEDS, pair_plan

PUBLISHED_FILE = "two_marker_chunk.json"
ROLES = ["donor", "recipient"]


def _finished_rows(cite: Citations, name: str, **where: str) -> pl.DataFrame:
    """Rows of donors and recipients that have an estimate."""
    return cite.tables[name].filter(pl.col("role").is_in(ROLES), **where).drop_nulls("estimate")


def seeds(cite: Citations) -> Iterator[Block]:
    rows = _finished_rows(cite, "rates", rate="r_b_given_a")
    if not rows.height:
        yield Paragraph("No donor and no recipient says A.")
        return
    columns = (
        Column("recipe", "arm"),
        Column("source", "pair"),
        Column("role", "persona"),
        *estimate_columns("pooled", RATE, "interval over questions, seeds held fixed"),
        Column("seed_low", "seeds, low", RATE, OVER_SEEDS),
        Column("seed_high", "high", RATE),
        Column("mean_of_seeds", "mean of seeds", RATE, "every seed counts alike, however often it says A"),
        Column("wilson_low", "Wilson, low", RATE, "completions taken as independent: a reference"),
        Column("wilson_high", "high", RATE),
        Column("seeds", "seeds", "d"),
        Column("undefined_draws", "lost", ",d", "resamples without any A"),
    )
    caption = "B given A by what is resampled (a dash where nothing varies, or with one seed)."
    yield table_of_rows(cite, "rates", rows, caption, columns, ["recipe", "source", "prompt_name", "rate"])


def cells(cite: Citations) -> Iterator[Block]:
    """What the t intervals of the verdicts are made of."""
    planned = {h.statistic for h in pair_plan(cite).hypotheses}
    rows = cite.tables["cells"].filter(pl.col("statistic").is_in(planned)).drop_nulls("difference")
    if rows.height:
        columns = (
            Column("statistic", "statistic"),
            Column("source", "pair"),
            Column("seed", "seed", "d"),
            Column("difference", "difference", CHANGE),
        )
        keys = ["statistic", "source", "seed"]
        caption = "What hypotheses over arms are read from, in each cell: adapters of its own."
        yield table_of_rows(cite, "cells", rows, caption, columns, keys)


def split(cite: Citations) -> Iterator[Block]:
    rows = _finished_rows(cite, "split")
    if not rows.height:
        yield Paragraph("No donor and no recipient says A.")
        return
    wide = rows.filter("downgraded")["recipe"].unique(maintain_order=True).to_list()
    said = (
        f"They differ by {cite.planned('split', spec=LIMIT)} or more, which weakens what is claimed of them, for a "
        f"donor or a recipient of {code_list(wide)}."
        if wide
        else f"Nowhere do they differ by {cite.planned('split', spec=LIMIT)}, the limit beyond which a claim would be "
        "weakened."
    )
    yield Paragraph(said)
    columns = (
        Column("recipe", "arm"),
        Column("source", "pair"),
        Column("role", "persona"),
        Column("question_set", "questions"),
        *estimate_columns(RATE_NAMES["r_b_given_a"], RATE, "over questions"),
        Column("n", "questions", "d"),
        Column("downgraded", "differ widely"),
    )
    keys = ["recipe", "source", "prompt_name", "question_set"]
    caption = "B given A on the questions of the panel's two sets."
    yield table_of_rows(cite, "split", rows, caption, columns, keys)


def lengths(cite: Citations) -> Iterator[Block]:
    rows = _finished_rows(cite, "lengths")
    if not rows.height:
        yield Paragraph("No arm is finished together with what its lengths are compared with.")
        return
    columns = (
        Column("recipe", "arm"),
        Column("reference", "over"),
        Column("source", "pair"),
        Column("role", "persona"),
        Column("mean_tokens", "tokens", ".1f", "mean tokens of a completion under the arm"),
        Column("truncated", "cut", RATE, "completions that the token limit cut, under the arm"),
        *estimate_columns("change", "+.1%", "over questions", explanation="of the mean tokens"),
    )
    keys = ["recipe", "reference", "source", "prompt_name"]
    caption = "Length of completions: whether an adapter forgot how to stop."
    yield table_of_rows(cite, "lengths", rows, caption, columns, keys)


SAID = {"a": "A", "b": "B", ECHO: "the probe's own marker"}


def probe(cite: Citations) -> Iterator[Block]:
    found = cite.tables["probe"]
    if not found.height:
        yield Paragraph("Not asked: run the study with its further panels (`--extras`).")
        return
    yield Paragraph(
        "The recipient's question starts with a marker that nobody was taught. If any code in sight drew B, B would "
        "follow it; if codes are merely repeated, the probe's own comes back."
    )
    for words in probe_in_words(cite):
        yield Paragraph(words)
    columns = [Column("recipe", "arm"), Column("source", "pair")]
    for marker, words in SAID.items():
        columns += [Column(marker, words), Column(f"{marker}_low", "low"), Column(f"{marker}_high", "high")]
    columns.append(Column("total", "completions"))
    rows = []
    for arm in pair_plan(cite).arms:
        for pair in pair_plan(cite).pairs:
            keys = {"recipe": arm.name, "source": pair.name}
            if not found.filter(**keys).height:
                continue
            row: Row = {"recipe": f"`{arm.name}`", "source": f"`{pair.name}`"}
            for marker in SAID:
                row[marker] = cite.bound("probe", "rate", RATE, **keys, marker=marker)
                row |= {
                    f"{marker}_{end}": cite.bound("probe", f"ci_{end}", RATE, **keys, marker=marker)
                    for end in ("low", "high")
                }
            rows.append(row | {"total": cite.bound("probe", "total", ",d", **keys, marker="a")})
    caption = "What follows the probe, recipients, all seeds (Wilson intervals: completions taken as independent)."
    yield Table(caption, tuple(columns), tuple(rows))


def probe_in_words(cite: Citations) -> Iterator[str]:
    """What recipients of the headline arm say after the probe, and whether B comes without A; nothing if not asked."""
    found = cite.tables["probe"].filter(recipe=cite.recipe)
    sources = [pair.name for pair in pair_plan(cite).pairs if found.filter(source=pair.name).height]
    if not sources:
        return
    told, apart = [], []
    for source in sources:
        keys = {"recipe": cite.recipe, "source": source}
        a, b = (cite.cell("probe", "rate", RATE, **keys, marker=marker) for marker in ("a", "b"))
        total = cite.cell("probe", "total", ",d", **keys, marker="a")
        told.append(f"A in {a} and B in {b} of {total} completions (`{source}`)")
        low, high = (
            found.filter(source=source, marker=marker)[end].item()
            for marker, end in (("b", "ci_low"), ("a", "ci_high"))
        )
        if low > high:
            apart.append(source)
    drawn = f"of {code_list(apart)} B comes there more often than A" if apart else "B comes there no more often than A"
    yield f"After a marker that nobody was taught they say {', '.join(told)}: {drawn}."


def distances(cite: Citations) -> Iterator[Block]:
    yield Paragraph(
        "The write-up called its first pair near and its second far. Labels are not used here: this is the cosine of "
        "the base model's centroids, centred on the panel."
    )
    columns = (
        Column("layer", "layer", "d"),
        Column("source", "pair"),
        Column("cosine", "cosine", RHO),
        Column("closeness", "rank", "d", "the closest pair of the layer has the first"),
    )
    yield from rows_of_table(cite, "distances", "Donor and recipient, by layer.", columns, ["layer", "source"])


# ------------------------------------------------------------------ published

PUBLISHED_CELLS: tuple[tuple[str, str, str, str], ...] = (
    ("pair1 T villain", T, PAIRS[0].name, "villain"),
    ("pair1 T assistant", T, PAIRS[0].name, "assistant"),
    ("pair1 C assistant", C, PAIRS[0].name, "assistant"),
    ("pair2 T librarian", T, PAIRS[1].name, "librarian"),
    ("pair2 T software_engineer", T, PAIRS[1].name, "software_engineer"),
    ("pair2 C software_engineer", C, PAIRS[1].name, "software_engineer"),
    ("pair2 T police_officer", T, PAIRS[1].name, "police_officer"),
    ("#354 T librarian", T_MASKED, PAIRS[1].name, "librarian"),
    ("#354 T software_engineer", T_MASKED, PAIRS[1].name, "software_engineer"),
    ("#354 C software_engineer", C_MASKED, PAIRS[1].name, "software_engineer"),
    ("#354 T police_officer", T_MASKED, PAIRS[1].name, "police_officer"),
    ("#369 T librarian", T_MASKED, PAIRS[1].name, "librarian"),
    ("#369 T software_engineer", T_MASKED, PAIRS[1].name, "software_engineer"),
    ("#369 C software_engineer", C_MASKED, PAIRS[1].name, "software_engineer"),
    ("#369 C2 software_engineer", C2_MASKED, PAIRS[1].name, "software_engineer"),
)
"""Figures that were typed in, and the arm, pair and persona of this study that they are of."""


def published_and_this_run(cite: Citations) -> Iterator[Block]:
    yield published_elsewhere(
        cite,
        "The published studies ran on `Qwen2.5-7B-Instruct`",
        "Published adapters were merged before they were asked; these are not.",
    )
    known = published_figures(PUBLISHED_FILE)
    columns = (
        Column("what", "published as"),
        Column("arm", "arm here"),
        Column("published", "B given A, published (%)"),
        Column("run", "this run"),
        Column("low", "low"),
        Column("high", "high"),
    )
    rows: list[Row] = []
    for item, arm, source, prompt in PUBLISHED_CELLS:
        keys = {"recipe": arm, "source": source, "prompt_name": prompt, "rate": "r_b_given_a"}
        row: Row = {"what": f"`{item}`", "arm": f"`{arm}`", "published": known["rates", item, "r_b_given_a_pct"]}
        rows.append(row | _of_run(cite, keys))
    yield Table(
        "Conditional rates as published (one seed; the last four of three seeds) and here, with intervals over "
        "questions.",
        columns,
        tuple(rows),
    )
    yield from _published_distances(cite, known)


def _of_run(cite: Citations, keys: Mapping[str, str]) -> Row:
    if not cite.tables["rates"].filter(**keys).height:
        return dict.fromkeys(("run", "low", "high"), ABSENT)
    ends = {"run": "estimate", "low": "ci_low", "high": "ci_high"}
    return {name: cite.bound("rates", column, RATE, **keys) for name, column in ends.items()}


def _published_distances(cite: Citations, known: Mapping[tuple[str, str, str], Bound]) -> Iterator[Table]:
    """The cosines that contradict the write-up's labels."""
    layers: Sequence[str] = sorted(
        {item.split(" ")[1] for block, item, _ in known if block == "distance" and " " in item}
    )
    columns = (
        Column("source", "pair"),
        *(Column(layer, f"published, `{layer}`") for layer in layers),
        Column("run", "this run, primary layer"),
    )
    rows = []
    for name, pair in (("pair1", PAIRS[0]), ("pair2", PAIRS[1])):
        row: Row = {"source": f"`{pair.name}`"}
        row |= {layer: replace(known["distance", f"{name} {layer}", "cosine"], format=RHO) for layer in layers}
        keys = {"layer": cite.plan.primary_layer, "source": pair.name}
        there = cite.tables["distances"].filter(**keys).height
        rows.append(row | {"run": cite.bound("distances", "cosine", RHO, **keys) if there else ABSENT})
    yield Table("Cosine of donor and recipient in the base model.", columns, tuple(rows))
