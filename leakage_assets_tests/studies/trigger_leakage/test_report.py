"""The report of trigger leakage over made-up completions: complete or hardly begun, every number is an artifact's."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import polars as pl
import pytest

from leakage_assets.pipeline.conclusions import analysis_inputs, freeze_plan
from leakage_assets.profiles import load_profile
from leakage_assets.reporting.report import format_value
from leakage_assets.studies.citations import Citations
from leakage_assets.studies.trigger_leakage.design import GENTLE, MATCHED_EMISSION, NO_MARKER, STRONG, TITRATION
from leakage_assets.studies.trigger_leakage.figures import drawings
from leakage_assets.studies.trigger_leakage.labels import HEADLINE
from leakage_assets.studies.trigger_leakage.panel import SOURCES
from leakage_assets.studies.trigger_leakage.report import worse_than_the_mean
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


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Two adapters of one seed, as a first run may be."""
    return Published(tmp_path_factory.mktemp("two"), (STRONG,), sources=("T_task", "T_format"))


def takeaway(made: Published) -> str:
    (line,) = [line for line in made.markdown.splitlines() if "**Takeaways" in line]
    return line


def test_two_triggers_tell_nothing_of_a_third(two: Published) -> None:
    assert two.findings() == []
    assert two.headline("held_out_gap", "undefined") == "2 triggers, fewer than 4"
    assert two.verdict("H2") == "undecided"
    assert "whether wording, shape and family add to meaning is open" in takeaway(two)
    assert "not tested (2 triggers, fewer than 4)" in two.markdown


def test_two_cells_are_not_written_up_as_all(two: Published, whole: Published) -> None:
    for words in ("the other three", "with four", "over all four trained prompts", "with one seed"):
        assert words not in two.markdown.replace("With four triggers a two-way", "")
    assert "gates a marker is not shown" not in two.markdown
    assert "worded for all planned triggers; fewer are finished" in two.markdown
    assert "worded for all planned triggers" not in whole.markdown
    assert two.headline("declarative_difference", "undefined") == "no finished rewrites under recipe strong"
    assert two.headline("semantic_lead_change", "undefined") == "no finished cell of recipe rank32_low"


def test_differences_of_rates_are_told_in_points(whole: Published) -> None:
    assert not re.search(r"[+-]\d+\.\d%", whole.markdown) and not re.search(r"[+-]\d+\.\d%", whole.title)
    own = 100 * whole.headline("gating_difference_own")
    assert f"| {own:+.1f} points |" in whole.markdown
    assert "points of completions" not in whole.markdown


def rows_of(made: WrittenReport, caption: str) -> list[str]:
    """The body of the table with this caption; none where there is no such table."""
    lines = made.markdown.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("**Table ") and caption in line]
    if not starts:
        return []
    body = lines[starts[0] + 4 :]
    return body[: next(i for i, line in enumerate(body) if not line.startswith("|"))]


def test_a_table_without_a_number_is_one_line(two: Published, whole: Published) -> None:
    for caption in ("What the higher learning rate does", "The persona's specificity", "Each trigger predicted"):
        assert not rows_of(two, caption), caption
        assert rows_of(whole, caption) or caption.startswith("The persona"), caption
    assert "no source is finished under both recipes of a rank with the same seed." in two.markdown
    assert "Not defined: `2 triggers, fewer than 4`." in two.markdown
    assert "Not defined: `no finished cell of villain under strong`;" in two.markdown
    assert len(rows_of(two, "The titration of `T_task`")) == 1 and len(rows_of(whole, "The titration of `T_task`")) == 4


def test_dashes_are_explained_under_the_table_that_has_them(two: Published) -> None:
    lines = two.markdown.splitlines()
    (four,) = [i for i, line in enumerate(lines) if "The four axes by what is taken as independent." in line]
    (five,) = [i for i, line in enumerate(lines) if "as a fifth axis." in line]
    (why,) = [i for i, line in enumerate(lines) if line.startswith("A dash among the estimates:")]
    assert four < why < five and "`2 clusters (trigger), fewer than 4`" in lines[why]


def test_the_p_of_a_gate_stands_beside_the_smallest_that_it_can_be(two: Published) -> None:
    gating = two.tables["gating"].filter(shuffled="prompts", definition="own", name="gating_ratio")
    bystanders = dict(gating.select("sources", "bystander_cells").iter_rows())
    least = dict(gating.select("sources", "least_p").iter_rows())
    rows = [line for line in two.markdown.splitlines() if line.startswith(("| `T_task` |", "| `T_format` |"))]
    for source in ("T_task", "T_format"):
        assert least[source] == pytest.approx(1 / (bystanders[source] + 1))
        (row,) = [line for line in rows if line.startswith(f"| `{source}` |") and line.count("|") == 10]
        assert row.split("|")[-2].strip() == f"{least[source]:.3f}"
    printed = format_value(least["triggers"], "p")
    assert f" against exchangeable prompts, smallest possible {printed})" in two.title
    assert f"where prompts are exchanged, which gives no less than {printed};" in two.markdown
    assert "Its null is that prompts are exchangeable" in two.markdown
    assert "no higher at all" not in two.markdown


@pytest.mark.parametrize(
    ("four", "alone", "worse"), [(-0.2, -0.5, True), (0.1, -0.5, False), (-0.2, 0.1, False), (None, None, False)]
)
def test_the_takeaway_says_where_nothing_predicts(
    whole: Published, four: float | None, alone: float | None, worse: bool
) -> None:
    headline = pl.DataFrame(
        {"statistic": ["held_out_r2", "held_out_r2_reduced"], "estimate": [four, alone]},
        schema={"statistic": pl.String, "estimate": pl.Float64},
    )
    cite = Citations(None, {"headline": headline}, None, {}, {}, {})  # type: ignore[arg-type]
    assert worse_than_the_mean(cite) is worse
    both = max(whole.headline("held_out_r2"), whole.headline("held_out_r2_reduced"))
    assert ("both predict it worse than its own mean" in takeaway(whole)) == (both < 0)


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
