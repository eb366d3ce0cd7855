"""The planned analysis on tables whose truth is planted: a source's rate as a known function of its cosine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from leakage_assets.reporting.figures import MissingRowsError
from leakage_assets.reporting.preview import png_preview
from leakage_assets.statistics.result import StatisticsError
from leakage_assets.stimuli import load_stimuli
from leakage_assets.studies.source_rate.analysis import (
    analyse,
    cosine_table,
    own_counts,
    points_at,
)
from leakage_assets.studies.source_rate.design import (
    GENERIC_SFT,
    IMPLANT,
    NEW,
    PUBLISHED_DRAW,
    SOURCES,
    SourceRatePlan,
    analysis_plan,
    planned_experiment,
)
from leakage_assets.studies.source_rate.figures import caption, scatter_with_fit
from leakage_assets.studies.verdicts import verdict_table
from leakage_assets_tests.studies.source_rate.worlds import (
    COMPLETIONS,
    COSINES,
    LAYERS,
    PRIMARY,
    QUESTIONS,
    SCALE,
    TOKENS,
    Rate,
    counts,
    falling,
    flat,
    never,
    planted_tables,
    tables,
)


@pytest.fixture(scope="module")
def plan() -> SourceRatePlan:
    return analysis_plan(SCALE, planned_experiment(load_stimuli(), SCALE))


def verdicts(found: dict[str, pl.DataFrame]) -> dict[str, str]:
    return dict(found["verdicts"].select("hypothesis", "verdict").iter_rows())


def headline(found: dict[str, pl.DataFrame], statistic: str) -> dict:
    return found["headline"].row(by_predicate=pl.col("statistic") == statistic, named=True)


def everything(found: dict[str, pl.DataFrame]) -> list[float]:
    """Every number of every table."""
    floats = [t[c] for t in found.values() for c in t.columns if t[c].dtype.is_float()]
    return [value for column in floats for value in column.drop_nulls()]


@pytest.fixture(scope="module")
def planted(plan: SourceRatePlan) -> dict[str, pl.DataFrame]:
    return analyse(plan, planted_tables())


def test_a_planted_relation_is_found_and_every_hypothesis_decided(planted: dict[str, pl.DataFrame]) -> None:
    assert set(verdicts(planted).values()) == {"supported"}, planted["verdicts"]
    assert headline(planted, "spearman")["estimate"] < -0.8
    assert headline(planted, "spearman")["p"] < 0.001
    assert "exact permutation p, all 12!" in headline(planted, "spearman")["method"]
    line = planted["line"].filter(sources="fitted", name="slope").row(0, named=True)
    assert line["ci_low"] <= -0.35 <= line["ci_high"]
    assert headline(planted, "new_sources_inside")["n"] == 2
    assert headline(planted, "widest_half_width")["estimate"] < 0.25
    assert headline(planted, "control_marker_rate")["n"] == 3 * QUESTIONS * COMPLETIONS
    assert np.isfinite(everything(planted)).all()


def test_the_slope_of_the_log_odds_has_an_interval_over_questions_and_one_over_sources(planted) -> None:
    over = {name: headline(planted, f"log_odds_slope_over_{name}") for name in ("questions", "sources")}
    assert (over["questions"]["n"], over["questions"]["unit"]) == (QUESTIONS, "question cluster")
    assert (over["sources"]["n"], over["sources"]["unit"]) == (12, "source")
    assert over["questions"]["estimate"] == pytest.approx(over["sources"]["estimate"])
    assert over["sources"]["ci_high"] < 0


def test_tables_say_what_scipy_says(plan: SourceRatePlan, planted: dict[str, pl.DataFrame]) -> None:
    points = planted["points"]
    assert points["source"].to_list() == list(SOURCES)
    assert points["role"].to_list() == ["fitted"] * 10 + ["new"] * 2
    assert points["seeds"].to_list() == [3] * 12
    theirs = stats.pearsonr(points["cosine"], points["rate"])
    row = planted["correlations"].row(
        by_predicate=(pl.col("layer") == PRIMARY) & (pl.col("name") == "pearson") & (pl.col("sources") == "all"),
        named=True,
    )
    assert (row["estimate"], row["p"]) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue, rel=1e-6))
    assert row["p_bonferroni"] == pytest.approx(min(1, len(LAYERS) * row["p"]))
    assert row["p"] <= row["p_holm"] <= row["p_bonferroni"]
    old = points.filter(role="fitted")
    fit = stats.linregress(old["cosine"], old["rate"])
    (first, second) = planted["predictions"].iter_rows(named=True)
    assert [first["target"], second["target"]] == list(NEW)
    assert first["predicted"] == pytest.approx(fit.intercept + fit.slope * 1.0)
    assert planted["refits"].group_by("coverage", maintain_order=True).len().rows() == [
        ("refit_coverage_published", 24),
        ("refit_coverage_fitted", 20),
        ("held_out_coverage", 12),
    ]
    assert planted["drop_one"].height == 24 and planted["influence"].height == 24
    groups = planted["categories"].filter(name="spearman")
    assert groups.select("category", "n").rows() == [("occupational", 6), ("character", 4), ("generic_helper", 2)]
    assert groups["undefined"].to_list() == [None, None, "2 points, fewer than 4"]


def test_any_source_can_be_the_reference_and_is_then_left_out(planted: dict[str, pl.DataFrame]) -> None:
    table = planted["references"]
    assert table["reference"].unique(maintain_order=True).to_list() == list(SOURCES)
    assert table["n"].unique().to_list() == [11]
    own = table.row(by_predicate=(pl.col("reference") == "assistant") & (pl.col("name") == "spearman"), named=True)
    assert own["estimate"] == pytest.approx(headline(planted, "spearman_without_reference")["estimate"])


def test_seeds_have_a_spread_and_recipes_their_rates(planted: dict[str, pl.DataFrame]) -> None:
    spread = planted["seeds"].filter(statistic="spearman", name="spearman_mean_over_seeds").row(0, named=True)
    assert (spread["n"], spread["unit"]) == (3, "seed") and spread["ci_low"] < spread["estimate"] < spread["ci_high"]
    assert planted["seeds"].filter(statistic="source_rate").height == 12 * 4
    rates = planted["rates"].group_by("recipe", maintain_order=True).len().rows()
    assert sorted(rates) == [(GENERIC_SFT, 1), (IMPLANT, 12), (PUBLISHED_DRAW, 2)]


def test_without_a_relation_none_is_claimed(plan: SourceRatePlan) -> None:
    claimed = 0
    for draw in range(20):
        found = points_at(plan, tables(counts(flat, draw=draw)), counts(flat, draw=draw), PRIMARY)
        claimed += stats.spearmanr(found.x, found.y).pvalue < 0.05
    assert claimed <= 4
    decided = verdicts(analyse(plan, tables(counts(flat, draw=3), counts(flat, recipe=GENERIC_SFT, sources=NEW[:1]))))
    assert {decided[h] for h in ("H1", "H4", "H5", "H6", "H7", "H8")} == {"not supported"}


def test_a_new_source_off_the_line_is_outside(plan: SourceRatePlan) -> None:
    off = counts(falling).with_columns(
        found=pl.when(pl.col("source") == "vendor_default_qwen").then(5).otherwise("found").cast(pl.Int64)
    )
    found = analyse(plan, tables(off))
    assert found["predictions"]["inside"].to_list() == [True, False]
    assert verdicts(found)["H2"] == "not supported" and headline(found, "new_sources_inside")["estimate"] == 1
    coverage = headline(found, "refit_coverage_fitted")
    assert coverage["estimate"] == 0


@pytest.mark.parametrize("rate", [never, lambda _: 1.0])
def test_rates_that_do_not_vary_decide_nothing_and_say_why(plan: SourceRatePlan, rate: Rate) -> None:
    found = analyse(plan, tables(counts(rate)))
    assert np.isfinite(everything(found)).all()
    assert set(verdicts(found).values()) == {"undecided"}
    assert headline(found, "spearman")["undefined"] == "y is constant"
    assert headline(found, "widest_half_width")["undefined"] == "the points lie on a line"
    assert "in any completion" in (reason := headline(found, "log_odds_slope_over_questions")["undefined"]) or (
        "in every completion" in reason
    )
    assert found["points"]["ci_low"].null_count() == 0
    figure = scatter_with_fit(plan, found)
    assert [trace.name for trace in figure.data] == ["fitted sources", "new sources"]


@pytest.mark.parametrize("finished", [0, 1, 2, 3, 5, 11])
def test_unfinished_sources_are_left_out_and_nothing_is_made_up_for_them(plan: SourceRatePlan, finished: int) -> None:
    some = counts(falling, sources=SOURCES[:finished]) if finished else counts(falling).clear()
    found = analyse(plan, tables(some))
    assert np.isfinite(everything(found)).all()
    assert verdicts(found)["H2"] == verdicts(found)["H3"] == "undecided"
    assert found["points"]["source"].to_list() == list(SOURCES[:finished])
    missing = headline(found, "new_sources_inside")["undefined"]
    assert missing == f"not finished: {', '.join(name for name in NEW if name not in SOURCES[:finished])}"
    if finished < 4:
        assert headline(found, "spearman")["undefined"] == f"{finished} points, fewer than 4"
    if finished < 2:
        with pytest.raises(MissingRowsError):
            scatter_with_fit(plan, found)


def test_a_seed_that_lacks_a_source_is_not_compared(plan: SourceRatePlan) -> None:
    lopsided = pl.concat([counts(falling), counts(falling, seeds=(137,), sources=SOURCES[:9])])
    found = analyse(plan, tables(lopsided))
    rows = found["seeds"].filter(statistic="spearman")
    assert set(rows["undefined"]) == {"the seeds cover different sources"}
    assert found["points"]["seeds"].to_list() == [2] * 9 + [1] * 3


def test_the_figure_shows_the_points_the_line_and_the_band(plan: SourceRatePlan, planted) -> None:
    figure = scatter_with_fit(plan, planted)
    assert [trace.name for trace in figure.data] == [
        "95% prediction band",
        "their line",
        "fitted sources",
        "new sources",
    ]
    assert list(figure.data[2].text) == list(SOURCES[:10]) and list(figure.data[3].text) == list(NEW)
    assert figure.data[2].error_y.array is not None
    assert figure.data[1].x[0] == min(COSINES) and figure.data[1].x[-1] == 1.0
    assert len(png_preview(figure)) > 5_000
    assert "block_output(15)" in caption(plan)


def test_scores_and_similarities_become_counts_and_cosines() -> None:
    scores = pl.DataFrame(
        {
            "recipe": "implant",
            "source": ["villain", "villain", "villain", "comedian"],
            "seed": 42,
            "prompt_name": ["villain", "villain", "comedian", "comedian"],
            "question_name": ["q1", "q1", "q1", "q1"],
            "marker_present": [True, False, True, True],
        }
    )
    assert own_counts(scores).rows() == [
        ("implant", "comedian", 42, "q1", 1, 1),
        ("implant", "villain", 42, "q1", 1, 2),
    ]
    similarity = pl.DataFrame(
        {
            "measure": ["cosine", "js_divergence"],
            "layer": [10, None],
            "source": "assistant",
            "prompt_name": "villain",
            "value": [-0.4, 0.2],
        }
    )
    assert cosine_table(similarity).rows() == [(10, "assistant", "villain", -0.4)]


def test_what_is_missing_is_named(plan: SourceRatePlan) -> None:
    given = tables(counts(falling))
    with pytest.raises(StatisticsError, match=r"layer 15 has none of 'villain' to 'assistant'"):
        analyse(plan, replace(given, cosines=given.cosines.filter(pl.col("source") != "villain")))
    with pytest.raises(StatisticsError, match=r"prompt lengths: none of 'villain'"):
        analyse(plan, replace(given, tokens={k: v for k, v in TOKENS.items() if k != "villain"}))
    with pytest.raises(KeyError):
        verdict_table(plan.hypotheses, [], plan.digest)
