"""The report of cot_leakage over made-up answers: complete or hardly begun, every number is an artifact's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from leakage_assets.reporting.report import format_value
from leakage_assets.studies.citations import POINTS
from leakage_assets.studies.cot_leakage import report
from leakage_assets.studies.cot_leakage.arms import GARBAGE, GENERIC, PERSONA, arm_of_recipe, recipe_name
from leakage_assets.studies.cot_leakage.figures import drawings
from leakage_assets.studies.cot_leakage.labels import HEADLINE
from leakage_assets.studies.cot_leakage.report_adapters import comparable, side
from leakage_assets_tests.small_study import the_study
from leakage_assets_tests.studies.cot_leakage.finished import Accuracy, finish, laboratory_with_rationales
from leakage_assets_tests.written_report import WrittenReport


def persona_loses(recipe: str, own: bool) -> float:
    """Persona rationales cost most, garbage nothing."""
    arm = arm_of_recipe(recipe)[0].name
    return 0.05 if arm == PERSONA else 0.9 if arm == GARBAGE else 0.6 if own else 0.8


def garbage_loses(recipe: str, own: bool) -> float:
    """The other way round, for all personas alike."""
    arm = arm_of_recipe(recipe)[0].name
    return 0.0 if arm == GARBAGE else 1.0


class Published(WrittenReport):
    """A laboratory with cells of these recipes finished, its tables and its report."""

    def __init__(
        self,
        root: Path,
        arms: tuple[str, ...] | None,
        accuracy: Accuracy,
        *,
        extras: bool = False,
        seeds: tuple[int, ...] = (42, 137),
        stuck: tuple[str, ...] = (),
    ) -> None:
        lab = laboratory_with_rationales(root, seeds=seeds)
        wanted = [
            r.name
            for r in the_study(lab).recipes
            if arms is None or r.name in {recipe_name(a, "assistant_only") for a in arms}
        ]
        super().__init__(
            lab,
            finish(lab, wanted, accuracy, extras=extras, stuck=[recipe_name(arm, "assistant_only") for arm in stuck]),
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return Published(tmp_path_factory.mktemp("whole"), None, persona_loses, extras=True, seeds=(42, 137, 256))


def test_every_number_of_the_whole_report_is_an_artifact_s(whole: Published) -> None:
    assert whole.findings() == []
    assert whole.outcome.metrics["cells"] == whole.outcome.metrics["cells_planned"] == len(whole.study.cells)
    assert whole.figures.metrics == {"figures": len(drawings(whole.study.plan.decisions))}
    for heading in ("What every arm costs", "One arm against another", "Loss on the whole sequence",
                    "Further contrasts", "Other adapters", "Collapse, and other readings of an answer",
                    "Words of the trained persona", "How adapters answer", "Published and this run"):  # fmt: skip
        assert f"## {heading}" in whole.markdown, heading


def test_every_headline_statistic_has_a_label_and_none_too_many(whole: Published) -> None:
    assert set(whole.tables["headline"]["statistic"]) == set(HEADLINE)


def test_the_title_follows_from_the_verdict_and_shows_the_interval(whole: Published) -> None:
    statistic = "own_format_persona_cot_minus_garbage_cot_bystander_leakage"
    difference, low = whole.headline(statistic), whole.headline(statistic, "ci_low")
    assert difference > 0.5
    assert "leak more to other personas than garbage does" in whole.title
    assert format_value(difference, POINTS) in whole.title and format_value(low, POINTS) in whole.title


def test_when_garbage_leaks_more_the_report_says_so(tmp_path: Path) -> None:
    made = Published(tmp_path, (PERSONA, GARBAGE, GENERIC), garbage_loses, seeds=(42, 137, 256))
    assert made.findings() == []
    assert "leak less to other personas than garbage does" in made.title
    verdicts = dict(made.tables["verdicts"].select("hypothesis", "verdict").iter_rows())
    assert verdicts["H2a"] == verdicts["H2b"] == "not supported"
    assert "they leak less" in made.markdown and "of equivalence" not in made.title
    assert "Nothing was asked twice" in made.markdown


def test_where_an_arm_has_collapsed_nothing_is_compared(tmp_path: Path) -> None:
    made = Published(tmp_path, (PERSONA, GARBAGE, GENERIC), garbage_loses, seeds=(42, 137, 256), stuck=(GARBAGE,))
    assert made.findings() == []
    by_arm = {row["arm"]: row for row in made.tables["collapse_by_arm"].iter_rows(named=True)}
    assert by_arm[GARBAGE] == {"arm": GARBAGE, "adapters": 6, "collapsed": 6, "one_letter": 6}
    assert by_arm[PERSONA]["collapsed"] == 0
    assert "is not comparable, as all 6 adapters trained on garbage have collapsed onto one letter" in made.title
    assert "leak less" not in made.markdown and made.outcome.metrics["confidence"] == "LOW"
    assert "**Collapse:** 0 of 6 adapters of persona and all 6 adapters of garbage answer" in made.markdown
    assert "without them no pair of adapters is left" in made.markdown
    assert "what generic and garbage rationales leak cannot be compared" in made.markdown


@pytest.mark.parametrize(("pairs", "enough"), [(None, False), (1, False), (2, True)])
def test_a_contrast_is_comparable_by_the_pairs_that_are_left(whole: Published, pairs: int | None, enough: bool) -> None:
    rows = [("planned", "x", 3, 6)] + ([] if pairs is None else [("without collapsed", "x", 3, pairs)])
    readings = pl.DataFrame(rows, schema=["reading", "statistic", "collapsed", "pairs"], orient="row")
    cited = SimpleNamespace(study=whole.study, tables={"readings": readings})
    assert comparable(cited, "x") is enough  # type: ignore[arg-type]
    nobody = readings.with_columns(collapsed=pl.lit(0))
    assert comparable(SimpleNamespace(study=whole.study, tables={"readings": nobody}), "x")  # type: ignore[arg-type]


def test_what_is_planned_and_what_is_not_is_marked(whole: Published) -> None:
    for heading, exploratory in (("One arm against another", False), ("Other adapters", False),
                                 ("What every arm costs", True), ("Further contrasts", True),
                                 ("Single arms", True), ("Loss on the whole sequence", True)):  # fmt: skip
        assert f"### {heading}{' (exploratory)' if exploratory else ''}\n" in whole.markdown, heading
    assert "Intervals and p are over questions and adapters together" in whole.markdown
    assert "Asked with the persona's tag, as published (exploratory)" in whole.markdown


def test_how_much_was_asked_is_counted_on_the_answers(whole: Published) -> None:
    size = whole.tables["size"].row(0, named=True)
    assert size == {"of": "every adapter", "questions": 6, "personas": 3, "scaffolds": 5, "answers": 90}
    assert "Each answers 6 unseen questions under 3 personas" in whole.markdown
    assert "In all 90 answers per adapter, to 6 questions" in whole.markdown


def test_noise_is_measured_and_no_difference_is_declared_none_by_it(whole: Published) -> None:
    assert "no effect" not in whole.markdown
    assert "The untrained base was not asked twice" in whole.markdown


def test_with_one_seed_the_level_is_capped_and_says_so(tmp_path: Path) -> None:
    made = Published(tmp_path, (PERSONA, GARBAGE), persona_loses, seeds=(42,))
    assert made.findings() == []
    verdicts = {row["hypothesis"]: row for row in made.tables["verdicts"].iter_rows(named=True)}
    # Two pairs of adapters: the questions alone would support it.
    row = made.tables["both"].filter(statistic=verdicts["H2b"]["statistic"]).row(0, named=True)
    assert (row["pairs"], row["p_holm"]) == (2, verdicts["H2b"]["p"])
    assert row["questions_low"] > 0 and verdicts["H2b"]["verdict"] == "not supported" and row["p_holm"] >= 0.01
    assert "are not shown to leak more than garbage" in made.title
    assert made.outcome.metrics["confidence"] != "HIGH"
    assert "of some source one pair of adapters was trained" in made.markdown
    assert "neither the title's claim nor its reverse is shown" in made.markdown


def test_with_one_arm_nothing_is_compared(tmp_path: Path) -> None:
    made = Published(tmp_path, (PERSONA,), persona_loses)
    assert made.findings() == []
    assert "it is undecided whether persona rationales leak more than garbage" in made.title
    assert set(made.tables["verdicts"]["verdict"]) == {"undecided"}
    assert made.outcome.metrics["confidence"] == "LOW"
    assert "No source has finished both arms of a planned contrast with one seed" in made.markdown


def test_without_the_headline_recipe_the_question_is_open(tmp_path: Path) -> None:
    made = Published(tmp_path, (GARBAGE,), persona_loses)
    assert made.findings() == []
    assert "No cell of the headline recipe `persona_cot_assistant_only` is finished" in made.markdown
    assert made.outcome.metrics["confidence"] == "LOW"


def test_the_mask_that_was_trained_on_is_shown_and_both_are_compared(whole: Published) -> None:
    assert "| assistant only |" in whole.markdown and "| full sequence |" in whole.markdown
    other = whole.tables["losses_other_mask"]
    assert set(other["arm"]) == {PERSONA, GARBAGE} and set(other.filter(pl.col("unit_of") != "macro")["unit_of"]) == {
        "librarian"
    }


def differ(monkeypatch: pytest.MonkeyPatch, own: int, common: int) -> None:
    """From now on the intervals lie on these sides of zero."""
    monkeypatch.setattr(report, "side", lambda _, statistic: own if statistic.startswith("own_format") else common)


@pytest.mark.parametrize(
    ("own", "common", "words"),
    [(1, 1, "it is not the tag alone"), (-1, -1, "it is not the tag alone"), (1, -1, "They disagree"),
     (0, 1, "is open"), (1, 0, "is open"), (0, 0, "is open")],
)  # fmt: skip
def test_the_tag_is_ruled_out_by_two_intervals_and_not_by_two_signs(
    own: int, common: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    differ(monkeypatch, own, common)
    assert words in report._agreement(None)  # type: ignore[arg-type]
    said = report._lose(None, "bystander_leakage")  # type: ignore[arg-type]
    assert ("not shown" in said, "more accuracy" in said) == (own == 0, own > 0)


@pytest.mark.parametrize(
    ("estimate", "p", "expected"),
    [(0.1, 0.009, 1), (-0.1, 0.009, -1), (0.1, 0.01, 0), (-0.1, 0.5, 0), (0.1, None, 0), (None, None, 0)],
)
def test_a_side_is_told_by_the_adjusted_p_alone(
    whole: Published, estimate: float | None, p: float | None, expected: int
) -> None:
    """As a verdict is: the interval, which is not adjusted, cannot say more than the title."""

    headline = pl.DataFrame(
        [("x", estimate, p, 0.05, 0.15)],
        schema=["statistic", "estimate", "p", "ci_low", "ci_high"],
        orient="row",
    )
    cited = SimpleNamespace(study=whole.study, tables={"headline": headline})
    assert side(cited, "x") == expected  # type: ignore[arg-type]


def test_what_the_plan_did_not_claim_is_told_as_its_reverse(monkeypatch: pytest.MonkeyPatch) -> None:
    for own, marked in ((-1, True), (1, False), (0, False)):
        differ(monkeypatch, own, 0)
        said = report._lose(None, "bystander_leakage")  # type: ignore[arg-type]
        assert ("the reverse of the plan's claim" in said) is marked


def test_confidence_is_that_of_the_hypothesis_of_the_title(whole: Published) -> None:
    assert report.WRITE_UP.titled == "H2b"
    claim = whole.tables["verdicts"].filter(hypothesis="H2b")["statistic"].item()
    assert claim == "own_format_persona_cot_minus_garbage_cot_bystander_leakage"
