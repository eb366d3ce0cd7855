"""Sections of the report of trigger leakage on H1 to H4, one function each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from leakage_assets.geometry.prompt_axes import AXES
from leakage_assets.reporting.report import Block, Bullets, Column, Level, Paragraph, Table
from leakage_assets.studies.citations import RATE, RHO, Citations, Row, code_list
from leakage_assets.studies.report_parts import (
    UNIT,
    WHY,
    N,
    P,
    estimate_columns,
    interval_or_none,
    layer_list,
    recipe_table,
    rows_of_table,
    sampling,
    table_of_rows,
    unless_undefined,
    value,
)
from leakage_assets.studies.shared_answers import shared
from leakage_assets.studies.trigger_leakage.design import TriggerPlan
from leakage_assets.studies.trigger_leakage.gates import SHUFFLES as GATING_SHUFFLES
from leakage_assets.studies.trigger_leakage.gates import TOGETHER
from leakage_assets.studies.trigger_leakage.labels import (
    AXIS_NAMES,
    CHANGE,
    DEFINITION_NAMES,
    MODEL_NAMES,
    RATIO,
    source_name,
)
from leakage_assets.studies.trigger_leakage.panel import CONTROL, DEFINITIONS, MATCHED
from leakage_assets.studies.trigger_leakage.predictors import AXIS_SETS, LEADS, MOVED, SHUFFLES

HOLM = Column("p_holm", "p, Holm", "p", "adjusted for the tests that the table makes together")

GATING = {
    "matched_rate": ("matched rate", RATE),
    "bystander_rate": ("bystander rate", RATE),
    "gating_difference": ("difference", CHANGE),
    "gating_ratio": ("ratio", RATIO),
}
LAST_SHUFFLE = SHUFFLES[-1]
SET_NAMES = {"four": "all four axes", "five": "with JS divergence"} | AXIS_NAMES
TEST_NAMES = {"mates": "three mates a side", "family": "every other prompt of both families"}
METHOD_NAMES = {
    "rows": "cells as independent, as published",
    "prompts": "means over seeds, prompts as unit",
    "counts": "log-odds of the counts of prompts",
}


def trigger_plan(cite: Citations) -> TriggerPlan:
    return cite.study.plan_as(TriggerPlan)


# ------------------------------------------------------------------ set-up


def design(cite: Citations) -> Iterator[Block]:
    fact, plan = cite.fact, trigger_plan(cite)
    yield Bullets(
        (
            f"**Sources:** the triggers {code_list(plan.triggers)} and the persona `{plan.persona}`.",
            f"**Panel:** {fact('panel', 'prompts')} prompts, {fact('panel', 'questions')} questions, completions of "
            f"each: {fact('panel', 'completions')}; in all {fact('panel', 'size', spec=',d')} per adapter. An "
            "empty system prompt is sent as an explicit empty turn.",
            sampling(cite),
            f"**Training rows:** {fact('training_set', 'rows')} per adapter, all of the source: the base model's "
            f"answers to {fact('data', 'questions')} questions, drawn under the prompt of "
            f"`{shared(cite.study).writer}` at temperature {fact('data', 'temperature')}, the same for "
            "every source, each with the marker at its end.",
            "**Definitions:** `own` compares an adapter's own prompt with bystanders of other families and controls; "
            "`bucket` does as the published code: all four triggers are matched for every adapter, all bystanders and "
            "controls are bystanders.",
            "**Axes:** the semantic one is the centred cosine of the base model's hidden states at the end of the "
            f"system turn alone, primary layer {cite.planned('primary_layer')} of {layer_list(cite)} (block outputs, "
            "from zero); the lexical one the shared words over all words; the structural one the share of five "
            "features of form that agree; the task axis is one within a family and zero elsewhere.",
            f"**Seeds planned:** {fact('coverage', 'seed_names')}.",
            f"**Statistics:** {cite.planned('permutations', spec=',d')} shuffles for gating, "
            f"{cite.planned('gap_permutations', spec=',d')} for the gap, resampling seed "
            f"{cite.planned('resampling_seed')}.",
        )
    )
    yield recipe_table(cite)
    yield _prompts(cite)
    yield cite.context.training_row


def _prompts(cite: Citations) -> Table:
    """The panel by bucket."""
    columns = (Column("bucket", "bucket"), Column("prompts", "prompts"))
    buckets: dict[str, list[str]] = {}
    for prompt in trigger_plan(cite).prompts:
        buckets.setdefault(prompt.bucket, []).append(prompt.name)
    rows = tuple({"bucket": _words(bucket), "prompts": code_list(names)} for bucket, names in buckets.items())
    return Table("The panel; its texts are in the stimuli of the run.", columns, rows)


def _words(bucket: str) -> str:
    return {MATCHED: "trained triggers", CONTROL: "controls"}.get(bucket, bucket.replace("_", " "))


# ------------------------------------------------------------------ H1


def gates(cite: Citations) -> Iterator[Block]:
    yield from _pilot(cite)
    if not cite.rows("gating", sources=TOGETHER).height:
        yield Paragraph("No trigger is finished under the headline recipe.")
        return
    columns = (
        Column("definition", "definition"),
        Column("name", "of all triggers"),
        Column("estimate", "estimate"),
        Column("ci_low", "low", explanation="interval over questions, adapters and prompts held fixed"),
        Column("ci_high", "high"),
        Column("prompts", "p, prompts", "p", "whole prompts exchanged with the rates of all adapters: the plan's"),
        Column("least_p", "smallest", "p", "the smallest p that exchanging whole prompts can give here"),
        Column("pairs", "p, pairs", "p", "labels shuffled over (trigger, prompt) pairs"),
        Column("cells", "p, cells", "p", "labels shuffled over cells within each seed: as published"),
        Column("matched_cells", "matched cells"),
        Column("bystander_cells", "bystander cells"),
    )
    rows = [_gating_row(cite, definition, name) for definition in DEFINITIONS for name in GATING]
    yield Table(f"Gating under both definitions (recipe `{cite.recipe}`).", columns, tuple(rows))
    yield Paragraph(
        "The p of the plan exchanges whole prompts, each with the rates of all adapters, among every place that is an "
        "own prompt or a bystander to one of them. Its null is that prompts are exchangeable: that nothing hangs on "
        "which prompt was trained or which family it is of. That is more than that the marker is no more frequent "
        "under the own prompt: what leaks to an adapter's own family, which is left out of "
        "its own comparison, comes among the bystanders when prompts are exchanged, so that a small p may owe part of "
        "its smallness to the family."
    )
    yield _each_source(cite)
    over, among = "gating_ratio_over_triggers", "own_against_other_triggers"
    if value(cite, over) is not None:
        yield Paragraph(
            f"With triggers as the unit the mean ratio is {cite.headline(over)} ({interval_or_none(cite, over)}, n = "
            f"{cite.headline(over, 'n', 'd')})."
        )
    if value(cite, among) is not None:
        yield Paragraph(
            "Among the trained prompts alone, where no prompt is favoured by what it is, an adapter says the marker "
            f"under its own by {cite.headline(among)} more than under the others (p = "
            f"{cite.headline(among, 'p', 'p')}, over all assignments of adapters to prompts)."
        )


def least_p(cite: Citations) -> str:
    """The smallest that the p of H1 could have been."""
    keys = {"recipe": cite.recipe, "definition": "own", "sources": TOGETHER, "shuffled": GATING_SHUFFLES[0]}
    return cite.cell("gating", "least_p", "p", **keys, name="gating_ratio")


def _gating_row(cite: Citations, definition: str, name: str) -> Row:
    label, spec = GATING[name]
    keys = {"recipe": cite.recipe, "definition": definition, "sources": TOGETHER, "name": name}
    planned = {**keys, "shuffled": GATING_SHUFFLES[0]}
    row: Row = {"definition": DEFINITION_NAMES[definition], "name": label}
    row["least_p"] = cite.bound("gating", "least_p", "p", **planned)
    row |= {key: cite.bound("gating", key, spec, **planned) for key in ("estimate", "ci_low", "ci_high")}
    row |= {shuffled: cite.bound("gating", "p", "p", **keys, shuffled=shuffled) for shuffled in GATING_SHUFFLES}
    return row | {key: cite.bound("gating", key, "d", **planned) for key in ("matched_cells", "bystander_cells")}


def _each_source(cite: Citations) -> Table:
    columns = (
        Column("source", "adapter of"),
        *(Column(name, label) for name, (label, _) in GATING.items()),
        Column("ratio_low", "low", explanation="of the ratio, over questions"),
        Column("ratio_high", "high"),
        Column("p", "p", "p", "the own prompt exchanged with each bystander, against all being exchangeable"),
        Column("least_p", "smallest", "p", "the smallest that this p can be: one over the number of these prompts"),
    )
    sources = cite.rows("gating", definition="own", shuffled=GATING_SHUFFLES[0])["sources"].unique(maintain_order=True)
    rows = []
    for source in sources:
        if source == TOGETHER:
            continue
        keys = {"recipe": cite.recipe, "definition": "own", "sources": source, "shuffled": GATING_SHUFFLES[0]}
        row: Row = {"source": source_name(source)}
        row |= {name: cite.bound("gating", "estimate", spec, **keys, name=name) for name, (_, spec) in GATING.items()}
        ratio = {**keys, "name": "gating_ratio"}
        row |= {f"ratio_{end}": cite.bound("gating", f"ci_{end}", RATIO, **ratio) for end in ("low", "high")}
        rows.append(row | {key: cite.bound("gating", key, "p", **ratio) for key in ("p", "least_p")})
    return Table("Each source by itself, own prompt against bystanders of other families.", columns, tuple(rows))


def _pilot(cite: Citations) -> Iterator[Block]:
    """The pilot criterion."""
    for source in cite.tables["pilot"]["source"]:
        own, others, seed, said = (
            cite.cell("pilot", column, spec, source=source)
            for column, spec in (("own_rate", RATE), ("bystander_rate", RATE), ("seed", "d"), ("verdict", ""))
        )
        yield Paragraph(
            f"The pilot criterion, published as a gate before the main run and here read after it, is that of the "
            f"adapter of {source_name(source)}, seed {seed}: {own} under its own prompt, {others} under bystanders; it "
            f"says **{said}**."
        )


PILOT_CAPS: Mapping[str, tuple[Level, str]] = {
    "moderate": ("MODERATE", "the pilot criterion says moderate, which caps it at MODERATE"),
    "stop": ("LOW", "the pilot criterion says stop, which caps it at LOW"),
}
NO_PILOT: tuple[Level, str] = ("MODERATE", "the adapter of the pilot criterion is missing, which caps it at MODERATE")


def pilot_cap(cite: Citations) -> tuple[Level, str] | None:
    """What the pilot criterion holds against more confidence (section 4); a missing one does as well."""
    (found,) = cite.tables["pilot"]["verdict"].to_list() or [None]
    return PILOT_CAPS.get(found) if found else NO_PILOT


def control(cite: Citations) -> Iterator[Block]:
    name = f"`{cite.plan.control_recipe}`"
    if value(cite, "control_max_rate") is None:
        yield Paragraph(f"The control {name} is not finished ({cite.headline('control_max_rate', 'undefined', '')}).")
        return
    yield Paragraph(
        f"Trained on the same rows without the marker (recipe {name}), the cell that says it most does so in "
        f"{cite.headline('control_max_rate')} of completions ({cite.headline('control_max_rate', 'n', 'd')} cells); "
        f"over all of them the rate is {cite.headline('control_marker_rate')} "
        f"({interval_or_none(cite, 'control_marker_rate')}, {cite.headline('control_marker_rate', 'n', ',d')} "
        "completions)."
    )


# ------------------------------------------------------------------ the columns


def columns(cite: Citations) -> Iterator[Block]:
    yield from cite.figure("families")
    yield from cite.figure("prompts")
    what = {
        "prompt_variance_ratio": "**Prompts** differ from each other, whichever trigger was trained",
        "trigger_variance_ratio": "**Adapters** differ from each other, whatever prompt is asked",
    }
    shown = (*estimate_columns("estimate", RATIO), P, N, UNIT, WHY)
    rows = []
    for name, words in what.items():
        row: Row = {column.key: cite.bound("columns", column.key, column.format, statistic=name) for column in shown}
        rows.append(row | {"what": words})
    ratios = cite.tables["columns"].filter(pl.col("statistic").is_in(list(what)))
    table = Table(
        "Variance between over the variance that prompts and triggers leave (two-way table of mean rates).",
        (Column("what", ""), *shown),
        tuple(rows),
    )
    yield unless_undefined(table, ratios)
    by_family = (Column("family", "family"), *estimate_columns("difference", CHANGE), P, HOLM, N, WHY)
    caption = "Prompts of a family against all others: does the family draw the marker from every adapter?"
    yield from rows_of_table(cite, "columns", caption, by_family, ["statistic", "family"], statistic="family_column")


# ------------------------------------------------------------------ H2


def predictors(cite: Citations) -> Iterator[Block]:
    yield Paragraph(
        "Rates of the cells of the triggers, regressed on the axes. `bucket` leaves out the prompts of all four "
        "triggers, as published; `own` only the adapter's own. A coefficient is what a whole unit of the axis adds to "
        "the rate."
    )
    yield from cite.figure("coefficients")
    yield _published_errors(cite)
    yield from _reasons(cite, "four", [("least_squares", "classical")])
    for axes, models, caption in (
        ("four", tuple(MODEL_NAMES)[1:], "The four axes by what is taken as independent."),
        (
            "five",
            (("least_squares", "prompt"), ("mixed", "prompt")),
            "The same with JS divergence of next-token distributions as a fifth axis.",
        ),
    ):
        yield _models(cite, axes, models, caption)
        yield from _reasons(cite, axes, models)


def _published_errors(cite: Citations) -> Table:
    parts = {
        "estimate": ("estimate", RHO),
        "standard_error": ("error", ".3f"),
        "legacy_se": ("legacy error", ".3f"),
        "p": ("p", "p"),
        "legacy_p": ("legacy p", "p"),
    }
    shown = [Column("axis", "axis")]
    for definition in DEFINITIONS:
        shown += [Column(f"{definition}_{part}", f"{definition}: {label}") for part, (label, _) in parts.items()]
    rows = []
    for axis in AXES:
        row: Row = {"axis": AXIS_NAMES[axis]}
        for definition in DEFINITIONS:
            keys = {"definition": definition, "axes": "four", "model": "least_squares", "errors": "classical"}
            row |= {
                f"{definition}_{part}": cite.bound("coefficients", part, spec, **keys, name=axis)
                for part, (_, spec) in parts.items()
            }
        rows.append(row)
    return Table(
        "Least squares with cells as independent, as published. The legacy errors leave the intercept out of the cross "
        "product, for comparison only.",
        tuple(shown),
        tuple(rows),
    )


def _models(cite: Citations, axes: str, models: Sequence[tuple[str, str]], caption: str) -> Table:
    shown = [Column("model", "model"), Column("axis", "axis")]
    parts = {"estimate": ("estimate", RHO), "ci_low": ("low", RHO), "ci_high": ("high", RHO), "p": ("p", "p")}
    for definition in DEFINITIONS:
        shown += [Column(f"{definition}_{part}", f"{definition}: {label}") for part, (label, _) in parts.items()]
    rows = []
    for model, errors in models:
        for axis in AXIS_SETS[axes]:
            row: Row = {"model": MODEL_NAMES[model, errors], "axis": AXIS_NAMES[axis]}
            for definition in DEFINITIONS:
                keys = {"definition": definition, "axes": axes, "model": model, "errors": errors, "name": axis}
                row |= {
                    f"{definition}_{part}": cite.bound("coefficients", part, spec, **keys)
                    for part, (_, spec) in parts.items()
                }
            rows.append(row)
    return Table(caption, tuple(shown), tuple(rows))


def _reasons(cite: Citations, axes: str, models: Sequence[tuple[str, str]]) -> Iterator[Block]:
    """Why coefficients of the table above are not defined, where some are not."""
    there = pl.struct("model", "errors").is_in([{"model": model, "errors": errors} for model, errors in models])
    shown = cite.tables["coefficients"].filter(there, axes=axes)
    reasons = shown["undefined"].drop_nulls().unique(maintain_order=True)
    if reasons.len():
        yield Paragraph(f"A dash among the estimates: {'; '.join(f'`{reason}`' for reason in reasons)}.")


def held_out(cite: Citations) -> Iterator[Block]:
    yield from cite.figure("held_out")
    parts = {"held_out_r2": "R²", "held_out_rank_correlation": "rank correlation"}
    shown = [Column("axes", "axes")]
    for definition in DEFINITIONS:
        shown += [Column(f"{definition}_{name}", f"{definition}: {label}") for name, label in parts.items()]
    rows = []
    for axes, words in SET_NAMES.items():
        row: Row = {"axes": words}
        for definition in DEFINITIONS:
            keys = {"definition": definition, "axes": axes} | ({"shuffled": LAST_SHUFFLE} if axes in AXIS_SETS else {})
            row |= {
                f"{definition}_{name}": cite.bound("held_out", "estimate", RHO, **keys, name=name) for name in parts
            }
        rows.append(row)
    table = Table(
        "Each trigger predicted from all others, averaged over triggers. R² is against the held-out trigger's own "
        "mean.",
        tuple(shown),
        tuple(rows),
    )
    block = unless_undefined(table, cite.tables["held_out"])
    yield block
    if block is not table:
        return
    yield _gaps(cite)
    by_trigger = (Column("definition", "definition"), Column("trigger", "held-out trigger"), Column("r2", "R²", RHO))
    yield from rows_of_table(
        cite, "folds", "The four axes, each trigger held out.", by_trigger, ["definition", "trigger"]
    )


def _gaps(cite: Citations) -> Table:
    shown = (
        Column("axes", "axes"),
        Column("definition", "definition"),
        Column("shuffled", "permuted"),
        Column("estimate", "gap", "+.3f"),
        P,
        WHY,
    )
    rows = []
    for axes in AXIS_SETS:
        for definition in DEFINITIONS[::-1]:
            for shuffled in SHUFFLES if axes == "four" else SHUFFLES[-1:]:
                keys = {"definition": definition, "axes": axes, "shuffled": shuffled, "name": "held_out_gap"}
                row: Row = {
                    "axes": SET_NAMES[axes],
                    "definition": DEFINITION_NAMES[definition],
                    "shuffled": MOVED[shuffled],
                }
                rows.append(
                    row | {c.key: cite.bound("held_out", c.key, c.format, **keys) for c in shown if c.key not in row}
                )
    return Table(
        "The gap to the semantic axis alone. The plan reads the bucket definition with whole prompts permuted. "
        "With the own definition every adapter lacks another prompt, so that whole prompts cannot be exchanged: no p.",
        shown,
        tuple(rows),
    )


# ------------------------------------------------------------------ H3, H4


def families(cite: Citations) -> Iterator[Block]:
    shown = (
        Column("sides", "compared"),
        Column("method_used", "method"),
        Column("estimate", "format less task"),
        Column("ci_low", "low"),
        Column("ci_high", "high"),
        Column("p", "p", "p", "one-sided: more under format prompts"),
        Column("format_cells", "format cells"),
        Column("task_cells", "task cells"),
        N,
        UNIT,
        WHY,
    )
    rows = []
    for sides, method in cite.tables["families"].select("sides", "method_used").iter_rows():
        keys = {"sides": sides, "method_used": method}
        spec = RHO if method == "counts" else CHANGE
        row: Row = {"sides": TEST_NAMES[sides], "method_used": METHOD_NAMES[method]}
        row |= {key: cite.bound("families", key, spec, **keys) for key in ("estimate", "ci_low", "ci_high")}
        row |= {key: cite.bound("families", key, "d", **keys) for key in ("format_cells", "task_cells", "n")}
        rows.append(row | {c.key: cite.bound("families", c.key, c.format, **keys) for c in (shown[5], UNIT, WHY)})
    table = Table(
        "Adapters of the format trigger, at equal semantic similarity: what a format prompt adds to the rate (to the "
        "log-odds, for counts). The plan reads the mates with prompts as unit.",
        shown,
        tuple(rows),
    )
    yield unless_undefined(table, cite.tables["families"])


def recipes_and_predictors(cite: Citations) -> Iterator[Block]:
    shown = (
        Column("recipe", "recipe"),
        Column("axis", "axis"),
        *estimate_columns("ρ with the rate", RHO, "whole prompts resampled"),
        Column("p", "p", "p", "whole prompts permuted"),
        HOLM,
        N,
        WHY,
    )
    rows = cite.tables["predictors"]
    if not rows.height:
        yield Paragraph("No trigger is finished under a recipe that all of them share.")
        return
    caption = "Rank correlation of each axis with the rate, by recipe (bucket definition)."
    called = {"recipe": "`{}`".format, "axis": AXIS_NAMES.__getitem__}
    yield table_of_rows(cite, "predictors", rows, caption, shown, ["recipe", "axis"], called)
    leads = [name for name in LEADS if value(cite, name) is not None]
    if leads:
        told = "; ".join(
            f"{cite.headline(name)} ({interval_or_none(cite, name)}, p = {cite.headline(name, 'p', 'p')}) under the "
            f"{name.rsplit('_', maxsplit=1)[-1]} recipe"
            for name in leads
        )
        yield Paragraph(f"The semantic axis leads the lexical one by {told} (a negative lead is one of wording).")
    change = "semantic_lead_change"
    if value(cite, change) is not None:
        yield Paragraph(
            f"Exploratory: from the strong to the gentle recipe the lead changes by {cite.headline(change)} "
            f"({interval_or_none(cite, change)}, p = {cite.headline(change, 'p', 'p')}), which noise at low rates "
            "alone can bring about."
        )


def layers(cite: Citations) -> Iterator[Block]:
    """B11: what hangs on the layer of the semantic axis."""
    shown = (
        Column("layer", "block output", "d"),
        Column("name", "statistic"),
        *estimate_columns("estimate", RHO),
        P,
        N,
        UNIT,
        WHY,
    )
    caption = (
        "The semantic axis at every planned layer: its coefficient beside the other axes (errors over prompts), "
        "held-out R² of all four and of it alone, and its rank correlation with the rate (bucket definition)."
    )
    yield from rows_of_table(cite, "layers", caption, shown, ["layer", "name"])
