"""Planted truths at the published sizes are found, intervals cover, and the arithmetic of losses is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from leakage_assets.statistics.paired_bootstrap import independent_means
from leakage_assets.statistics.resampling import generator
from leakage_assets.statistics.result import StatisticsError
from leakage_assets.studies.cot_leakage.arms import GARBAGE, GENERIC, PERSONA
from leakage_assets.studies.cot_leakage.arms import arm as arm_named
from leakage_assets.studies.cot_leakage.contrasts import (
    SCHEMES,
    accuracy_table,
    contrast_table,
    differences,
    draw,
    equivalence_table,
    loss_table,
    single_arm_table,
)
from leakage_assets.studies.cot_leakage.design import (
    AXES,
    BYSTANDER,
    COMMON,
    CONTRASTS,
    MACRO,
    OWN_FORMAT,
    SOURCE_LOSS,
    SOURCES,
    Axis,
    Contrast,
    Decisions,
    own_scaffold,
    scaffold_of,
)
from leakage_assets.studies.cot_leakage.evaluation import PERSONA_COT, EvaluationError
from leakage_assets.studies.cot_leakage.outcomes import CotCell, Outcomes, cell_of, outcomes
from leakage_assets.studies.study import StudyError
from leakage_assets_tests.studies.cot_leakage.worlds import as_choices, planted

ONE_SCAFFOLD = (PERSONA_COT.name,)
EFFECT = 0.15


def persona_leaks(arm: str, scaffold: str, axis: Axis) -> float:
    """As published in size: the persona arm loses 0.15 more than garbage; all others lose alike."""
    return 0.02 + EFFECT * (arm == PERSONA)


@pytest.fixture(scope="module")
def leaking() -> Outcomes:
    return planted(persona_leaks, seed=1)


@pytest.fixture(scope="module")
def table(leaking: Outcomes) -> pl.DataFrame:
    return contrast_table(leaking, Decisions())


def row(table: pl.DataFrame, contrast: str, axis: str, **where: object) -> dict[str, object]:
    chosen = {"family": COMMON, "scheme": "questions", "unit_of": MACRO} | where
    (found,) = table.filter(contrast=contrast, axis=axis, **chosen).iter_rows(named=True)
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("axis", AXES)
def test_an_effect_of_015_and_none_are_told_apart(table: pl.DataFrame, scheme: str, axis: str) -> None:
    effect = row(table, "persona_cot - garbage_cot", axis, scheme=scheme)
    assert effect["ci_low"] < EFFECT < effect["ci_high"] and effect["estimate"] == pytest.approx(EFFECT, abs=0.015)
    nothing = row(table, "generic_cot - garbage_cot", axis, scheme=scheme)
    assert nothing["estimate"] == pytest.approx(0.0, abs=0.008) and nothing["rejected"] is False
    if scheme != "pairs":  # which seeds that agree make too narrow
        assert nothing["ci_low"] < 0.0 < nothing["ci_high"]
    if scheme != "questions_and_seeds":  # three seeds: a resample of one seed alone is one in nine
        assert effect["rejected"] is True and effect["p_holm"] < 0.01


def test_each_source_has_its_own_row_without_adjusted_p(table: pl.DataFrame) -> None:
    part = table.filter(family=COMMON, scheme="pairs", contrast="persona_cot - garbage_cot", axis=SOURCE_LOSS)
    assert part["unit_of"].to_list() == [*SOURCES, MACRO]
    assert part["p_holm"].is_null().to_list() == [True] * 4 + [False]
    assert part["estimate"][:4].mean() == pytest.approx(part["estimate"][4], abs=1e-12)
    assert part["n"].to_list() == [3 * 1_172] * 4 + [4 * 3 * 1_172]
    assert part["unit"].unique().to_list() == ["question-seed pair"]
    clustered = table.filter(family=COMMON, scheme="questions", contrast="persona_cot - garbage_cot", axis=SOURCE_LOSS)
    assert clustered["n"].to_list() == [1_172] * 5


def test_pairs_are_taken_for_more_than_they_are_where_seeds_agree(table: pl.DataFrame) -> None:
    """The reason for the clustered interval: seeds that share 80% of a question's fate."""
    widths = {
        scheme: row(table, "persona_cot - garbage_cot", SOURCE_LOSS, scheme=scheme, unit_of="comedian")
        for scheme in ("pairs", "questions")
    }
    pairs, questions = (widths[s]["ci_high"] - widths[s]["ci_low"] for s in ("pairs", "questions"))
    assert questions > 1.25 * pairs


@pytest.mark.parametrize("scheme", ["pairs", "questions"])
def test_intervals_cover_the_planted_difference(scheme: str) -> None:
    """95% intervals of 60 simulated studies, with seeds independent, so that pairs are what they are taken for."""
    covered = 0
    decisions = Decisions()
    contrasts = (Contrast(PERSONA, GARBAGE),)
    for seed in range(60):
        found = planted(
            persona_leaks, seed=seed, questions=300, scaffolds=ONE_SCAFFOLD, arms=(PERSONA, GARBAGE), agreement=0.0
        )
        rows = differences(found, decisions, COMMON, contrasts)
        for drawn in draw(rows, scheme, decisions):
            low, high = np.quantile(drawn[MACRO], [0.025, 0.975])
            covered += low < EFFECT < high
    assert 0.88 <= covered / 120 <= 0.99


def test_a_true_null_is_rejected_no_more_often_than_allowed() -> None:
    """Holm over the eight at 0.01, questions clustered: in 40 studies without effects at most two false alarms."""
    false_alarms = 0
    for seed in range(40):
        found = planted(
            lambda *_: 0.03, seed=seed, questions=200, scaffolds=ONE_SCAFFOLD, sources=SOURCES[:2], seeds=(1, 2)
        )
        rows = differences(found, Decisions(sources=SOURCES[:2]), COMMON)
        drawn = draw(rows, "questions", Decisions())
        p = [
            (1 + np.sum(np.abs(d[MACRO] - d[MACRO].mean()) >= abs(r.point))) / 10_001
            for r, d in zip(rows, drawn, strict=True)
        ]
        false_alarms += min(p) * len(p) < 0.01
    assert len(rows) == 8 and false_alarms <= 2


def test_pairs_are_drawn_in_the_published_order_with_as_many_draws(leaking: Outcomes) -> None:
    """One stream of seed 42, contrast by contrast, sources in order, then macro; another draw than the published one,
    which takes an index for every pair.
    """
    decisions = Decisions()
    rows = differences(leaking, decisions, COMMON)
    drawn = draw(rows, "pairs", decisions)
    rng = generator(42)
    for place in (0, 1):
        deltas = rows[place].by_source
        assert list(deltas) == list(SOURCES)
        for source in SOURCES:
            assert drawn[place][source] == pytest.approx(independent_means(deltas[source], 1_000, rng))
        together = np.concatenate([deltas[source].ravel() for source in SOURCES])
        assert drawn[place][MACRO] == pytest.approx(independent_means(together, 1_000, rng))
    assert [(r.contrast.name, r.axis) for r in rows] == [(c.name, axis) for c in CONTRASTS for axis in AXES]
    first = next(iter(rows[0].by_source.values())).ravel()
    published = first[np.random.default_rng(42).integers(0, first.size, (1_000, first.size))].mean(axis=1)
    assert len(drawn[0][SOURCES[0]]) == 1_000 and not np.allclose(drawn[0][SOURCES[0]], published)
    assert drawn[0][SOURCES[0]].std() == pytest.approx(published.std(), rel=0.1)
    assert len(draw(rows, "questions", decisions)[0][MACRO]) == 10_000


def test_the_own_format_family_looks_at_each_arm_under_its_own_scaffold() -> None:
    """An arm that leaks under its own tag alone: nothing in the common family, all of it in the other."""

    def loss(arm: str, scaffold: str, axis: Axis) -> float:
        return 0.1 * (arm == GARBAGE and scaffold == "neutral_cot")

    found = contrast_table(planted(loss, seed=3, questions=400), Decisions())
    common = row(found, "generic_cot - garbage_cot", BYSTANDER)
    own = row(found, "generic_cot - garbage_cot", BYSTANDER, family=OWN_FORMAT)
    assert common["estimate"] == pytest.approx(0.0, abs=0.01) and own["estimate"] == pytest.approx(-0.1, abs=0.01)
    assert own["rejected"] is True and common["rejected"] is False


@pytest.mark.parametrize(
    ("arm", "own"),
    [("no_cot", "no_cot"), (GENERIC, "generic_cot"), (PERSONA, "persona_cot"), (GARBAGE, "neutral_cot"),
     ("scrambled_english_cot", "neutral_cot"), ("contradicting_persona", "persona_cot")],
)  # fmt: skip
def test_own_scaffolds(arm: str, own: str) -> None:
    assert own_scaffold(arm_named(arm)) == scaffold_of(OWN_FORMAT, arm) == own
    assert scaffold_of(COMMON, arm) == "persona_cot"


def tiny(base: list[list[int]], **arms: list[list[int]]) -> Outcomes:
    """Two questions, three personas (the source first), one scaffold, one seed."""
    personas = ("librarian", "assistant", "villain")
    cells = {CotCell("librarian", arm, 42): np.array([scores], dtype=np.int8) for arm, scores in arms.items()}
    return Outcomes(ONE_SCAFFOLD, personas, ("q1", "q2"), np.array([base], dtype=np.int8), cells)


def test_losses_by_hand() -> None:
    found = tiny([[1, 1], [1, 0], [1, 1]], persona_cot=[[0, 1], [0, 1], [1, 1]])
    own = found.loss("librarian", PERSONA, "persona_cot", SOURCE_LOSS, (42,))
    others = found.loss("librarian", PERSONA, "persona_cot", BYSTANDER, (42,))
    assert own.tolist() == [[1.0, 0.0]] and others.tolist() == [[0.5, -0.5]]
    assert found.accuracy(PERSONA, "persona_cot", "librarian", SOURCE_LOSS) == 0.5
    assert found.accuracy(None, "persona_cot", "librarian", BYSTANDER) == 0.75
    assert found.accuracy(GARBAGE, "persona_cot", "librarian", BYSTANDER) is None


def test_the_baseline_cancels_in_the_common_family(leaking: Outcomes) -> None:
    other = replace(leaking, base=1 - leaking.base)
    rows, again = (differences(o, Decisions(), COMMON) for o in (leaking, other))
    assert [r.point for r in rows] == pytest.approx([r.point for r in again], abs=1e-12)


def test_an_arm_that_is_not_finished_leaves_its_contrasts_out_and_the_family_whole(leaking: Outcomes) -> None:
    cells = {
        c: s
        for c, s in leaking.cells.items()
        if c.arm != "scrambled_english_cot" and (c.source, c.arm, c.seed) != ("comedian", PERSONA, 42)
    }
    found = contrast_table(replace(leaking, cells=cells), Decisions())
    assert "generic_cot - scrambled_english_cot" not in set(found["contrast"])
    effect = row(found, "persona_cot - garbage_cot", SOURCE_LOSS)
    assert effect["p_holm"] == pytest.approx(8 * effect["p"])  # the missing tests count
    part = found.filter(family=COMMON, contrast="persona_cot - garbage_cot", axis=SOURCE_LOSS)
    assert part.filter(unit_of="comedian", scheme="questions")["seeds"].item() == 2
    # Of all sources, as many as every one of them has.
    assert effect["seeds"] == 2
    losses = loss_table(replace(leaking, cells=cells), Decisions())
    assert losses.filter(arm=PERSONA, unit_of=MACRO)["seeds"].unique().to_list() == [2]
    undefined = part.filter(scheme="questions_and_seeds")["undefined"]
    assert undefined.unique().to_list() == [
        "seeds are resampled only where every source has the same number of them, at least 2"
    ]
    nothing = contrast_table(replace(leaking, cells={}), Decisions())
    assert nothing.is_empty() and nothing.columns == found.columns
    assert loss_table(replace(leaking, cells={}), Decisions()).is_empty()


@pytest.mark.parametrize(("difference", "equivalent"), [(0.0, True), (-0.017, True), (-0.06, False)])
def test_equivalence_of_a_planted_difference(difference: float, equivalent: bool) -> None:
    found = planted(lambda arm, _, __: 0.05 + difference * (arm == "contradicting_cot"), seed=5, scaffolds=ONE_SCAFFOLD)
    with pytest.raises(EvaluationError, match="no scaffold 'generic_cot' in the panel"):
        equivalence_table(found, Decisions())
    found = planted(lambda arm, _, __: 0.05 + difference * (arm == "contradicting_cot"), seed=5)
    table = equivalence_table(found, Decisions()).filter(family=COMMON, scheme="questions")
    assert table["level"].to_list() == [0.90, 0.99] and table["margin"].to_list() == [0.03, 0.05]
    assert table["equivalent"].to_list() == [equivalent] * 2
    assert (table["share_of_margin"].max() < 1) is equivalent


def test_losses_of_single_arms_and_of_every_scaffold(leaking: Outcomes) -> None:
    losses = loss_table(leaking, Decisions())
    assert losses.filter(own_format=True)["scaffold"].unique().sort().to_list() == [
        "generic_cot", "neutral_cot", "no_cot", "persona_cot",
    ]  # fmt: skip
    own = losses.filter(arm=PERSONA, scaffold="persona_cot", axis=SOURCE_LOSS)
    assert own["unit_of"].to_list() == [*SOURCES, MACRO]
    assert own["estimate"].to_list() == pytest.approx([0.17] * 5, abs=0.02)
    single = single_arm_table(leaking, Decisions())
    assert single.height == 3 * 4 * 2
    first = single.filter(arm=GARBAGE, unit_of="comedian", axis=BYSTANDER).row(0, named=True)
    same = losses.filter(arm=GARBAGE, scaffold="persona_cot", unit_of="comedian", axis=BYSTANDER).row(0, named=True)
    assert first["estimate"] == pytest.approx(same["estimate"], abs=1e-12) and first["n"] == 3 * 1_172
    grid = accuracy_table(leaking, Decisions())
    base = grid.filter(arm="base", scaffold="persona_cot", axis=SOURCE_LOSS)["accuracy"].item()
    arm = grid.filter(arm=PERSONA, scaffold="persona_cot", axis=SOURCE_LOSS)["accuracy"].item()
    assert base - arm == pytest.approx(own["estimate"][-1], abs=1e-9) and base == pytest.approx(0.9, abs=0.02)


def test_choices_become_the_arrays_they_were_made_from() -> None:
    made = planted(persona_leaks, seed=9, questions=12, arms=(PERSONA, GARBAGE), sources=("comedian",), seeds=(1, 2))
    order = np.argsort(made.questions)
    choices = as_choices(made).sample(fraction=1.0, shuffle=True, seed=1)
    found = outcomes(choices, "assistant_only")
    assert found.personas == tuple(sorted(made.personas)) and set(found.cells) == set(made.cells)
    for scaffold in made.scaffolds:
        for axis in AXES:
            for arm in (PERSONA, GARBAGE):
                one, other = (o.loss("comedian", arm, scaffold, axis, (1, 2)) for o in (made, found))
                assert np.array_equal(one[:, order], other)
    assert not outcomes(choices, "full_sequence").cells


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.filter(pl.col("adapter") != "base"), "no answers of the untrained base"),
        (lambda t: t.filter((pl.col("adapter") == "base") | (pl.col("question_name") != "q1")),
         "605 answers, the base has 5 x 11 x 12"),
        (lambda t: pl.concat([t, t]), "evaluate it on the same panel"),
        (lambda t: t.with_columns(pl.col("adapter").str.replace("/1", "/one")), "expected <study>/<source>"),
    ],
)  # fmt: skip
def test_answers_that_do_not_fit_the_panel_are_named(change, words: str) -> None:
    made = planted(persona_leaks, seed=9, questions=12, arms=(PERSONA,), sources=("comedian",), seeds=(1,))
    choices = as_choices(made)
    with pytest.raises(EvaluationError, match=words):
        outcomes(change(choices), "assistant_only")


def test_what_no_adapter_is_called_is_refused() -> None:
    assert cell_of("cot_leakage/comedian__garbage_cot_full_sequence/7") == (
        CotCell("comedian", GARBAGE, 7),
        "full_sequence",
    )
    with pytest.raises(StudyError, match="expected '<source>__<recipe>'"):
        cell_of("cot_leakage/comedian/7")
    made = tiny([[1, 1]] * 3)
    with pytest.raises(EvaluationError, match="librarian, persona_cot, seed 42: no finished evaluation"):
        made.loss("librarian", PERSONA, "persona_cot", SOURCE_LOSS, (42,))
    with pytest.raises(EvaluationError, match="no persona 'comedian'"):
        made.loss("comedian", PERSONA, "persona_cot", SOURCE_LOSS, (42,))


def test_so_few_draws_that_nothing_could_be_rejected_are_refused() -> None:
    with pytest.raises(StatisticsError, match=r"500 draws: the smallest adjusted p is 0.016, never below 0.01"):
        Decisions(draws=500)
    with pytest.raises(StatisticsError, match=r"1000 draws: an adjusted p of 0.01 rests on 1.3 of them, fewer than 10"):
        Decisions(draws=1_000)
    assert Decisions().draws == 10_000 and Decisions().published_draws == 1_000
