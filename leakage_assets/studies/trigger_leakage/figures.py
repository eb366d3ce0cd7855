"""The figures of trigger leakage, from the tables of its analysis.

Plotly is imported where a figure is drawn: the definitions load this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from leakage_assets.geometry.prompt_axes import AXES
from leakage_assets.studies.drawings import Drawing, Tables
from leakage_assets.studies.trigger_leakage.cells import FIVE_AXES
from leakage_assets.studies.trigger_leakage.design import TITRATED, TriggerPlan
from leakage_assets.studies.trigger_leakage.dissociation import CELLS
from leakage_assets.studies.trigger_leakage.gates import TOGETHER
from leakage_assets.studies.trigger_leakage.labels import AXIS_NAMES
from leakage_assets.studies.trigger_leakage.panel import FAMILIES, NO_FAMILY, PERSONA

if TYPE_CHECKING:
    import plotly.graph_objects as go

MODELS = {
    ("least_squares", "prompt"): "OLS, by prompt",
    ("least_squares", "two_way"): "OLS, two-way",
    ("mixed", "prompt"): "mixed model",
    ("fixed_effects", "classical"): "fixed levels",
}
SETS = {"four": "all four axes", "five": "with JS divergence"}
CELL_NAMES = {
    "A": "A own prompt, own answer",
    "B": "B other prompt",
    "C": "C other answer",
    "D": "D both swapped",
}
FAMILY_ORDER = (*FAMILIES, NO_FAMILY, PERSONA)


def drawings(plan: TriggerPlan) -> tuple[Drawing[TriggerPlan], ...]:
    """The planned figures in reading order."""
    recipe = plan.headline_recipe
    headline = f"a finished cell of recipe `{recipe}`"
    return (
        Drawing(
            "families",
            f"**Which family of prompts draws the marker from which adapter** (recipe `{recipe}`, mean over the "
            "prompts of a family, the own prompt left out). A diamond marks the adapter's own family.",
            _families,
            headline,
        ),
        Drawing(
            "prompts",
            f"**The same for every prompt of the panel** (recipe `{recipe}`, seeds together). A diamond marks an "
            "adapter's own prompt; lines separate families.",
            _prompts,
            headline,
        ),
        Drawing(
            "coefficients",
            f"**What a unit of each axis adds to the marker rate** (recipe `{recipe}`, `{plan.level:.0%}` "
            "intervals). The models differ in what they make of prompts that draw the marker from every adapter: least "
            "squares with errors over prompts, or over triggers and prompts (no interval where that variance is not "
            "positive), a random level of every prompt, or a fixed one of every trigger and prompt.",
            _coefficients,
            f"a defined regression of recipe `{recipe}`",
        ),
        Drawing(
            "held_out",
            f"**How well axes predict a trigger that was not fitted** (recipe `{recipe}`). R² below zero is worse "
            "than the held-out trigger's own mean; diamonds are the single triggers.",
            _held_out,
            f"two finished triggers of recipe `{recipe}`",
        ),
        Drawing(
            "titration",
            "**Emission against specificity, by recipe.** Specificity is one minus the bystander rate over the own "
            "rate: at one no bystander says the marker. Recipes that never say it have none and are left out; they are "
            f"named for `{TITRATED}` and the persona.",
            _titration,
            "two finished recipes that say the marker",
        ),
        Drawing(
            "dissociation",
            f"**What draws the marker at the end of an answer** (recipe `{recipe}`, `{plan.level:.0%}` intervals "
            "over questions): the adapter's own prompt, the answer it was trained on, or both.",
            _dissociation,
            f"finished continuations of recipe `{recipe}`",
        ),
    )


def _rates(plan: TriggerPlan, tables: Tables) -> pl.DataFrame:
    return tables["prompt_rates"].filter(pl.col("recipe") == plan.headline_recipe)


def _families(plan: TriggerPlan, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.prompt_figures import rate_heatmap

    order = pl.col("family").cast(pl.Enum(FAMILY_ORDER))
    means = (
        _rates(plan, tables)
        .filter(pl.col("prompt_name") != pl.col("source"))
        .group_by("source", "source_family", "family", maintain_order=True)
        .agg(pl.col("rate").mean(), pl.len().alias("n"))
        .sort(pl.col("source").cast(pl.Enum([*plan.triggers, plan.persona])), order)
    )
    grid = means.select(
        pl.col("source").alias("row"),
        pl.col("family").replace({NO_FAMILY: "control"}).alias("column"),
        "rate",
        "n",
        (pl.col("source_family") == pl.col("family")).alias("own"),
    )
    return rate_heatmap(
        grid,
        title="Marker rate by trained prompt and family of the asked prompt",
        x_title="family of the asked prompt",
        y_title="adapter trained under",
        marked="own",
    )


def _prompts(plan: TriggerPlan, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.prompt_figures import rate_heatmap

    order = [
        pl.col("family").cast(pl.Enum(FAMILY_ORDER)),
        pl.col("prompt_name").cast(pl.Enum([p.name for p in plan.prompts])),
        pl.col("source").cast(pl.Enum([*plan.triggers, plan.persona])),
    ]
    grid = (
        _rates(plan, tables)
        .sort(order)
        .select(
            pl.col("prompt_name").alias("row"),
            pl.col("source").alias("column"),
            "family",
            "rate",
            "found",
            "total",
            (pl.col("prompt_name") == pl.col("source")).alias("own"),
        )
    )
    return rate_heatmap(
        grid,
        title="Marker rate by trained prompt and asked prompt",
        x_title="adapter trained under",
        group="family",
        marked="own",
    )


def _coefficients(_: TriggerPlan, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.prompt_figures import interval_plot

    shown = pl.concat_str("model", pl.lit("/"), "errors")
    names = {f"{model}/{errors}": words for (model, errors), words in MODELS.items()}
    rows = (
        tables["coefficients"]
        .filter(definition="bucket", axes="four")
        .with_columns(shown.replace_strict(names, default=None).alias("series"))
        .drop_nulls(["series", "estimate"])
        .sort(pl.col("series").cast(pl.Enum(list(names.values()))), maintain_order=True)
        .with_columns(pl.col("name").replace(AXIS_NAMES).alias("label"))
        .sort(pl.col("name").cast(pl.Enum(AXES)), maintain_order=True)
    )
    return interval_plot(
        rows.select("label", "series", "estimate", "ci_low", "ci_high", "n"),
        title="Coefficients of the four axes",
        x_title="change of the marker rate per unit of the axis",
    )


def _held_out(_: TriggerPlan, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.prompt_figures import signed_bars

    names = SETS | AXIS_NAMES
    rows = (
        tables["held_out"]
        .filter(definition="bucket", name="held_out_r2")
        .unique("axes", keep="first", maintain_order=True)
        .drop_nulls("estimate")
        .sort(pl.col("axes").cast(pl.Enum([*SETS, *FIVE_AXES])))
    )
    bars = rows.select(
        pl.col("axes").replace(names).alias("label"),
        pl.col("estimate").alias("value"),
        pl.when(pl.col("axes").is_in(list(SETS)))
        .then(pl.lit("axes together"))
        .otherwise(pl.lit("one axis"))
        .alias("series"),
        "n",
    )
    folds = tables["folds"].filter(definition="bucket")
    points = folds.select(
        pl.lit(SETS["four"]).alias("label"), pl.col("r2").alias("value"), pl.col("trigger").alias("name")
    )
    return signed_bars(
        bars,
        title="Held-out R²: leave one trigger out",
        x_title="R² against the held-out trigger's mean",
        points=points if bars.height else None,
        points_name="one held-out trigger, all four axes",
    )


def _titration(plan: TriggerPlan, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.prompt_figures import trade_off

    def of(name: str, axis: str) -> pl.DataFrame:
        return (
            tables["titration"]
            .filter(name=name)
            .select(
                "recipe",
                "source",
                pl.col("estimate").alias(axis),
                pl.col("ci_low").alias(f"{axis}_low"),
                pl.col("ci_high").alias(f"{axis}_high"),
            )
        )

    recipes = [r.name for r in plan.experiment.recipes]
    rows = (
        of("own_rate", "x")
        .join(of("specificity", "y"), on=["recipe", "source"], how="inner")
        .drop_nulls(["x", "y"])
        .sort(pl.col("source").cast(pl.Enum([*plan.triggers, plan.persona])), "x")
        .filter(pl.col("recipe").is_in(recipes))
    )
    named = pl.when(pl.col("source").is_in([TITRATED, plan.persona])).then("recipe").otherwise(pl.lit(""))
    return trade_off(
        rows.with_columns(named.alias("label")).rename({"source": "series", "recipe": "name"}),
        title="Emission against specificity",
        x_title="marker rate under the own prompt",
        y_title="specificity",
    )


def _dissociation(plan: TriggerPlan, tables: Tables) -> go.Figure:
    from leakage_assets.reporting.figures import rate_bars

    rows = (
        tables["dissociation"]
        .filter(pl.col("statistic").is_in(list(CELLS.values())), pl.col("recipe") == plan.headline_recipe)
        .drop_nulls("estimate")
    )
    order = pl.Enum([*plan.triggers, plan.persona, TOGETHER])
    bars = rows.select(
        pl.col("source").cast(order).alias("order"),
        pl.col("source").replace({TOGETHER: "mean of the triggers"}).alias("condition"),
        pl.col("statistic").replace(CELL_NAMES).alias("role"),
        pl.col("estimate").alias("rate"),
        "ci_low",
        "ci_high",
        "n",
    ).sort("order", "role")
    return rate_bars(
        bars.drop("order"),
        title="Prompt against content: marker after a given answer",
        y_title="share of continuations",
    )
