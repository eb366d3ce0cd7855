"""The figures of chain-of-thought leakage, from the tables of its analysis.

Plotly is imported where a figure is drawn: the definitions load this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from leakage_assets.studies.cot_leakage.analysis import HEADLINE_SCHEME
from leakage_assets.studies.cot_leakage.arms import ARMS
from leakage_assets.studies.cot_leakage.design import (
    AXES,
    BYSTANDER,
    COMMON,
    CONTRASTS,
    EXPLORATORY,
    MACRO,
    OWN_FORMAT,
    SOURCE_LOSS,
    Axis,
    Decisions,
    scaffold_of,
)
from leakage_assets.studies.cot_leakage.evaluation import SCAFFOLDS
from leakage_assets.studies.drawings import Drawing, Tables

if TYPE_CHECKING:
    import plotly.graph_objects as go

FAMILY_NAMES = {OWN_FORMAT: "own format", COMMON: "common scaffold (persona tag)"}
"""The own format leads: only there is every arm looked at as it was trained (E1)."""

AXIS_NAMES = {SOURCE_LOSS: "trained persona", BYSTANDER: "bystanders"}
ARM_NAMES = {
    "no_cot": "no rationale",
    "generic_cot": "generic",
    "persona_cot": "persona",
    "persona_cot_correct": "persona, right letter",
    "garbage_cot": "garbage",
    "scrambled_english_cot": "scrambled",
    "contradicting_cot": "contradicting",
    "generic_cot_correct": "generic, right letter",
    "contradicting_persona": "contradicting persona",
    "random_tokens": "random tokens",
    "base": "untrained base",
}
SCAFFOLD_NAMES = {
    "no_cot": "no rationale",
    "generic_cot": "opener",
    "persona_cot": "persona tag",
    "empty_persona_cot_eval": "empty persona tag",
    "neutral_cot": "neutral tag",
}


def drawings(decisions: Decisions) -> tuple[Drawing[Decisions], ...]:
    """The planned figures in reading order."""
    level = f"{decisions.level:.0%}"
    two_arms = "both arms of a contrast finished by one source"
    return (
        Drawing(
            "contrasts",
            "**How much more accuracy one arm loses than another** (mean over sources, "
            f"`{decisions.adapter_level:.0%}` intervals over questions and adapters). In its own format an "
            "arm is asked with the tag it was trained with; the common scaffold has the persona tag, which one kind of "
            "arm alone was trained with.",
            _contrasts,
            two_arms,
        ),
        Drawing(
            "accuracy_source",
            "**Accuracy of the trained persona by arm and scaffold** (mean over sources and seeds). A diamond marks "
            "the format that an arm was trained in.",
            lambda _, tables: _accuracy(tables, SOURCE_LOSS),
            "a finished arm",
        ),
        Drawing(
            "accuracy_bystanders",
            "**Accuracy of all other personas by arm and scaffold** (mean over sources and seeds). A diamond marks the "
            "format that an arm was trained in.",
            lambda _, tables: _accuracy(tables, BYSTANDER),
            "a finished arm",
        ),
        *(
            Drawing(
                f"per_source_{axis}",
                f"**The same contrasts for every source: {AXIS_NAMES[axis]}** (own format, `{level}` intervals over "
                "questions).",
                lambda _, tables, axis=axis: _per_source(tables, axis),  # type: ignore[misc]
                two_arms,
            )
            for axis in AXES
        ),
    )


def _named(table: pl.DataFrame) -> pl.DataFrame:
    """Contrasts with their words, in the planned order."""
    order = [contrast.name for contrast in (*CONTRASTS, *EXPLORATORY)]
    words = pl.concat_str(pl.col("first").replace(ARM_NAMES), pl.lit(" − "), pl.col("second").replace(ARM_NAMES))
    return (
        table.drop_nulls("estimate")
        .with_columns(words.alias("words"))
        .sort(
            pl.col("contrast").cast(pl.Enum(order)),
            pl.col("axis").cast(pl.Enum(AXES)),
            pl.col("family").cast(pl.Enum(list(FAMILY_NAMES))),
            maintain_order=True,
        )
    )


def _contrasts(_: Decisions, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.prompt_figures import interval_plot

    rows = _named(tables["both"])
    label = pl.concat_str("words", pl.lit(": "), pl.col("axis").replace(AXIS_NAMES))
    return interval_plot(
        rows.select(label.alias("label"), pl.col("family").replace(FAMILY_NAMES).alias("series"), *_interval(), "n"),
        title="Loss of accuracy, one arm minus another",
        x_title="difference of the accuracy lost",
    )


def _per_source(tables: Tables, axis: Axis) -> go.Figure:
    from leakage_assets.reporting.prompt_figures import interval_plot

    rows = _named(tables["contrasts"].filter(pl.col("scheme") == HEADLINE_SCHEME)).filter(
        pl.col("unit_of") != MACRO, pl.col("family") == OWN_FORMAT, pl.col("axis") == axis
    )
    return interval_plot(
        rows.select(pl.col("words").alias("label"), pl.col("unit_of").alias("series"), *_interval(), "n"),
        title=f"Loss of accuracy by source: {AXIS_NAMES[axis]}",
        x_title="difference of the accuracy lost",
    )


def _interval() -> tuple[str, ...]:
    return ("estimate", "ci_low", "ci_high")


def _accuracy(tables: Tables, axis: Axis) -> go.Figure:
    from leakage_assets.reporting.prompt_figures import rate_heatmap

    own = {one.name: scaffold_of(OWN_FORMAT, one.name) for one in ARMS}
    rows = tables["accuracy"].filter(pl.col("axis") == axis)
    grid = (
        rows.with_columns(
            (pl.col("arm").replace_strict(own, default=None) == pl.col("scaffold")).fill_null(False).alias("own")
        )
        .sort(
            pl.col("arm").cast(pl.Enum(["base", *own])),
            pl.col("scaffold").cast(pl.Enum([one.name for one in SCAFFOLDS])),
        )
        .select(
            pl.col("arm").replace(ARM_NAMES).alias("row"),
            pl.col("scaffold").replace(SCAFFOLD_NAMES).alias("column"),
            pl.col("accuracy").alias("rate"),
            "own",
        )
    )
    return rate_heatmap(
        grid,
        title=f"Accuracy by arm and scaffold: {AXIS_NAMES[axis]}",
        x_title="scaffold of the question",
        y_title="arm trained on",
        marked="own",
        what="accuracy",
    )
