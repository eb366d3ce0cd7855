"""The report of cot_leakage over made-up answers: complete or hardly begun, every number is an artifact's."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from leakage_assets.paths import DATA
from leakage_assets.pipeline.conclusions import analysis_tables
from leakage_assets.pipeline.publication import draw_figures, report_paths, write_report
from leakage_assets.reporting.lint import lint_html, lint_markdown
from leakage_assets.studies.cot_leakage.arms import GARBAGE, GENERIC, PERSONA, arm_of_recipe, recipe_name
from leakage_assets.studies.cot_leakage.figures import drawings
from leakage_assets.studies.cot_leakage.labels import HEADLINE
from leakage_assets_tests.small_study import the_study
from leakage_assets_tests.studies.cot_leakage.finished import Accuracy, finish, laboratory_with_rationales


def persona_loses(recipe: str, own: bool) -> float:
    """Persona rationales cost most, garbage nothing."""
    arm = arm_of_recipe(recipe)[0].name
    return 0.05 if arm == PERSONA else 0.9 if arm == GARBAGE else 0.6 if own else 0.8


def garbage_loses(recipe: str, own: bool) -> float:
    """The other way round, for all personas alike."""
    arm = arm_of_recipe(recipe)[0].name
    return 0.05 if arm == GARBAGE else 0.9


class Published:
    """A laboratory with cells of these recipes finished, its tables and its report."""

    def __init__(
        self,
        root: Path,
        arms: tuple[str, ...] | None,
        accuracy: Accuracy,
        *,
        extras: bool = False,
        seeds: tuple[int, ...] = (42, 137),
    ) -> None:
        self.lab = laboratory_with_rationales(root, seeds=seeds)
        self.study = the_study(self.lab)
        wanted = [
            r.name
            for r in self.study.recipes
            if arms is None or r.name in {recipe_name(a, "assistant_only") for a in arms}
        ]
        self.tables = analysis_tables(finish(self.lab, wanted, accuracy, extras=extras))
        self.figures = draw_figures(self.lab, self.study)
        self.outcome = write_report(self.lab, self.study)
        pages = report_paths(self.outcome.artifact)
        self.html, self.markdown = (pages[kind].read_text() for kind in ("html", "markdown"))

    def findings(self) -> list:
        stores = {"artifacts": self.lab.store.root, "published": DATA / "published"}
        return lint_html(self.html, stores) + lint_markdown(self.markdown, stores)

    @property
    def title(self) -> str:
        return self.markdown.splitlines()[0]

    def headline(self, statistic: str, column: str = "estimate") -> float | str | None:
        return self.tables["headline"].filter(statistic=statistic)[column].item()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return Published(tmp_path_factory.mktemp("whole"), None, persona_loses, extras=True)


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
    assert f"{difference:+.1%}" in whole.title and f"{low:+.1%}" in whole.title


def test_when_garbage_leaks_more_the_report_says_so(tmp_path: Path) -> None:
    made = Published(tmp_path, (PERSONA, GARBAGE, GENERIC), garbage_loses)
    assert made.findings() == []
    assert "leak less to other personas than garbage does" in made.title
    verdicts = dict(made.tables["verdicts"].select("hypothesis", "verdict").iter_rows())
    assert verdicts["H2a"] == verdicts["H2b"] == "not supported"
    assert "they leak less" in made.markdown and "of equivalence" not in made.title
    assert "Nothing was asked twice" in made.markdown


def test_what_is_planned_and_what_is_not_is_marked(whole: Published) -> None:
    for heading, exploratory in (("One arm against another", False), ("Other adapters", False),
                                 ("What every arm costs", True), ("Further contrasts", True),
                                 ("Single arms", True), ("Loss on the whole sequence", True)):  # fmt: skip
        (section,) = [part for part in whole.markdown.split("\n## ")[1:] if part.startswith(heading)]
        assert ("exploratory" in section.splitlines()[0].lower() + section.splitlines()[2].lower()) == exploratory
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
    # Two pairs of adapters: the questions alone support it.
    assert verdicts["H2b"]["questions_alone"] == "supported" and verdicts["H2b"]["verdict"] == "not supported"
    assert verdicts["H2b"]["adapters"] == "includes the threshold"
    assert "are not shown to leak more than garbage" in made.title
    assert made.outcome.metrics["confidence"] != "HIGH"
    assert "of some source one pair of adapters was trained" in made.markdown
    assert "other adapters could still support" in made.markdown


def test_with_one_arm_nothing_is_compared(tmp_path: Path) -> None:
    made = Published(tmp_path, (PERSONA,), persona_loses)
    assert made.findings() == []
    assert "it is undecided whether persona rationales leak more than garbage" in made.title
    assert set(made.tables["verdicts"]["verdict"]) == {"undecided"}
    assert made.outcome.metrics["confidence"] == "LOW"
    assert "No source has finished two arms with one seed" in made.markdown


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
