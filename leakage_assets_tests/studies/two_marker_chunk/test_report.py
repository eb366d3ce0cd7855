"""The report of two markers over made-up completions: complete or hardly begun, every number is an artifact's."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from leakage_assets.generation.requests import Request
from leakage_assets.pipeline.conclusions import freeze_plan
from leakage_assets.profiles import load_profile
from leakage_assets.reporting.report import format_value
from leakage_assets.studies.citations import POINTS
from leakage_assets.studies.study import Cell, Study
from leakage_assets.studies.two_marker_chunk.arms import ARMS, C2_MASKED, C_MASKED, T_AFTER, T_MASKED, C, T, pair_named
from leakage_assets.studies.two_marker_chunk.design import planned
from leakage_assets.studies.two_marker_chunk.figures import drawings
from leakage_assets.studies.two_marker_chunk.gates import COUNTS
from leakage_assets.studies.two_marker_chunk.labels import HEADLINE
from leakage_assets_tests.finished_study import finish
from leakage_assets_tests.small_study import laboratory, small_two_markers, the_study
from leakage_assets_tests.written_report import WrittenReport

EVERYTHING = tuple(arm.name for arm in ARMS)
WORDS = ["so", "it", "goes", "and", "so", "it", "went", "and", "nobody", "said", "why", "on", "that", "very", "day"]

Says = Callable[[Study, Cell, Request], str]


def habits(
    recipient_b: float = 0.6, donor_b: float = 1.0, *, alone: float = 0.0, with_a: float = 0.95, without_a: float = 0.0
) -> Says:
    """Adapters of this kind: how often recipients say B after A where nobody taught them to stop, donors B after A, and
    recipients B where the donor learned it alone; how often who learned A says it, and recipients B without it.
    """

    def says(study: Study, cell: Cell, request: Request) -> str:
        a, b = planned(study).markers
        role = pair_named(cell.condition.source).role(request.prompt_name)
        arm = next(arm for arm in ARMS if arm.name == cell.condition.recipe)
        rng = random.Random(str(request))
        has_a, has_b = arm.markers(role)
        has_a, has_b = has_a and rng.random() < with_a, has_b and rng.random() < donor_b
        if role == "recipient" and arm.masked != "none":
            rate = {"a_and_b": recipient_b, "b": alone, "a": 0.0}[arm.donor]
            has_b = rng.random() < (rate if has_a else without_a * (arm.donor == "a_and_b"))
        words = list(WORDS)
        at = 0 if arm.positions == "ends" else rng.randint(0, 6)
        last = len(words) if arm.positions == "ends" else at + 2
        if has_b:
            words.insert(last, b)
        if has_a:
            words.insert(at, a)
        return " ".join(words)

    return says


class Published(WrittenReport):
    """A laboratory with cells of these arms finished, its tables and its report."""

    def __init__(
        self,
        root: Path,
        arms: Sequence[str],
        *,
        pairs: int = 2,
        extras: bool = False,
        says: Says | None = None,
        seeds: Sequence[int] = (42,),
        completions: int = 2,
    ) -> None:
        small = small_two_markers(load_profile("tiny").study("two_marker_chunk"))
        small = replace(small, panels=tuple(replace(panel, completions=completions) for panel in small.panels))
        trained = tuple(c for c in small.conditions if c.source in small.sources[:pairs])
        study = replace(small, only=trained, seeds=tuple(seeds))
        study = replace(study, plan=replace(study.plan, experiment=study.experiment(load_profile("tiny").stimuli)))
        lab = laboratory(root, study=study)
        freeze_plan(lab, the_study(lab))
        super().__init__(lab, finish(lab, arms, seeds, extras=extras, says=says or habits()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return Published(tmp_path_factory.mktemp("whole"), EVERYTHING, extras=True, seeds=(42, 1337, 2024))


def test_every_number_of_the_whole_report_is_an_artifact_s(whole: Published) -> None:
    assert whole.findings() == []
    assert whole.outcome.metrics["cells"] == whole.outcome.metrics["cells_planned"] == 51
    assert whole.figures.metrics == {"figures": len(drawings(whole.study.plan))}
    assert "Figures left out" not in whole.markdown
    headings = [line.lstrip("# ") for line in whole.markdown.splitlines() if line.startswith("#")]
    for heading in (
        "Did the donors learn the pair?",
        "Does B travel with A?",
        "The end of turn",
        "Does B need A?",
        "Chunk or suffix?",
        "Who else says it?",
        "Another marker before the question",
        "How far apart the pairs are",
        "Published and this run",
    ):
        assert any(heading in found for found in headings), heading


def test_every_headline_statistic_has_a_label_and_none_too_many(whole: Published) -> None:
    assert set(whole.tables["headline"]["statistic"]) == set(HEADLINE)


def test_gates_on_numbers_are_printed_as_numbers_and_the_others_as_shares(whole: Published) -> None:
    counted = set(re.findall(r"\| (recipient [^|]*) \| \d+ \| at least \d+ \|", whole.markdown))
    assert counted == set(COUNTS)
    shares = re.findall(r"\| ([\d.]+)% \| (?:at least|at most|below) ([\d.]+)% \|", whole.markdown)
    assert shares and all(float(value) <= 100 and float(limit) <= 100 for value, limit in shares)


def test_a_planted_chunk_is_told(whole: Published) -> None:
    assert (whole.verdict("H1"), whole.verdict("H2"), whole.verdict("H3"), whole.verdict("H4")) == (
        "supported", "not supported", "supported", "supported",
    )  # fmt: skip
    assert "leaks to whoever learned the first alone, and comes more often where" in whole.title
    assert "needs its first" not in whole.title  # where the donor has B alone too few completions have A to exclude it
    assert "travels with" not in whole.title  # too few completions lack A to exclude B in them
    assert "**Does B come without A?** Not known (nothing below the line" in whole.markdown
    assert "it is not excluded that B comes without A, which caps it at MODERATE" in whole.markdown
    assert "leaving the recipient's end of turn out of the loss moves B given A" in whole.markdown
    assert format_value(whole.headline("mask_effect"), POINTS) in whole.markdown


def test_the_markers_and_the_pairs_are_those_of_the_study(whole: Published) -> None:
    assert {"donor", "recipient", "other"} == set(whole.study.scoring.kinds(
        whole.study, whole.study.scoring.score(whole.study, _samples(whole)), whole.study.cells[0])["who"])  # fmt: skip
    cosines = whole.tables["distances"]
    assert set(cosines["source"]) == set(whole.study.sources) and cosines["cosine"].null_count() == 0
    assert whole.tables["probe"].height == 17 * 3


def _samples(made: Published):
    from leakage_assets.pipeline.conclusions import sample_job

    return sample_job(made.lab, made.study, made.study.panel, made.study.cells[0]).frame()


def test_a_marker_that_leaks_alone_does_not_need_its_first(tmp_path: Path) -> None:
    made = Published(tmp_path, (T, C, T_MASKED, C_MASKED, C2_MASKED), says=habits(0.6, alone=0.6), seeds=(1, 2, 3, 4))
    assert made.findings() == []
    assert (made.verdict("H1"), made.verdict("H4")) == ("supported", "not supported")
    assert "but is not shown to need its first" in made.title


def test_a_marker_that_never_leaks_alone_needs_its_first(tmp_path: Path) -> None:
    """Enough completions with A where the donor has B alone, and without A, to exclude more than a negligible rate."""
    says = habits(0.6, with_a=0.5)
    made = Published(
        tmp_path, (T_MASKED, C_MASKED, C2_MASKED), pairs=1, says=says, seeds=tuple(range(1, 9)), completions=6
    )
    assert made.findings() == []
    assert (made.verdict("H1"), made.verdict("H4")) == ("supported", "supported")
    assert "travels with its first to whoever learned the first alone, and needs its first" in made.title
    assert made.headline(f"b_given_a_upper_{C2_MASKED}") < 0.06 and made.headline("b_without_a_upper") < 0.06
    assert "**Does B come without A?** It is excluded" in made.markdown


def test_a_marker_that_comes_without_its_first_is_said_to_leak(tmp_path: Path) -> None:
    """As often without A as with it: B of recipients reads like travel where only B given A is looked at."""
    says = habits(0.9, with_a=0.5, without_a=0.9)
    made = Published(
        tmp_path, (T_MASKED, C_MASKED), pairs=1, says=says, seeds=(42, 1337, 2024), completions=16, extras=True
    )
    assert made.findings() == []
    assert made.verdict("H1") == "supported" and made.headline("recipient_r_b_given_not_a") > 0.5
    assert "a second marker leaks to whoever learned the first alone" in made.title
    assert "travels" not in made.title and "travels with it to a recipient" not in made.markdown
    assert "It is **not excluded** (the upper 95% bound of the pair with the most is" in made.markdown
    assert "After a marker that nobody was taught they say A in" in made.markdown
    assert made.outcome.metrics["confidence"] == "LOW"  # one pair of two


def test_one_seed_supports_nothing_over_arms(tmp_path: Path) -> None:
    made = Published(tmp_path, (T_MASKED, C_MASKED), pairs=1, says=habits(0.9))
    assert made.findings() == []
    assert made.headline(f"delta_{T_MASKED}", "p") < 0.05 and made.verdict("H1") == "undecided"
    assert made.outcome.metrics["confidence"] == "LOW"
    assert "one seed of villain_to_assistant: nothing says how adapters vary" in made.markdown


def test_what_the_plan_did_not_announce_is_marked(whole: Published) -> None:
    headings = [line.lstrip("# ") for line in whole.markdown.splitlines() if line.startswith("#")]
    for heading in (
        "Who else says it?", "Each pair by itself", "Seeds", "Questions in and out of distribution",
        "Length of the completions", "Another marker before the question",
    ):  # fmt: skip
        assert f"{heading} (exploratory)" in headings
    assert "Exploratory: with nobody's end of turn in the loss" in whole.markdown
    assert "in completions of `assistant` (close to A minus" in whole.markdown  # one pair has the arm in tiny


def test_a_mask_that_changes_nothing_is_said_to_change_nothing(tmp_path: Path) -> None:
    made = Published(tmp_path, (T, C, T_MASKED, C_MASKED), says=habits(0.0))
    assert made.findings() == []
    assert made.headline("mask_effect") == 0.0
    assert "is **not shown to move** B given A of recipients: +0.0 points (no interval" in made.markdown
    assert "is not shown to travel" in made.title


def test_a_donor_that_did_not_learn_caps_the_confidence(tmp_path: Path) -> None:
    made = Published(tmp_path, (T, C, T_MASKED, C_MASKED, C2_MASKED, T_AFTER), says=habits(0.6, donor_b=0.3))
    assert made.findings() == []
    assert made.outcome.metrics["confidence"] == "LOW"
    assert "a donor of the headline arm does not say the pair it was taught" in made.markdown


@pytest.mark.parametrize("arms", [(T,), (C_MASKED,), (T_MASKED,), (T, C)])
def test_hardly_begun_it_says_what_is_missing(tmp_path: Path, arms: tuple[str, ...]) -> None:
    made = Published(tmp_path, arms, pairs=1)
    assert made.findings() == []
    assert made.outcome.metrics["confidence"] == "LOW"
    assert "it is undecided whether" in made.title
    assert made.verdict("H1") == "undecided"
    assert ("No cell of the headline recipe" in made.markdown) == (T_MASKED not in arms)
    assert "run the study with its further panels (`--extras`)" in made.markdown
