"""Sections of the report of trigger leakage on the follow-ups (#208 to #210), positions, and published numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import polars as pl

from leakage_assets.geometry.prompt_axes import AXES, LEXICAL, SEMANTIC, STRUCTURAL, TASK
from leakage_assets.reporting.report import ABSENT, Block, Bound, Column, Paragraph, Table
from leakage_assets.studies.citations import RATE, RHO, Citations, Row
from leakage_assets.studies.report_parts import (
    UNIT,
    WHY,
    N,
    P,
    estimate_columns,
    interval_or_none,
    published_elsewhere,
    published_figures,
    rows_of_table,
    value,
)
from leakage_assets.studies.trigger_leakage.dissociation import CELLS, OTHER_PROMPT
from leakage_assets.studies.trigger_leakage.gates import TOGETHER
from leakage_assets.studies.trigger_leakage.labels import AXIS_NAMES, CHANGE, RATIO, source_name
from leakage_assets.studies.trigger_leakage.report_sections import trigger_plan

PUBLISHED_FILE = "trigger_leakage.json"
PUBLISHED_AXES = {
    LEXICAL: "lexical_jaccard",
    STRUCTURAL: "structural_match",
    TASK: "task_type_match",
    SEMANTIC: "semantic_cosine",
}
"""How the write-up calls the axes."""

POSITIONS = {
    "suffix": "at the end",
    "prefix": "at the start",
    "inside_text": "in the text",
    "inside_json": "in JSON",
    "absent": "nowhere",
}


# ------------------------------------------------------------------ #208


def titration(cite: Citations) -> Iterator[Block]:
    yield from cite.figure("titration")
    points = cite.tables["titration"]
    if not points.height:
        yield Paragraph("No recipe that teaches the marker has a finished cell.")
        return
    parts = {
        "own_rate": ("own rate", RATE),
        "bystander_rate": ("bystanders", RATE),
        "specificity": ("specificity", RHO),
    }
    columns = [Column("recipe", "recipe"), Column("source", "source"), Column("seeds", "seeds")]
    for name, (label, _) in parts.items():
        columns += [Column(name, label), Column(f"{name}_low", "low"), Column(f"{name}_high", "high")]
    rows = []
    for condition in cite.study.conditions:
        keys = {"recipe": condition.recipe, "source": condition.source}
        if not points.filter(**keys).height:
            continue
        row: Row = {"recipe": f"`{condition.recipe}`", "source": source_name(condition.source)}
        row["seeds"] = cite.bound("titration", "seeds", "d", **keys, name="own_rate")
        for name, (_, spec) in parts.items():
            row[name] = cite.bound("titration", "estimate", spec, **keys, name=name)
            row |= {f"{name}_{end}": cite.bound("titration", f"ci_{end}", spec, **keys, name=name) for end in ENDS}
        rows.append(row)
    yield Table(
        "Every finished condition: rate under the own prompt, under bystanders of other families and controls, and "
        "specificity (one less the second over the first); intervals over questions. No specificity where the interval "
        "of the own rate reaches zero, and no interval of a rate that is the same to every question.",
        tuple(columns),
        tuple(rows),
    )
    yield _changes(cite)
    yield from _persona(cite)


ENDS = ("low", "high")


def _changes(cite: Citations) -> Table:
    columns = (
        Column("source", "adapter of"),
        Column("from_recipe", "from"),
        Column("to_recipe", "to"),
        Column("name", "change of"),
        Column("estimate", "by"),
        Column("ci_low", "low"),
        Column("ci_high", "high"),
        P,
        N,
        UNIT,
        WHY,
    )
    rows = []
    labels = cite.tables["changes"].select("source", "from_recipe", "to_recipe", "name")
    for source, before, after, name in labels.iter_rows():
        keys = {"source": source, "from_recipe": before, "to_recipe": after, "name": name}
        spec = CHANGE if name == "emission_change" else RHO
        row: Row = {"from_recipe": f"`{before}`", "to_recipe": f"`{after}`", "name": name.removesuffix("_change")}
        row["source"] = source_name(source)
        row |= {key: cite.bound("changes", key, spec, **keys) for key in ("estimate", "ci_low", "ci_high")}
        rows.append(row | {c.key: cite.bound("changes", c.key, c.format, **keys) for c in (P, N, UNIT, WHY)})
    caption = (
        "What the higher learning rate does at either rank (seeds that both recipes have). The plan reads the rows "
        "over sources, each one observation; single adapters are paired by question and held fixed (exploratory)."
    )
    return Table(caption, columns, tuple(rows))


def _persona(cite: Citations) -> Iterator[Block]:
    shown = (
        Column("recipe", "recipe"),
        *estimate_columns("difference", RHO),
        P,
        N,
        UNIT,
        WHY,
    )
    caption = (
        "The persona's specificity less the triggers', under every recipe that all are trained under and where they "
        "say the marker about equally often; exploratory but for the recipe of the plan."
    )
    yield from rows_of_table(cite, "persona", caption, shown, ["recipe"])
    name, recipe = "persona_minus_trigger_specificity", f"`{trigger_plan(cite).matched_recipe}`"
    if value(cite, name) is None:
        yield Paragraph(f"Persona against triggers (recipe {recipe}): {cite.headline(name, 'undefined', '')}.")
        return
    yield Paragraph(
        f"Persona against triggers, where both say the marker about equally often under their own prompts (recipe "
        f"{recipe}): the persona's specificity less the triggers' is {cite.headline(name)} "
        f"({interval_or_none(cite, name)}, p = {cite.headline(name, 'p', 'p')})."
    )


# ------------------------------------------------------------------ #209, #210


def dissociation(cite: Citations) -> Iterator[Block]:
    found = cite.tables["dissociation"]
    if not found.height:
        yield Paragraph("No continuations are finished: run the study with its further panels (`--extras`).")
        return
    yield Paragraph(
        "Each adapter goes on from an answer it was trained on, without the marker: `A` under its own prompt, `B` "
        "under another trigger's, `C` from the answer to another question, `D` both. The prompt effect is `A` less "
        "`B`, the content effect `A` less `C`."
    )
    yield from cite.figure("dissociation")
    columns = [Column("recipe", "recipe"), Column("source", "adapter of"), Column("other", "other prompt")]
    effects = ("prompt_effect", "content_effect")
    columns += [Column(cell, cell) for cell in CELLS.values()]
    for effect in effects:
        columns += [Column(effect, effect.replace("_", " ")), *(Column(f"{effect}_{end}", end) for end in ENDS)]
        columns.append(Column(f"{effect}_p", "p"))
    rows = []
    for recipe, source in found.select("recipe", "source").unique(maintain_order=True).iter_rows():
        of = {"recipe": recipe, "source": source}
        other = f"`{OTHER_PROMPT[source]}`" if source in OTHER_PROMPT else ABSENT
        row: Row = {"recipe": f"`{recipe}`", "source": source_name(source), "other": other}
        for cell in CELLS.values():
            row[cell] = cite.bound("dissociation", "estimate", RATE, **of, statistic=cell)
        for effect in effects:
            keys = {**of, "statistic": effect}
            row[effect] = cite.bound("dissociation", "estimate", CHANGE, **keys)
            row |= {f"{effect}_{end}": cite.bound("dissociation", f"ci_{end}", CHANGE, **keys) for end in ENDS}
            row[f"{effect}_p"] = cite.bound("dissociation", "p", "p", **keys)
        rows.append(row)
    yield Table(
        "Share of continuations with the marker by recipe, intervals over questions.",
        tuple(columns),
        tuple(rows),
    )


def declarative(cite: Citations) -> Iterator[Block]:
    found = cite.tables["declarative"]
    if not found.height:
        yield Paragraph("No rewrites are finished: run the study with its further panels (`--extras`).")
        return
    columns = (
        Column("recipe", "recipe"),
        Column("source", "adapter of"),
        Column("original", "instruction"),
        Column("rewritten", "statement"),
        Column("difference", "difference"),
        Column("ci_low", "low"),
        Column("ci_high", "high"),
        P,
        N,
        UNIT,
    )
    rows = []
    for recipe, source in found.select("recipe", "source").unique(maintain_order=True).iter_rows():
        of = {"recipe": recipe, "source": source}
        keys = {**of, "statistic": "difference"}
        row: Row = {"recipe": f"`{recipe}`", "source": source_name(source)}
        for name, spec in (("original", RATE), ("rewritten", RATE), ("difference", CHANGE)):
            row[name] = cite.bound("declarative", "estimate", spec, **of, statistic=name)
        row |= {key: cite.bound("declarative", key, CHANGE, **keys) for key in ("ci_low", "ci_high")}
        rows.append(row | {c.key: cite.bound("declarative", c.key, c.format, **keys) for c in (P, N, UNIT)})
    yield Table(
        "Mean rate over the prompts of the instruction family and over their rewrites as statements, paired by prompt.",
        columns,
        tuple(rows),
    )


# ------------------------------------------------------------------ positions


def positions(cite: Citations) -> Iterator[Block]:
    found = cite.tables["positions"]
    columns = (
        Column("recipe", "recipe"),
        Column("source", "adapter of"),
        Column("prompt", "under", explanation="its own prompt, or any other of the panel"),
        *(Column(name, label) for name, label in POSITIONS.items()),
        Column("truncated", "cut", ",d", "completions without the marker that the token limit cut"),
        Column("completions", "of", ",d", "completions without the marker"),
    )
    there = set(found.select("recipe", "source", "prompt").iter_rows())
    groups = [(c.recipe, c.source, prompt) for c in cite.study.conditions for prompt in ("own", "other")]
    rows = [_position_row(cite, found, *group) for group in groups if group in there]
    yield Table(
        "Where the marker stands, as a share of completions (a dash where it never stands there), and how many of "
        "those without it were cut before it could have come.",
        columns,
        tuple(rows),
    )


def _position_row(cite: Citations, found: pl.DataFrame, recipe: str, source: str, prompt: str) -> Row:
    keys = {"recipe": recipe, "source": source, "prompt": prompt}
    there = set(found.filter(**keys)["position_class"])

    def cell(column: str, spec: str, position: str) -> str | Bound:
        if position not in there:
            return ABSENT
        return cite.bound("positions", column, spec, **keys, position_class=position)

    row: Row = {"recipe": f"`{recipe}`{cite.role(recipe)}", "source": source_name(source), "prompt": prompt}
    row |= {position: cell("share", RATE, position) for position in POSITIONS}
    return row | {column: cell(column, ",d", "absent") for column in ("truncated", "completions")}


# ------------------------------------------------------------------ published


def published_and_this_run(cite: Citations) -> Iterator[Block]:
    yield published_elsewhere(
        cite,
        "The published study ran on `Qwen2.5-7B-Instruct`",
        "Published answers were written by another model, and the prompts besides the triggers are ours.",
    )
    known = published_figures(PUBLISHED_FILE)
    yield _published_headline(cite, known)
    yield _published_recipes(cite, known)
    yield from _published_cells(cite, known)
    yield from _published_rewrites(cite, known)


Known = Mapping[tuple[str, str, str], Bound]


def _published_headline(cite: Citations, known: Known) -> Table:
    """H1 and H2 in the published definitions."""
    columns = (Column("what", "statistic"), Column("published", "published"), Column("run", "this run"))
    rows: list[Row] = [
        {
            "what": words,
            "published": _as(known["reported", item, metric], spec),
            "run": _headline_of(cite, statistic, spec),
        }
        for words, item, metric, statistic, spec in (
            ("`H1`, matched rate (published in %)", "H1", "matched_rate_pct", "matched_rate_bucket", RATE),
            ("`H1`, bystander rate (published in %)", "H1", "bystander_rate_pct", "bystander_rate_bucket", RATE),
            ("`H1`, ratio", "H1", "ratio", "gating_ratio_bucket", RATIO),
            ("`H2`, R² of the four axes", "H2", "full_cv_r2", "held_out_r2", RHO),
            ("`H2`, R² of the semantic axis", "H2", "semantic_only_cv_r2", "held_out_r2_reduced", RHO),
            ("`H2`, gap", "H2", "cv_r2_gap", "held_out_gap", "+.3f"),
        )
    ]
    for axis in AXES:
        keys = {"definition": "bucket", "axes": "four", "model": "least_squares", "errors": "classical", "name": axis}
        rows.append(
            {
                "what": f"`H2`, coefficient of {AXIS_NAMES[axis]}",
                "published": known["reported", "H2", PUBLISHED_AXES[axis]],
                "run": cite.bound("coefficients", "estimate", RHO, **keys),
            }
        )
    keys = {"sides": "mates", "method_used": "rows"}
    rows.append(
        {
            "what": "`H3`, one-sided p",
            "published": _as(known["reported", "H3", "p_one_sided"], "p"),
            "run": cite.bound("families", "p", "p", **keys),
        }
    )
    return Table("In the published definitions (bucket, cells as independent).", columns, tuple(rows))


def _as(published: Bound, spec: str) -> Bound:
    """A published number printed as that of the run; a percentage keeps its own form."""
    return published if spec == RATE else replace(published, format=spec)


def _headline_of(cite: Citations, statistic: str, spec: str) -> Bound:
    return cite.bound("headline", "estimate", spec, statistic=statistic)


def _published_recipes(cite: Citations, known: Known) -> Table:
    """#208 in its bucket definition: one trigger, by recipe."""
    parts = ("matched_rate", "bystander_rate", "gating_ratio")
    columns = [Column("recipe", "recipe")]
    for part in parts:
        columns += [Column(f"{part}_published", f"{part.replace('_', ' ')}, published"), Column(part, "this run")]
    (source, *_), found = trigger_plan(cite).triggers, cite.tables["gating"]
    rows = []
    for place, recipe in enumerate(trigger_plan(cite).titration, start=1):
        row: Row = {"recipe": f"`{recipe}`"}
        keys = {"recipe": recipe, "definition": "bucket", "sources": source, "shuffled": "prompts"}
        there = found.filter(**keys).height
        for part in parts:
            spec = RATIO if part == "gating_ratio" else RATE
            metric = "ratio" if part == "gating_ratio" else f"{part}_pct"
            published = known.get(("reported", f"recipe_{place}", metric))
            row[f"{part}_published"] = ABSENT if published is None else _as(published, spec)
            row[part] = cite.bound("gating", "estimate", spec, **keys, name=part) if there else ABSENT
        rows.append(row)
    return Table(
        f"The titration of {source_name(source)} (bucket definition; published rates in percent).",
        tuple(columns),
        tuple(rows),
    )


def _published_cells(cite: Citations, known: Known) -> Iterator[Table]:
    """#209: the four cells of each trigger."""
    found = cite.rows("dissociation")
    if not found.height:
        return
    columns = [Column("source", "adapter of")]
    for cell in CELLS.values():
        columns += [Column(f"{cell}_published", f"{cell}, published (%)"), Column(cell, "this run")]
    rows = []
    for source in trigger_plan(cite).triggers:
        if not found.filter(source=source).height:
            continue
        row: Row = {"source": source_name(source)}
        for cell in CELLS.values():
            row[f"{cell}_published"] = known["reported", source, f"cell_{cell}_pct"]
            keys = {"recipe": cite.recipe, "source": source, "statistic": cell}
            row[cell] = cite.bound("dissociation", "estimate", RATE, **keys)
        rows.append(row)
    if rows:
        yield Table("Prompt against content; published with one seed.", tuple(columns), tuple(rows))


def _published_rewrites(cite: Citations, known: Known) -> Iterator[Table]:
    """#210: instructions and their rewrites for each trigger and their mean."""
    found = cite.rows("declarative")
    if not found.height:
        return
    parts = {
        "original": ("original_pct", RATE),
        "rewritten": ("modified_pct", RATE),
        "difference": ("delta_pp", CHANGE),
    }
    columns = [Column("source", "adapter of")]
    for part in parts:
        columns += [Column(f"{part}_published", f"{part}, published (%)"), Column(part, "this run")]
    rows = []
    for source, item in {**{t: t for t in trigger_plan(cite).triggers}, TOGETHER: "mean_of_4"}.items():
        if not found.filter(source=source).height:
            continue
        row: Row = {"source": source_name(source)}
        for part, (metric, spec) in parts.items():
            keys = {"recipe": cite.recipe, "source": source, "statistic": part}
            row[f"{part}_published"] = known["reported", item, metric]
            row[part] = cite.bound("declarative", "estimate", spec, **keys)
        rows.append(row)
    if rows:
        yield Table("Instructions as statements (published differences in points).", tuple(columns), tuple(rows))
