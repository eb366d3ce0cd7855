"""The planned analysis on scores whose truth is planted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from scipy import stats

from leakage_assets.geometry.prompt_axes import AXES
from leakage_assets.statistics.result import Estimate, StatisticsError
from leakage_assets.stimuli import Stimuli, load_stimuli
from leakage_assets.studies.trigger_leakage.analysis import analyse
from leakage_assets.studies.trigger_leakage.cells import axis_table, count_markers, rate_cells
from leakage_assets.studies.trigger_leakage.design import TriggerPlan
from leakage_assets.studies.trigger_leakage.followups import dissociation_table
from leakage_assets.studies.trigger_leakage.gates import change, change_over_sources
from leakage_assets.studies.trigger_leakage.panel import PanelPrompt
from leakage_assets.studies.trigger_leakage.predictors import RATIOS, column_table, layer_table
from leakage_assets_tests.studies.trigger_leakage.worlds import (
    Design,
    Rate,
    continuations,
    plan_of,
    published_design,
    scores,
    similarities,
    tables,
)

QUICK = {"permutations": 499, "gap_permutations": 99}
LEXICAL_SLOPE, STRUCTURE_SLOPE = 0.8, 0.1


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    return load_stimuli()


@pytest.fixture(scope="module")
def plan(stimuli: Stimuli) -> TriggerPlan:
    return plan_of(stimuli, **QUICK)


def columns_of(plan: TriggerPlan, seed: int = 3) -> dict[str, float]:
    """A level of every prompt; instructions draw the marker from everyone."""
    rng = np.random.default_rng(seed)
    return {p.name: 0.05 * rng.uniform(-1, 1) + 0.25 * (p.family == "instruction") for p in plan.prompts}


def planted(plan: TriggerPlan) -> Rate:
    """Gated, spread by wording and structure, with a column effect; the stronger the recipe the less specific."""
    axes = {
        (s, p): (lexical, structural)
        for s, p, lexical, structural in axis_table(plan, similarities(plan), plan.primary_layer)
        .select("source", "prompt_name", "lexical_jac", "struct_match")
        .iter_rows()
    }
    levels = columns_of(plan)
    strength = {"strong": 1.0, "rank16_high": 0.9, "matched": 0.5, "rank32_low": 0.15, "rank16_low": 0.0}

    def rate(recipe: str, source: PanelPrompt, prompt: PanelPrompt) -> float:
        if recipe == plan.control_recipe:
            return 0.0
        share = strength[recipe]
        if source.name == prompt.name:
            gentle_persona = 0.1 if source.name == plan.persona else 0.0
            return min(1.0, 0.7 * share**0.5 + gentle_persona * share)
        lexical, structural = axes[source.name, prompt.name]
        spill = 0.1 + levels[prompt.name] + LEXICAL_SLOPE * lexical + STRUCTURE_SLOPE * structural
        return float(np.clip(share * spill * (0.3 if source.name == plan.persona else 1.0), 0, 1))

    return rate


def sampled(plan: TriggerPlan, *, completions: int = 6, seed: int = 1) -> dict[str, pl.DataFrame]:
    design = replace(published_design(plan), completions=completions)
    rate = planted(plan)
    only = Design({plan.headline_recipe: design.adapters[plan.headline_recipe]}, completions=completions)
    letters = {"A": 0.8, "B": 0.3, "C": 0.75, "D": 0.3}
    return {
        "main": scores(plan, design, rate, seed=seed),
        "declarative": scores(plan, only, rate, seed=seed + 1, names=[r for _, r in plan.rewrites]),
        "dissociation": continuations(plan, lambda _, cell: letters[cell], seed=seed + 2),
    }


@pytest.fixture(scope="module")
def given(plan: TriggerPlan) -> dict[str, pl.DataFrame]:
    return sampled(plan)


@pytest.fixture(scope="module")
def found(plan: TriggerPlan, given: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    return analyse(
        plan, tables(plan, given["main"], declarative=given["declarative"], dissociation=given["dissociation"])
    )


def one(table: pl.DataFrame, **where: object) -> dict[str, object]:
    rows = table.filter(**where)
    assert rows.height == 1, (where, rows.height)
    return rows.row(0, named=True)


def verdicts(tables_: Mapping[str, pl.DataFrame]) -> dict[str, str]:
    return dict(tables_["verdicts"].select("hypothesis", "verdict").iter_rows())


def test_every_planned_statistic_is_there_and_nothing_is_nan(found: dict[str, pl.DataFrame], plan: TriggerPlan) -> None:
    headline = found["headline"]
    assert headline["statistic"].is_unique().all()
    planned = headline.filter(status="planned")["statistic"].to_list()
    assert set(planned) == {h.statistic for h in plan.hypotheses}
    for name, table in found.items():
        for column in table.columns:
            if table[column].dtype.is_float():
                assert not table[column].is_nan().any(), (name, column)
                assert table[column].drop_nulls().is_finite().all(), (name, column)
        if "estimate" in table.columns and "undefined" in table.columns:
            assert (table["estimate"].is_null() == table["undefined"].is_not_null()).all(), name


def test_h1_under_both_definitions(plan: TriggerPlan, given, found: dict[str, pl.DataFrame]) -> None:
    main = given["main"].filter(recipe="strong").filter(pl.col("source") != plan.persona)
    rate = main.group_by("source", "seed", "prompt_name").agg(pl.col("marker_present").mean())
    roles = {(t, p.name): (p.bucket, p.family == plan.prompt(t).family) for t in plan.triggers for p in plan.prompts}
    own, far, matched, bystander = [], [], [], []
    for source, _, prompt, value in rate.iter_rows():
        bucket, related = roles[source, prompt]
        if source == prompt:
            own.append(value)
        if bucket == "control" or (bucket == "cross_family_bystander" and not related):
            far.append(value)
        if bucket == "matched":
            matched.append(value)
        if bucket in ("control", "cross_family_bystander"):
            bystander.append(value)
    gating = found["gating"].filter(recipe="strong", sources="triggers", shuffled="prompts")
    for definition, high, low in (("own", own, far), ("bucket", matched, bystander)):
        rows = gating.filter(definition=definition)
        assert (rows["matched_cells"][0], rows["bystander_cells"][0]) == (len(high), len(low))
        assert one(rows, name="matched_rate")["estimate"] == pytest.approx(np.mean(high))
        assert one(rows, name="bystander_rate")["estimate"] == pytest.approx(np.mean(low))
        ratio = one(rows, name="gating_ratio")
        assert ratio["estimate"] == pytest.approx(np.mean(high) / np.mean(low))
        headline = one(found["headline"], statistic=f"gating_ratio_{definition}")
        assert [headline[k] for k in ("estimate", "ci_low", "p")] == [ratio[k] for k in ("estimate", "ci_low", "p")]
    # B1: 12 and 96 of own triggers, 48 and 120 by bucket.
    assert sorted(gating["matched_cells"].unique()) == [12, 48]
    assert sorted(gating["bystander_cells"].unique()) == [96, 120]


def test_gating_of_every_source_and_recipe(found: dict[str, pl.DataFrame], plan: TriggerPlan) -> None:
    gating = found["gating"]
    assert set(gating.filter(recipe="strong")["sources"]) == {"triggers", *plan.triggers, "villain"}
    assert set(gating.filter(sources="villain")["definition"]) == {"own"}
    assert set(gating.filter(sources="T_task", recipe="rank16_low")["undefined"].drop_nulls()) == {
        "no bystander says the marker"
    }
    assert set(gating.filter(sources="triggers")["shuffled"]) == {"prompts", "pairs", "cells"}
    assert set(gating.filter(sources="T_task")["shuffled"]) == {"prompts"}


def test_the_verdicts_follow_the_planted_truth(found: dict[str, pl.DataFrame]) -> None:
    decided = verdicts(found)
    decided.pop("H3")  # nothing is planted of the family beyond wording and structure
    assert decided == {
        "H1": "not supported",  # 0.7 against about 0.3
        "H1-aux": "supported",
        "H2": "supported",  # wording and structure spread the marker alike for every trigger
        "H4": "not supported",  # wording leads under every recipe
        "H5": "supported",
        "H6": "supported",
        "H7": "supported",
    }


def test_a_gate_that_is_planted_is_found(plan: TriggerPlan) -> None:
    design = Design({plan.headline_recipe: dict.fromkeys(plan.triggers, (42, 137, 256))}, completions=3)
    gated = scores(plan, design, lambda _, s, p: 0.8 if s.name == p.name else 0.1, seed=5)
    headline = analyse(plan, tables(plan, gated))["headline"]
    ratio = one(headline, statistic="gating_ratio_own")
    assert ratio["ci_low"] < 8 < ratio["ci_high"] and ratio["p"] == 1 / 500
    assert one(headline, statistic="gating_ratio_over_triggers")["ci_low"] > 4
    assert one(headline, statistic="own_against_other_triggers")["p"] == pytest.approx(1 / 24)
    # The bucket's ratio is diluted by the other three triggers.
    assert one(headline, statistic="gating_ratio_bucket")["estimate"] == pytest.approx(
        (0.8 + 3 * 0.1) / 4 / 0.1, rel=0.1
    )


def test_coefficients_are_those_of_statsmodels_on_the_384_cells(plan: TriggerPlan, given, found) -> None:
    cells = rate_cells(plan, count_markers(plan, given["main"])).filter(recipe="strong")
    axes = axis_table(plan, similarities(plan), plan.primary_layer)
    rows = cells.filter(pl.col("source").is_in(plan.triggers), pl.col("bucket") != "matched").join(
        axes, on=["source", "prompt_name"], how="left", maintain_order="left"
    )
    assert rows.height == 384
    matrix = sm.add_constant(rows.select(AXES).to_numpy())
    plain = sm.OLS(rows["rate"].to_numpy(), matrix).fit()
    codes = rows.select(pl.struct("source", "prompt_name").rank("dense"))["source"].to_numpy()
    pair = sm.OLS(rows["rate"].to_numpy(), matrix).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    slopes = matrix[:, 1:]
    bare = np.sqrt(plain.mse_resid * np.diag(np.linalg.inv(slopes.T @ slopes)))
    table = found["coefficients"].filter(definition="bucket", axes="four", model="least_squares")
    for place, axis in enumerate(AXES, start=1):
        classical = one(table, errors="classical", name=axis)
        assert classical["estimate"] == pytest.approx(plain.params[place])
        assert classical["standard_error"] == pytest.approx(plain.bse[place])
        assert classical["p"] == pytest.approx(plain.pvalues[place], rel=1e-6)
        assert classical["legacy_se"] == pytest.approx(bare[place - 1])
        legacy = plain.params[place] / bare[place - 1]
        assert classical["legacy_p"] == pytest.approx(2 * stats.t.sf(abs(legacy), 379), rel=1e-6)
        clustered = one(table, errors="pair", name=axis)
        assert clustered["p"] == pytest.approx(pair.pvalues[place], rel=1e-6)
        assert (classical["n"], clustered["n"]) == (384, 128)
        assert (one(table, errors="prompt", name=axis)["n"], one(table, errors="two_way", name=axis)["n"]) == (32, 4)
    own = found["coefficients"].filter(definition="own", axes="five", model="least_squares", errors="classical")
    assert own.height == 5 and set(own["n"]) == {420}


def test_the_models_with_levels_of_prompts_find_the_planted_slopes(found: dict[str, pl.DataFrame]) -> None:
    table = found["coefficients"].filter(definition="bucket", axes="four")
    for model in ("mixed", "fixed_effects"):
        lexical = one(table, model=model, name="lexical_jac")
        assert lexical["ci_low"] < LEXICAL_SLOPE < lexical["ci_high"], model
        structural = one(table, model=model, name="struct_match")
        assert structural["ci_low"] < STRUCTURE_SLOPE < structural["ci_high"], model
    widths = {
        model: one(table, model=model, errors=errors, name="lexical_jac")
        for model, errors in (("least_squares", "prompt"), ("mixed", "prompt"))
    }
    width = {model: row["ci_high"] - row["ci_low"] for model, row in widths.items()}
    assert width["mixed"] < width["least_squares"]


def test_fixed_levels_are_fitted_to_means_over_seeds(plan: TriggerPlan, given, found) -> None:
    """One row per (trigger, prompt), classical errors: 4 slopes, 3 triggers, 31 prompts and an intercept of 128."""
    cells = rate_cells(plan, count_markers(plan, given["main"])).filter(recipe="strong")
    means = (
        cells.filter(pl.col("source").is_in(plan.triggers), pl.col("bucket") != "matched")
        .group_by("source", "prompt_name", maintain_order=True)
        .agg(pl.col("rate").mean())
        .join(axis_table(plan, similarities(plan), plan.primary_layer), on=["source", "prompt_name"], how="left")
    )
    levels = means.select("source", "prompt_name").to_dummies(drop_first=True).to_numpy()
    fit = sm.OLS(means["rate"].to_numpy(), sm.add_constant(np.hstack([means.select(AXES).to_numpy(), levels]))).fit()
    table = found["coefficients"].filter(definition="bucket", axes="four", model="fixed_effects")
    for place, axis in enumerate(AXES, start=1):
        row = one(table, name=axis)
        assert (row["estimate"], row["p"]) == (
            pytest.approx(fit.params[place]),
            pytest.approx(fit.pvalues[place], rel=1e-6),
        )
        assert (row["n"], row["unit"]) == (128, "(trigger, prompt)") and f"t on {fit.df_resid:.0f} df" in row["method"]


def test_the_column_effect_is_seen_where_it_is_planted(found: dict[str, pl.DataFrame]) -> None:
    columns = found["columns"]
    ratio = one(columns, statistic="prompt_variance_ratio")
    assert ratio["ci_low"] > 1 and ratio["p"] < 1e-10
    assert one(found["headline"], statistic="prompt_variance_ratio")["estimate"] == ratio["estimate"]
    assert one(columns, statistic="trigger_variance_ratio")["estimate"] < 0.1 * ratio["estimate"]
    contrasts = dict(columns.filter(statistic="family_column").select("family", "estimate").iter_rows())
    assert max(contrasts, key=contrasts.__getitem__) == "instruction"
    assert one(columns, family="instruction")["ci_low"] > 0.1


def test_a_ratio_of_variances_has_no_limit_below_zero(plan: TriggerPlan) -> None:
    design = Design({plan.headline_recipe: dict.fromkeys(plan.triggers, (42,))}, completions=4)
    cells = rate_cells(plan, count_markers(plan, scores(plan, design, lambda *_: 0.5, seed=21)))
    ratios = column_table(plan, cells).filter(pl.col("statistic").is_in(RATIOS))
    assert ratios["ci_low"].to_list() == [0.0, 0.0]
    assert all(method.endswith("clipped to the possible range") for method in ratios["method"])


def test_families_and_axes_are_adjusted_for_each_other(found: dict[str, pl.DataFrame]) -> None:
    contrasts = found["columns"].filter(statistic="family_column")
    least = contrasts.sort("p").row(0, named=True)
    assert least["p_holm"] == pytest.approx(min(1.0, 4 * least["p"]))
    for (_,), axes in found["predictors"].group_by("recipe"):
        assert axes["p_holm"].min() == pytest.approx(min(1.0, 5 * axes["p"].min()))


def test_every_planned_layer_is_analysed(plan: TriggerPlan, given, found) -> None:
    """B11: the primary layer's row is the headline's, and another layer has its own similarity."""
    layers = found["layers"]
    assert layers["layer"].unique().sort().to_list() == sorted(plan.layers) and layers.height == 4 * len(plan.layers)
    primary = one(layers, layer=plan.primary_layer, name="semantic_coefficient")
    same = one(
        found["coefficients"],
        definition="bucket",
        axes="four",
        model="least_squares",
        errors="prompt",
        name="semantic_cos",
    )
    assert (primary["estimate"], primary["p"]) == (same["estimate"], same["p"])
    r2 = one(layers, layer=plan.primary_layer, name="held_out_r2")
    assert r2["estimate"] == one(found["headline"], statistic="held_out_r2")["estimate"]
    main = rate_cells(plan, count_markers(plan, given["main"])).filter(recipe="strong")
    other = similarities(plan).with_columns(
        pl.when((pl.col("measure") == plan.semantic) & (pl.col("layer") == 20))
        .then(-pl.col("value"))
        .otherwise("value")
        .alias("value")
    )
    turned = layer_table(plan, main, other).filter(name="semantic_rank_correlation")
    rho = dict(turned.select("layer", "estimate").iter_rows())
    assert rho[20] == pytest.approx(-rho[19]) and rho[15] == rho[19]


def test_held_out_prediction(plan: TriggerPlan, found: dict[str, pl.DataFrame]) -> None:
    held = found["held_out"].filter(definition="bucket", axes="four")
    gaps = {row["shuffled"]: row for row in held.filter(name="held_out_gap").iter_rows(named=True)}
    assert set(gaps) == {"rows", "pairs", "prompts"}
    assert len({row["estimate"] for row in gaps.values()}) == 1
    assert all(row["p"] is not None for row in gaps.values())
    assert one(found["headline"], statistic="held_out_gap")["p"] == gaps["prompts"]["p"]
    folds = found["folds"].filter(definition="bucket")
    assert folds["trigger"].to_list() == list(plan.triggers)
    assert one(held, name="held_out_r2", shuffled="rows")["estimate"] == pytest.approx(folds["r2"].mean())
    own = found["held_out"].filter(definition="own", axes="four", name="held_out_gap", shuffled="prompts")
    assert own["p"].is_null().all() and "not alike" in own["method"][0]
    alone = found["held_out"].filter(pl.col("shuffled").is_null(), definition="bucket", name="held_out_r2")
    assert set(alone["axes"]) == {*AXES, "js_divergence"}


def test_h3_counts_prompts(found: dict[str, pl.DataFrame]) -> None:
    families = found["families"]
    mates = one(families, sides="mates", method_used="prompts")
    assert (mates["format_cells"], mates["task_cells"], mates["n"], mates["unit"]) == (9, 9, 6, "prompt")
    assert one(families, sides="mates", method_used="rows")["n"] == 18
    assert one(families, sides="mates", method_used="rows")["estimate"] == pytest.approx(mates["estimate"])
    wide = one(families, sides="family", method_used="prompts")
    assert (wide["format_cells"], wide["task_cells"], wide["n"]) == (21, 24, 15)
    assert one(found["headline"], statistic="family_preference")["p"] == mates["p"]


def test_h3_supports_a_preference_that_is_planted(plan: TriggerPlan) -> None:
    def rate(_: str, source: PanelPrompt, prompt: PanelPrompt) -> float:
        return 0.6 if source.family == prompt.family else 0.2

    design = Design({plan.headline_recipe: dict.fromkeys(plan.triggers, (42, 137, 256))})
    found = analyse(plan, tables(plan, scores(plan, design, rate, seed=8)))
    assert verdicts(found)["H3"] == "supported"
    preference = one(found["families"], sides="family", method_used="prompts")
    assert preference["ci_low"] < 0.4 < preference["ci_high"]
    assert one(found["families"], sides="family", method_used="counts")["p"] < 0.001


def test_titration_shows_emission_and_specificity(found: dict[str, pl.DataFrame], plan: TriggerPlan) -> None:
    points = found["titration"].filter(source="T_task")
    own = dict(points.filter(name="own_rate").select("recipe", "estimate").iter_rows())
    assert own["strong"] > own["matched"] > own["rank32_low"] > own["rank16_low"] == 0
    assert one(points, recipe="rank16_low", name="specificity")["undefined"] == "the own prompt never draws the marker"
    low = one(points, recipe="rank32_low", name="specificity")
    high = one(points, recipe="strong", name="specificity")
    assert low["estimate"] > high["estimate"] and low["ci_high"] <= 1.0001
    changes = found["changes"]
    everyone = {"sources", *plan.triggers, plan.persona}
    assert set(changes.select("source", "from_recipe", "to_recipe").iter_rows()) == {
        ("T_task", "rank16_low", "rank16_high"),
        *((source, "rank32_low", "strong") for source in everyone),
    }
    emission = one(changes, name="emission_change", to_recipe="strong", source="T_task")
    assert emission["estimate"] == pytest.approx(own["strong"] - own["rank32_low"], abs=1e-12)
    titrated = one(found["headline"], statistic="emission_change_titrated")
    assert [titrated[k] for k in ("estimate", "p", "n")] == [emission[k] for k in ("estimate", "p", "n")]
    assert one(changes, name="specificity_change", to_recipe="rank16_high")["undefined"] == (
        "the own prompt never draws the marker under rank16_low"
    )
    assert set(plan.titration) <= set(found["titration"]["recipe"])


def test_what_the_learning_rate_changes_is_tested_over_sources(plan: TriggerPlan, found) -> None:
    """The planned p is a paired t test of five sources, not of the questions asked of one of them."""
    points = found["titration"]
    for name, statistic in (("own_rate", "emission_change"), ("specificity", "specificity_change")):
        low, high = (
            [one(points, recipe=r, source=s, name=name)["estimate"] for s in (*plan.triggers, plan.persona)]
            for r in ("rank32_low", "strong")
        )
        row, test = one(found["headline"], statistic=statistic), stats.ttest_rel(high, low)
        assert row["estimate"] == pytest.approx(np.mean(np.subtract(high, low)))
        assert row["p"] == pytest.approx(test.pvalue)
        assert (row["n"], row["unit"], row["status"]) == (5, "source", "planned")


def test_a_learning_rate_that_does_nothing_on_average_is_seldom_found(plan: TriggerPlan) -> None:
    """Adapters differ from source to source for no reason of the recipe: questions of one of them would find it."""
    triggers = dict.fromkeys((*plan.triggers, plan.persona), (42, 137, 256))
    design = Design({plan.headline_recipe: triggers, plan.gentle_recipe: triggers}, questions=8, completions=4)
    rng = np.random.default_rng(31)
    asked = scores(plan, design, lambda *_: 0.0, seed=31).filter(
        pl.col("prompt_name").is_in([*triggers, "control_empty", "control_default"])
    )
    empty = count_markers(plan, asked)
    over_sources, over_questions = [], []
    for _ in range(40):
        level = {(r, s): rng.uniform(0.3, 0.9) for r in design.adapters for s in triggers}
        rates = [level[adapter] for adapter in empty.select("recipe", "source").iter_rows()]
        counts = empty.with_columns(pl.Series("found", rng.binomial(empty["total"], rates)))
        over_sources.append(change_over_sources(plan, counts, plan.gentle_recipe, plan.headline_recipe)[0].p)
        over_questions.append(change(plan, counts, "T_task", plan.gentle_recipe, plan.headline_recipe)[0].p)
    assert np.mean(np.array(over_sources) <= 0.05) <= 0.15
    assert np.mean(np.array(over_questions) <= 0.05) > 0.4


def test_specificity_by_other_means(plan: TriggerPlan, given, found) -> None:
    """The delta method against a jackknife over questions."""
    part = given["main"].filter(recipe="strong", source="T_task")
    far = [
        p.name
        for p in plan.prompts
        if p.bucket == "control" or (p.bucket == "cross_family_bystander" and p.family != "task")
    ]

    def value(rows: pl.DataFrame) -> float:
        own = rows.filter(prompt_name="T_task")["marker_present"].mean()
        return 1 - rows.filter(pl.col("prompt_name").is_in(far))["marker_present"].mean() / own

    questions = part["question_name"].unique().to_list()
    without = np.array([value(part.filter(pl.col("question_name") != q)) for q in questions])
    error = np.sqrt((len(questions) - 1) * np.var(without))
    row = one(found["titration"], source="T_task", recipe="strong", name="specificity")
    assert row["estimate"] == pytest.approx(value(part))
    half = (row["ci_high"] - row["ci_low"]) / 2 / stats.t.ppf(0.975, len(questions) - 1)
    assert half == pytest.approx(error, rel=0.1)


def test_a_persona_is_compared_only_at_equal_emission(plan: TriggerPlan, given, found) -> None:
    row = one(found["headline"], statistic="persona_minus_trigger_specificity")
    assert row["estimate"] > 0.1 and row["p"] < 0.01
    by_recipe = found["persona"]
    assert by_recipe["recipe"].to_list() == ["strong", "rank32_low", "matched"]
    assert one(by_recipe, recipe="matched")["p"] == row["p"]
    assert one(by_recipe, recipe="rank32_low")["estimate"] is not None
    assert "emission is not matched" in one(by_recipe, recipe="strong")["undefined"]
    strict = replace(plan, emission_margin=0.001)
    refused = one(analyse(strict, tables(plan, given["main"]))["headline"], statistic=row["statistic"])
    assert "emission is not matched" in refused["undefined"]
    nobody = given["main"].filter(~((pl.col("recipe") == "matched") & (pl.col("source") == plan.persona)))
    missing = one(analyse(plan, tables(plan, nobody))["headline"], statistic=row["statistic"])
    assert missing["undefined"] == "no finished cell of villain under matched"


def test_the_axis_that_leads_can_change_with_the_recipe(plan: TriggerPlan) -> None:
    axes = axis_table(plan, similarities(plan), plan.primary_layer)
    by_pair = {(r["source"], r["prompt_name"]): r for r in axes.iter_rows(named=True)}

    def rate(recipe: str, source: PanelPrompt, prompt: PanelPrompt) -> float:
        if source.name == prompt.name:
            return 0.7
        row = by_pair[source.name, prompt.name]
        leads = row["lexical_jac"] * 3 if recipe == plan.headline_recipe else 0.3 + 0.5 * row["semantic_cos"]
        return float(np.clip(leads, 0, 1))

    triggers = dict.fromkeys(plan.triggers, (42,))
    design = Design({plan.headline_recipe: triggers, plan.gentle_recipe: triggers})
    found = analyse(plan, tables(plan, scores(plan, design, rate, seed=9)))
    assert verdicts(found)["H4"] == "supported"
    strong = one(found["headline"], statistic="semantic_lead_strong")
    assert strong["ci_high"] < 0 < one(found["headline"], statistic="semantic_lead_gentle")["ci_low"]
    change = one(found["headline"], statistic="semantic_lead_change")
    gentle = one(found["headline"], statistic="semantic_lead_gentle")
    assert change["estimate"] == pytest.approx(gentle["estimate"] - strong["estimate"])
    assert change["ci_low"] > 0 and change["status"] == "exploratory"
    leader = found["predictors"].sort("estimate", descending=True).group_by("recipe", maintain_order=True).first()
    assert dict(leader.select("recipe", "axis").iter_rows()) == {"strong": "lexical_jac", "rank32_low": "semantic_cos"}
    assert set(found["predictors"]["unit"]) == {"prompt cluster"}


def test_dissociation_against_paired_tests(plan: TriggerPlan, given, found) -> None:
    table, rows = found["dissociation"], given["dissociation"].filter(source="T_format")
    means = rows.group_by("prompt_name", "question_set", "question_name").agg(pl.col("marker_present").mean())

    def grid(prompt: str, answers: str) -> np.ndarray:
        kept = means.filter(prompt_name=prompt, question_set=answers).sort("question_name")
        return kept["marker_present"].to_numpy()

    a, b, c = grid("T_format", "own_answer"), grid("T_task", "own_answer"), grid("T_format", "swapped_answer")
    assert one(table, source="T_format", statistic="A")["estimate"] == pytest.approx(a.mean())
    for name, other in (("prompt_effect", b), ("content_effect", c)):
        row, test = one(table, source="T_format", statistic=name), stats.ttest_rel(a, other)
        bounds = test.confidence_interval()
        assert row["estimate"] == pytest.approx((a - other).mean())
        assert (row["ci_low"], row["ci_high"], row["p"]) == pytest.approx((bounds.low, bounds.high, test.pvalue))
        assert (row["n"], row["unit"]) == (20, "question cluster")
    assert set(table.select("recipe", "source").iter_rows()) == {("strong", s) for s in (*plan.triggers, "triggers")}
    again = rows.with_columns(recipe=pl.lit("rank32_low"), source=pl.lit(plan.persona)).with_columns(
        prompt_name=pl.when(pl.col("prompt_name") == "T_format").then(pl.lit(plan.persona)).otherwise("prompt_name")
    )
    more = dissociation_table(plan, pl.concat([given["dissociation"], again]))
    assert one(more, recipe="rank32_low", source=plan.persona, statistic="prompt_effect")["estimate"] == pytest.approx(
        (a - b).mean()
    )
    together = one(found["headline"], statistic="prompt_effect_triggers")
    assert together["ci_low"] < 0.5 < together["ci_high"]
    assert abs(one(found["headline"], statistic="content_effect_triggers")["estimate"] - 0.05) < 0.1


def test_rewrites_are_paired_by_prompt(plan: TriggerPlan, given, found) -> None:
    def rates(frame: pl.DataFrame, names: list[str]) -> np.ndarray:
        kept = frame.filter(recipe="strong", source="T_context")
        means = kept.group_by("seed", "prompt_name").agg(pl.col("marker_present").mean())
        means = dict(means.group_by("prompt_name").agg(pl.col("marker_present").mean()).iter_rows())
        return np.array([means[name] for name in names])

    original = rates(given["main"], [o for o, _ in plan.rewrites])
    rewritten = rates(given["declarative"], [r for _, r in plan.rewrites])
    row = one(found["declarative"], recipe="strong", source="T_context", statistic="difference")
    test = stats.ttest_rel(rewritten, original)
    assert (row["estimate"], row["p"], row["n"]) == (
        pytest.approx((rewritten - original).mean()),
        pytest.approx(test.pvalue),
        8,
    )
    assert one(found["declarative"], source="T_context", statistic="original")["estimate"] == pytest.approx(
        original.mean()
    )
    assert one(found["headline"], statistic="declarative_difference")["n"] == 8


def test_positions_and_truncation_are_logged(found: dict[str, pl.DataFrame], given) -> None:
    table = found["positions"]
    assert table["completions"].sum() == given["main"].height
    assert table["truncated"].sum() == given["main"]["truncated"].sum()
    shares = table.group_by("recipe", "source", "prompt").agg(pl.col("share").sum())
    assert shares["share"].to_numpy() == pytest.approx(1)


def test_the_pilot_is_read_off_one_adapter(plan: TriggerPlan, given, found) -> None:
    assert one(found["pilot"])["verdict"] == "go"
    none = analyse(plan, tables(plan, given["main"].filter(pl.col("source") != "T_format")))["pilot"]
    assert none.height == 0


def test_one_adapter_alone_decides_what_it_can_and_no_more(plan: TriggerPlan) -> None:
    design = Design({plan.headline_recipe: {"T_task": (42,)}}, completions=2)
    found = analyse(plan, tables(plan, scores(plan, design, planted(plan), seed=11)))
    undefined = dict(
        found["headline"].filter(pl.col("undefined").is_not_null()).select("statistic", "undefined").iter_rows()
    )
    assert undefined["gating_ratio_over_triggers"] == "1 sources, fewer than 4"
    assert undefined["control_max_rate"] == "no finished cell of recipe no_marker"
    assert undefined["held_out_gap"] == "1 trigger, fewer than 4"
    assert undefined["family_preference"] == "no finished cell of a format trigger under recipe strong"
    assert undefined["emission_change_titrated"].startswith("no finished cell of T_task under rank32_low and strong")
    assert undefined["emission_change"] == "0 pairs, fewer than 4"
    assert undefined["declarative_difference"] == "no finished rewrites under recipe strong"
    assert undefined["semantic_lead_change"] == "no finished cell of recipe rank32_low"
    assert undefined["emission_change_titrated"].endswith("with the same seed")
    assert undefined["prompt_effect_triggers"] == "no finished continuations"
    assert undefined["semantic_lead_gentle"] == "no finished cell of recipe rank32_low"
    assert undefined["prompt_variance_ratio"].startswith("1 triggers and 32 prompts")
    assert set(verdicts(found).values()) <= {"undecided", "supported", "not supported"}
    assert verdicts(found)["H2"] == "undecided"


@pytest.mark.parametrize("triggers", [("T_task", "T_format"), ("T_task", "T_context", "T_format")])
def test_few_triggers_say_nothing_of_an_unseen_one(plan: TriggerPlan, triggers: tuple[str, ...]) -> None:
    design = Design({plan.headline_recipe: dict.fromkeys(triggers, (42,))}, completions=4)
    found = analyse(plan, tables(plan, scores(plan, design, planted(plan), seed=17)))
    reason = f"{len(triggers)} triggers, fewer than 4"
    assert one(found["headline"], statistic="held_out_gap")["undefined"] == reason
    assert set(found["held_out"]["undefined"]) == {reason}
    assert verdicts(found)["H2"] == "undecided" and found["folds"].is_empty()


def test_what_is_missing_is_what_is_said_to_be_missing(plan: TriggerPlan) -> None:
    """Of some triggers there are continuations and rewrites, and the two recipes share no trigger."""
    two = dict.fromkeys(("T_task", "T_format"), (42,))
    design = Design({plan.headline_recipe: two, plan.gentle_recipe: {"T_context": (42,)}}, completions=2)
    only = Design({plan.headline_recipe: two}, completions=2)
    rewrites = scores(plan, only, planted(plan), seed=19, names=[r for _, r in plan.rewrites])
    continued = continuations(plan, lambda *_: 0.5, seed=20).filter(pl.col("source").is_in(list(two)))
    main = scores(plan, design, planted(plan), seed=18)
    headline = analyse(plan, tables(plan, main, declarative=rewrites, dissociation=continued))["headline"]
    undefined = dict(headline.select("statistic", "undefined").iter_rows())
    others = "of T_instruction, T_context"
    assert undefined["declarative_difference"] == f"no finished rewrites under recipe strong {others}"
    assert undefined["prompt_effect_triggers"] == f"no finished continuations {others}"
    assert undefined["semantic_lead_change"] == "no trigger is finished under both strong and rank32_low"


def test_a_recipe_without_headline_cells_decides_nothing(plan: TriggerPlan) -> None:
    design = Design({plan.control_recipe: {"T_task": (42,)}}, completions=1)
    found = analyse(plan, tables(plan, scores(plan, design, planted(plan), seed=12)))
    assert verdicts(found) == {"H1-aux": "supported"} | dict.fromkeys(
        ("H1", "H2", "H3", "H4", "H5", "H6", "H7"), "undecided"
    )


def test_silent_adapters_are_undefined_and_never_nan(plan: TriggerPlan) -> None:
    design = replace(published_design(plan), completions=1)
    found = analyse(plan, tables(plan, scores(plan, design, lambda *_: 0.0, seed=13)))
    decided = verdicts(found)
    assert decided.pop("H1-aux") == "supported"
    assert set(decided.values()) == {"undecided"}
    for table in found.values():
        for column in table.columns:
            if table[column].dtype.is_float():
                assert not table[column].is_nan().any()
    reasons = set(found["coefficients"]["undefined"])
    assert reasons == {"the outcome does not vary"}
    assert one(found["headline"], statistic="prompt_variance_ratio")["undefined"] == "the values do not vary"


def test_seeds_that_differ_between_sources_leave_no_pairs_to_shuffle(plan: TriggerPlan) -> None:
    seeds = {"T_task": (42, 137), "T_instruction": (42,), "T_context": (42, 137), "T_format": (42, 137)}
    design = Design({plan.headline_recipe: seeds}, completions=2)
    found = analyse(plan, tables(plan, scores(plan, design, planted(plan), seed=14)))
    gaps = found["held_out"].filter(definition="bucket", axes="four", name="held_out_gap")
    p = dict(gaps.select("shuffled", "p").iter_rows())
    assert p["pairs"] is None and p["prompts"] is not None and p["rows"] is not None
    assert one(found["headline"], statistic="gating_ratio_own")["p"] is not None


def test_missing_or_foreign_rows_are_named(plan: TriggerPlan, given) -> None:
    main = given["main"].filter(recipe="strong")
    short = similarities(plan).filter(~((pl.col("source") == "T_task") & (pl.col("prompt_name") == "villain")))
    with pytest.raises(StatisticsError, match="'T_task' and 'villain'"):
        analyse(plan, tables(plan, main, similarity=short))
    with pytest.raises(StatisticsError, match="at layer 3"):
        analyse(replace(plan, primary_layer=3), tables(plan, main))
    strange = main.with_columns(prompt_name=pl.col("prompt_name").replace({"control_empty": "nobody"}))
    with pytest.raises(StatisticsError, match="'nobody'"):
        analyse(plan, tables(plan, strange))
    gap = main.filter(
        ~((pl.col("source") == "T_task") & (pl.col("prompt_name") == "T_task") & (pl.col("question_name") == "q00"))
    )
    with pytest.raises(StatisticsError, match="T_task, seed 42, under T_task: not asked all questions"):
        analyse(plan, tables(plan, gap))
    torn = given["dissociation"].filter(
        ~(
            (pl.col("question_name") == "t03")
            & (pl.col("question_set") == "own_answer")
            & (pl.col("source") == "T_task")
        )
    )
    with pytest.raises(StatisticsError, match="'t03' in cell A"):
        analyse(plan, tables(plan, main, dissociation=torn))


def test_estimates_survive_the_table(found: dict[str, pl.DataFrame]) -> None:
    names = list(Estimate.__slots__)
    for row in found["headline"].iter_rows(named=True):
        assert Estimate(**{name: row[name] for name in names}).as_row() == {name: row[name] for name in names}
