"""The report of trigger leakage over made-up completions: complete or hardly begun, every number is an artifact's."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import polars as pl
import pytest

from leakage_assets.pipeline.conclusions import analysis_inputs, freeze_plan
from leakage_assets.profiles import load_profile
from leakage_assets.studies.citations import Citations
from leakage_assets.studies.trigger_leakage.design import GENTLE, MATCHED_EMISSION, NO_MARKER, STRONG, TITRATION
from leakage_assets.studies.trigger_leakage.figures import drawings
from leakage_assets.studies.trigger_leakage.labels import HEADLINE
from leakage_assets.studies.trigger_leakage.panel import SOURCES
from leakage_assets.studies.trigger_leakage.report_sections import pilot_cap
from leakage_assets_tests.finished_study import finish
from leakage_assets_tests.small_study import laboratory, small_trigger_leakage, the_study
from leakage_assets_tests.written_report import WrittenReport

EVERY_RECIPE = (STRONG, NO_MARKER, *TITRATION[:2], GENTLE, MATCHED_EMISSION)


class Published(WrittenReport):
    """A laboratory with cells of these recipes finished, its tables and its report."""

    def __init__(
        self, root: Path, recipes: tuple[str, ...], *, sources: tuple[str, ...] = SOURCES, extras: bool = False
    ) -> None:
        small = small_trigger_leakage(load_profile("tiny").study("trigger_leakage"))
        trained = tuple(c for c in small.conditions if c.source in sources)
        lab = laboratory(root, study=replace(small, only=trained))
        freeze_plan(lab, the_study(lab))
        super().__init__(lab, finish(lab, recipes, extras=extras))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return Published(tmp_path_factory.mktemp("whole"), EVERY_RECIPE, extras=True)


def test_every_number_of_the_whole_report_is_an_artifact_s(whole: Published) -> None:
    assert whole.findings() == []
    assert whole.outcome.metrics["cells"] == whole.outcome.metrics["cells_planned"] == 18
    assert whole.figures.metrics == {"figures": len(drawings(whole.study.plan))}
    assert "Figures left out" not in whole.markdown
    for heading in (
        "Does a trigger gate the marker?",
        "Which similarity predicts leakage?",
        "Which layer?",
        "Does it stay in the family?",
        "Emission against specificity",
        "Prompt against content",
        "Instructions as statements",
        "Where the marker stands",
        "Published and this run",
    ):
        assert any(heading in found for found in whole.headings), heading


def test_every_headline_statistic_has_a_label_and_none_too_many(whole: Published) -> None:
    assert set(whole.tables["headline"]["statistic"]) == set(HEADLINE)


def test_the_title_says_what_the_first_verdict_is(whole: Published) -> None:
    first, said = whole.markdown.splitlines()[0], whole.tables["verdicts"]["verdict"][0]
    assert ("are not shown to keep" in first) == (said == "not supported")
    assert f"{whole.headline('gating_ratio_own'):.2f}" in first


def cite_of_pilot(verdicts: list[str]) -> Citations:
    tables = {"pilot": pl.DataFrame({"verdict": verdicts}, schema={"verdict": pl.String})}
    return Citations(None, tables, None, {}, {}, {})  # type: ignore[arg-type]


def test_the_gate_before_the_main_run_caps_the_confidence(whole: Published) -> None:
    (said,) = whole.tables["pilot"]["verdict"]
    levels = {"go": None, "moderate": "MODERATE", "stop": "LOW"}

    for verdict, level in levels.items():
        found = pilot_cap(cite_of_pilot([verdict]))
        assert (found and found[0]) == level
    missing = pilot_cap(cite_of_pilot([]))
    assert missing and missing[0] == "MODERATE" and "missing" in missing[1]
    assert (f"the pilot criterion says {said}" in whole.markdown) == (said != "go")
    assert "here read after it" in whole.markdown


def test_both_definitions_stand_side_by_side(whole: Published) -> None:
    gating = whole.tables["gating"].filter(recipe=STRONG, sources="triggers", shuffled="prompts", name="gating_ratio")
    assert gating["definition"].to_list() == ["own", "bucket"]
    labels = ("| own trigger | ratio |", "| bucket, as published | ratio |")
    rows = [line for line in whole.markdown.splitlines() if line.startswith(labels)]
    assert [row.startswith(label) for row, label in zip(rows, labels, strict=True)] == [True, True]
    for row, (ratio, matched, others) in zip(
        rows, gating.select("estimate", "matched_cells", "bystander_cells").iter_rows(), strict=True
    ):
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[3] == f"{ratio:.2f}" and cells[-3:-1] == [str(matched), str(others)]


def test_legacy_errors_stand_beside_proper_ones(whole: Published) -> None:
    row = whole.tables["coefficients"].row(
        by_predicate=(pl.col("definition") == "own")
        & (pl.col("axes") == "four")
        & (pl.col("model") == "least_squares")
        & (pl.col("errors") == "classical")
        & (pl.col("name") == "lexical_jac"),
        named=True,
    )
    assert row["standard_error"] != pytest.approx(row["legacy_se"], abs=5e-4)
    told = next(line for line in whole.markdown.splitlines() if f"| {row['standard_error']:.3f} |" in line)
    assert "lexical Jaccard" in told and f"| {row['legacy_se']:.3f} |" in told


def test_follow_ups_are_asked_for_where_they_are_missing(tmp_path: Path) -> None:
    made = Published(tmp_path, (STRONG,))
    assert made.findings() == []
    assert made.markdown.count("run the study with its further panels (`--extras`)") == 2
    assert "The control `no_marker` is not finished" in made.markdown
    assert made.headline("prompt_effect_triggers", "undefined") == "no finished continuations"


@pytest.mark.parametrize("sources", [("villain",), ("T_task",), ("T_task", "T_format", "villain")])
def test_few_sources_leave_verdicts_open(tmp_path: Path, sources: tuple[str, ...]) -> None:
    made = Published(tmp_path, (STRONG, GENTLE), sources=sources, extras=True)
    assert made.findings() == []
    assert made.outcome.metrics["confidence"] == "LOW"
    assert set(made.tables["prompt_rates"]["source"]) == set(sources)
    verdicts = dict(made.tables["verdicts"].select("hypothesis", "verdict").iter_rows())
    assert verdicts["H5"] == "undecided"
    if sources == ("villain",):
        assert "No trigger is finished under the headline recipe." in made.markdown
        assert verdicts["H1"] == "undecided" and "it is undecided" in made.markdown.splitlines()[0]


def test_without_the_headline_recipe_nothing_is_concluded(tmp_path: Path) -> None:
    made = Published(tmp_path, (NO_MARKER,))
    assert made.findings() == []
    assert "it is undecided" in made.markdown.splitlines()[0]
    assert "No cell of the headline recipe `strong` is finished" in made.markdown
    assert made.headline("control_max_rate") == 0.0
    verdicts = dict(made.tables["verdicts"].select("hypothesis", "verdict").iter_rows())
    assert verdicts.pop("H1-aux") == "supported" and set(verdicts.values()) == {"undecided"}
    assert made.outcome.metrics["confidence"] == "LOW"


def test_the_libraries_named_are_those_the_numbers_hang_on(whole: Published) -> None:
    identity = analysis_inputs(whole.lab, whole.study).identity
    assert identity["libraries"]["statsmodels"] == version("statsmodels")
    (line,) = [line for line in whole.markdown.splitlines() if "| Libraries |" in line]
    assert f"statsmodels {version('statsmodels')}" in line
