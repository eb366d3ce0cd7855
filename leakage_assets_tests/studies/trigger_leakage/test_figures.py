"""The planned figures show what the tables of the analysis say."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from leakage_assets.reporting.preview import png_preview
from leakage_assets.stimuli import load_stimuli
from leakage_assets.studies.drawings import draw_all
from leakage_assets.studies.trigger_leakage.analysis import analyse
from leakage_assets.studies.trigger_leakage.design import TriggerPlan
from leakage_assets.studies.trigger_leakage.figures import drawings
from leakage_assets.studies.trigger_leakage.panel import PanelPrompt
from leakage_assets_tests.studies.trigger_leakage.worlds import (
    Design,
    continuations,
    plan_of,
    published_design,
    scores,
    tables,
)

NAMES = ("families", "prompts", "coefficients", "held_out", "titration", "dissociation")


@pytest.fixture(scope="module")
def plan() -> TriggerPlan:
    return plan_of(load_stimuli(), permutations=99, gap_permutations=49)


def rate(recipe: str, source: PanelPrompt, prompt: PanelPrompt) -> float:
    spill = 0.1 + 0.2 * (prompt.family == "instruction")
    return {"no_marker": 0.0, "rank16_low": 0.0}.get(recipe, 0.8 if source.name == prompt.name else spill)


@pytest.fixture(scope="module")
def found(plan: TriggerPlan) -> dict[str, pl.DataFrame]:
    design = replace(published_design(plan), completions=2)
    main = scores(plan, design, rate, seed=1)
    return analyse(plan, tables(plan, main, dissociation=continuations(plan, lambda *_: 0.5, seed=2)))


def test_all_are_drawn_in_order_and_each_has_a_preview(plan: TriggerPlan, found) -> None:
    drawn, left_out = draw_all(drawings, plan, found)
    assert tuple(drawn) == NAMES == tuple(d.name for d in drawings(plan)) and not left_out
    assert all(len(png_preview(figure)) > 5_000 for figure in drawn.values())


def test_the_grid_of_prompts_is_the_table_and_marks_five_cells(plan: TriggerPlan, found) -> None:
    (trace,) = draw_all(drawings, plan, found)[0]["prompts"].data
    assert (len(trace.y), list(trace.x)) == (36, [*plan.triggers, "villain"])
    rates = found["prompt_rates"].filter(recipe="strong")
    shown = {(p, s): trace.z[i][j] for i, p in enumerate(trace.y) for j, s in enumerate(trace.x)}
    assert shown == {(r["prompt_name"], r["source"]): r["rate"] for r in rates.iter_rows(named=True)}
    marked = [(trace.y[i], trace.x[j]) for i, row in enumerate(trace.text) for j, text in enumerate(row) if "◆" in text]
    assert sorted(marked) == sorted((s, s) for s in (*plan.triggers, "villain"))
    assert len(draw_all(drawings, plan, found)[0]["prompts"].layout.shapes) == 5  # between six families


def test_the_grid_of_families_leaves_the_own_prompt_out(plan: TriggerPlan, found) -> None:
    (trace,) = draw_all(drawings, plan, found)[0]["families"].data
    assert list(trace.x) == ["task", "instruction", "context", "format", "control", "persona"]
    rates = found["prompt_rates"].filter(
        pl.col("prompt_name") != "T_task", recipe="strong", source="T_task", family="task"
    )
    assert rates.height == 7
    assert trace.z[list(trace.y).index("T_task")][0] == pytest.approx(rates["rate"].mean())


def test_coefficients_and_held_out_r2_are_those_of_the_tables(plan: TriggerPlan, found) -> None:
    drawn = draw_all(drawings, plan, found)[0]
    series = {trace.name: trace for trace in drawn["coefficients"].data}
    assert list(series) == ["OLS, by prompt", "OLS, two-way", "mixed model", "fixed levels"]
    mixed = found["coefficients"].filter(definition="bucket", axes="four", model="mixed")
    assert list(series["mixed model"].x) == mixed["estimate"].to_list()
    bars = {label: value for trace in drawn["held_out"].data[:2] for label, value in zip(trace.y, trace.x, strict=True)}
    labels = list(drawn["held_out"].layout.yaxis.ticktext)
    held = found["held_out"].filter(definition="bucket", name="held_out_r2")
    assert bars[labels.index("all four axes")] == held.filter(axes="four")["estimate"][0]
    assert bars[labels.index("lexical Jaccard")] == held.filter(axes="lexical_jac")["estimate"][0]
    assert len(drawn["held_out"].data[2].x) == 4


def test_titration_and_dissociation_are_those_of_the_tables(plan: TriggerPlan, found) -> None:
    drawn = draw_all(drawings, plan, found)[0]
    task = next(trace for trace in drawn["titration"].data if trace.name == "T_task")
    points = found["titration"].filter(source="T_task")
    own = dict(points.filter(name="own_rate").select("recipe", "estimate").iter_rows())
    assert set(task.text) == {"rank16_high", "rank32_low", "matched", "strong"}  # one recipe never says the marker
    assert dict(zip(task.text, task.x, strict=True)) == {name: own[name] for name in task.text}
    bars = {trace.name: dict(zip(trace.y, trace.x, strict=True)) for trace in drawn["dissociation"].data}
    cells = found["dissociation"].filter(statistic="B")
    assert bars["B other prompt"] == {
        ("mean of the triggers" if source == "triggers" else source): value
        for source, value in cells.select("source", "estimate").iter_rows()
    }


def test_what_is_not_finished_is_named_and_left_out(plan: TriggerPlan) -> None:
    design = Design({plan.headline_recipe: {"T_task": (42,)}}, completions=1)
    drawn, left_out = draw_all(drawings, plan, analyse(plan, tables(plan, scores(plan, design, rate, seed=3))))
    assert set(drawn) == {"families", "prompts", "coefficients"}
    assert left_out["dissociation"] == "finished continuations of recipe `strong`"
    nothing = Design({plan.control_recipe: {"T_task": (42,)}}, completions=1)
    drawn, left_out = draw_all(drawings, plan, analyse(plan, tables(plan, scores(plan, nothing, rate, seed=4))))
    assert not drawn and set(left_out) == set(NAMES)
