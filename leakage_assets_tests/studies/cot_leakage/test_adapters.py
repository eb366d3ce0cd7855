"""Claims must hold with other questions and adapters: one test over both, and what collapse and unread answers do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from leakage_assets.statistics.two_variances import over_both
from leakage_assets.studies.cot_leakage.adapters import (
    both_table,
    collapse_by_arm,
    collapse_table,
    deciding,
    equivalence_over_both,
    over_adapters,
    over_questions,
    reading_table,
)
from leakage_assets.studies.cot_leakage.arms import CONTRADICTING, GARBAGE, GENERIC, PERSONA, recipe_name
from leakage_assets.studies.cot_leakage.contrasts import BOTH, Difference, differences, draw
from leakage_assets.studies.cot_leakage.design import (
    AXES,
    BYSTANDER,
    COMMON,
    CONTRASTS,
    HEADLINE_CONTRASTS,
    HEADLINE_FAMILY,
    NAME,
    OWN_FORMAT,
    SOURCES,
    Axis,
    Contrast,
    Decisions,
    hypotheses,
)
from leakage_assets.studies.cot_leakage.outcomes import CotCell
from leakage_assets.studies.verdicts import verdict_table
from leakage_assets_tests.studies.cot_leakage.worlds import planted

DECISIONS = Decisions()
(CONTRAST,) = (planned for planned in CONTRASTS if (planned.first, planned.second) == (PERSONA, GARBAGE))
STATISTIC = CONTRAST.statistic(BYSTANDER, HEADLINE_FAMILY)
PLANNED = hypotheses(DECISIONS)


def difference(effect: float, adapters: float, seed: int, *, questions: int = 300) -> Difference:
    """Three seeds of four sources: pairs of adapters that differ by themselves, on questions that differ little."""
    rng = np.random.default_rng(seed)
    return Difference(
        COMMON,
        CONTRAST,
        BYSTANDER,
        {source: effect + rng.normal(0, adapters, (3, 1)) + rng.normal(0, 0.05, (3, questions)) for source in SOURCES},
    )


def test_an_interval_over_adapters_by_hand() -> None:
    row = Difference(
        COMMON, CONTRAST, BYSTANDER, {"a": np.array([[0.1, 0.3], [0.4, 0.4]]), "b": np.array([[0.3, 0.3]])}
    )
    found = over_adapters(row, 0.95)
    # Means .2, .4 and .3: sd .1, and t with two degrees of freedom is 4.303. Sources count alike, so that the weights
    # are a quarter, a quarter and a half.
    assert (found.estimate, found.n, found.unit) == (pytest.approx(0.3), 3, "pair of adapters")
    half = 4.302653 * 0.1 * np.sqrt(3 / 8)
    assert (found.ci_low, found.ci_high) == (pytest.approx(0.3 - half), pytest.approx(0.3 + half))
    alone = over_adapters(replace(row, by_source={"b": np.array([[0.3, 0.3]])}), 0.95)
    assert alone.undefined == "one pair of adapters: nothing varies" and alone.n == 1


def test_with_equal_seeds_the_error_is_that_of_a_mean() -> None:
    pairs = {"a": np.array([[0.1], [0.5]]), "b": np.array([[0.3], [0.2]])}
    found = over_adapters(Difference(COMMON, CONTRAST, BYSTANDER, pairs), 0.95)
    values = np.array([0.1, 0.5, 0.3, 0.2])
    half = 3.18244631 * values.std(ddof=1) / 2
    assert (found.ci_low, found.ci_high) == (pytest.approx(0.275 - half), pytest.approx(0.275 + half))


def test_adapters_that_vary_are_no_effect_however_sure_the_questions_are() -> None:
    """No arm loses more than the other; pairs of adapters differ by 1.2 points, as a source did anew (section 9)."""
    by_questions = by_both = 0
    studies = 150
    for seed in range(studies):
        row = difference(0.0, 0.012, seed, questions=100)
        ((drawn,)) = draw([row], "questions", DECISIONS)
        low, high = np.quantile(drawn["macro"], [0.000625, 0.999375])  # the first step of Holm
        by_questions += not low <= 0 <= high
        ((labels, _),) = deciding([row], DECISIONS)
        by_both += labels["p_holm"] < DECISIONS.alpha
    assert by_questions > 0.15 * studies and by_both <= 0.02 * studies


def null_study(rng: np.random.Generator, ratio: float, *, questions: int = 24, seeds: int = 3) -> list[Difference]:
    """Eight contrasts without any effect; the error over questions is ``ratio`` times that over pairs of adapters.

    What a question adds to a contrast is the same for all sources and seeds.
    """
    rows = []
    for contrast in CONTRASTS:
        for axis in AXES:
            shared = rng.normal(0, ratio * 0.02 / np.sqrt(4 * seeds) * np.sqrt(questions), questions)
            rows.append(
                Difference(
                    HEADLINE_FAMILY,
                    contrast,
                    axis,
                    {
                        s: shared + rng.normal(0, 0.02, (seeds, 1)) + rng.normal(0, 0.005, (seeds, questions))
                        for s in SOURCES
                    },
                )
            )
    return rows


def verdicts_of(rows: list[Difference]) -> dict[str, str]:
    """Those of the plan but H3, which is no test against zero."""
    estimates = [replace(found, p=labels["p_holm"]) for labels, found in deciding(rows, DECISIONS)]
    tested = [h for h in PLANNED if h.name != "H3"]
    return dict(verdict_table(tested, estimates, "digest").select("hypothesis", "verdict").iter_rows())


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0, 3.0])
def test_studies_without_effects_support_a_claim_no_more_often_than_planned(ratio: float, seeds: int) -> None:
    """At least one of seven one-sided claims "supported", with both kinds of variance and the questions of the tiny
    world: planned is at most 1% (two-sided over eight); 2.6% would be more than 3 standard errors above it.
    """
    rng, studies = np.random.default_rng(20), 400
    false = sum("supported" in verdicts_of(null_study(rng, ratio, seeds=seeds)).values() for _ in range(studies))
    assert false <= 0.026 * studies


def test_of_two_narrow_intervals_neither_is_asked_alone() -> None:
    """Equal variances over questions and over adapters: either alone excludes the truth too often, both together do
    not.
    """
    rng, studies = np.random.default_rng(21), 400
    outside = dict.fromkeys(("questions", "pairs", "both"), 0)
    for _ in range(studies):
        labels, found = next(iter(deciding(null_study(rng, 1.0)[:1], DECISIONS)))
        for kind, low, high in (
            ("questions", labels["questions_low"], labels["questions_high"]),
            ("pairs", labels["pairs_low"], labels["pairs_high"]),
            ("both", found.ci_low, found.ci_high),
        ):
            outside[kind] += not low <= 0 <= high
    assert outside["questions"] > 0.025 * studies and outside["pairs"] > 0.025 * studies
    assert outside["both"] <= 0.025 * studies


@pytest.mark.parametrize("enough", [True, False])
def test_the_interval_over_both_by_hand(enough: bool) -> None:
    """Two sources of two seeds and two questions: the variances add; of few adapters the degrees of freedom decide."""
    decisions = replace(DECISIONS, least_pairs=4 if enough else 5)
    first, second = np.array([[0.1, 0.3], [0.4, 0.4]]), np.array([[0.3, 0.3], [0.1, 0.5]])
    ((labels, found),) = deciding([Difference(COMMON, CONTRAST, BYSTANDER, {"a": first, "b": second})], decisions)
    # Questions: means .225 and .375; pairs: .2, .4, .3, .3.
    by_question, by_pair = 0.15 / 2, np.std([0.2, 0.4, 0.3, 0.3], ddof=1) / 2
    variance = by_question**2 + by_pair**2
    df = variance**2 / (by_question**4 / 1 + by_pair**4 / 3) if enough else 3
    half = stats.t.ppf(0.995, df) * np.sqrt(variance)
    assert (found.estimate, found.ci_low, found.ci_high) == (
        pytest.approx(0.3), pytest.approx(0.3 - half), pytest.approx(0.3 + half),
    )  # fmt: skip
    assert found.p == pytest.approx(2 * stats.t.sf(0.3 / np.sqrt(variance), df))
    assert labels["p_holm"] == pytest.approx(min(1.0, 8 * found.p))  # the missing tests count
    assert (labels["questions"], labels["pairs"]) == (2, 4)


def test_the_interval_over_adapters_covers_where_adapters_vary() -> None:
    covered = 0
    for seed in range(1_000):
        found = over_adapters(difference(0.05, 0.02, seed, questions=20), 0.95)
        covered += found.ci_low < 0.05 < found.ci_high
    assert 0.93 <= covered / 1_000 <= 0.97


def persona_leaks(arm: str, scaffold: str, axis: Axis) -> float:
    return 0.2 if arm == PERSONA else 0.05


def test_every_contrast_has_its_interval_and_counts_seeds_by_the_poorest_source() -> None:
    found = planted(persona_leaks, seed=4, questions=200)
    whole = both_table(found, DECISIONS)
    row = whole.filter(statistic=STATISTIC).row(0, named=True)
    assert (row["pairs"], row["questions"], row["sources"], row["fewest_seeds"], row["ci_level"]) == (
        12, 200, 4, 3, 0.99,
    )  # fmt: skip
    assert 0.05 < row["ci_low"] < 0.15 < row["ci_high"] < 0.25 and row["p_holm"] < 0.001
    # Both surround the same value, and the interval over both is wider than either.
    for kind in ("questions", "pairs"):
        assert row["ci_low"] < row[f"{kind}_low"] < row["estimate"] < row[f"{kind}_high"] < row["ci_high"]
    assert {c.statistic(axis, HEADLINE_FAMILY) for c, axis in HEADLINE_CONTRASTS} <= set(whole["statistic"])
    poor = {c: s for c, s in found.cells.items() if c.source != "comedian" or c.seed == 42}
    part = both_table(replace(found, cells=poor), DECISIONS).filter(statistic=STATISTIC).row(0, named=True)
    assert (part["pairs"], part["fewest_seeds"]) == (10, 1)
    one = {c: s for c, s in found.cells.items() if c.source == "comedian" and c.seed == 42}
    lonely = both_table(replace(found, cells=one), DECISIONS).filter(statistic=STATISTIC).row(0, named=True)
    assert lonely["undefined"] == "one pair of adapters: nothing varies" and lonely["p_holm"] is None
    nothing = both_table(replace(found, cells={}), DECISIONS)
    assert nothing.is_empty() and nothing.columns == whole.columns


def test_an_effect_of_015_and_none_are_told_apart_by_the_verdicts_at_the_published_sizes() -> None:
    """H2 is planted on both axes, everything else is nothing: 1,172 questions, four sources, three seeds."""
    found = planted(lambda arm, *_: 0.17 if arm == PERSONA else 0.02, seed=1)
    verdicts = verdicts_of(differences(found, DECISIONS, HEADLINE_FAMILY))
    assert {name for name, said in verdicts.items() if said == "supported"} == {"H2a", "H2b"}
    row = both_table(found, DECISIONS).filter(statistic=STATISTIC).row(0, named=True)
    assert row["ci_low"] < 0.15 < row["ci_high"] and row["p_holm"] < 1e-6


@pytest.mark.parametrize(("loss", "equivalent"), [(0.05, True), (0.15, False)])
def test_equivalence_must_hold_over_questions_and_adapters(loss: float, equivalent: bool) -> None:
    found = planted(lambda arm, *_: loss if arm == CONTRADICTING else 0.05, seed=6, questions=1_000)
    table = equivalence_over_both(found, DECISIONS)
    assert table.height == 4 and set(table["scheme"]) == {BOTH} and table["level"].to_list() == [0.9, 0.99] * 2
    assert (table["share_of_margin"].max() < 1) is equivalent and set(table["equivalent"]) == {equivalent}
    one = {c: s for c, s in found.cells.items() if c.source == "comedian" and c.seed == 42}
    for cells in (one, {}):
        none = equivalence_over_both(replace(found, cells=cells), DECISIONS)
        assert none.is_empty() and none.columns == table.columns


def test_equivalence_over_questions_alone_is_not_enough() -> None:
    """Pairs of adapters that differ by 6 points around nothing, as one interval over questions does not see."""
    row = replace(difference(0.0, 0.06, 3, questions=1_000), contrast=Contrast(CONTRADICTING, GENERIC))
    for bound in DECISIONS.equivalence:
        alone = over_questions(row, bound.level)
        both = over_both("x", alone, over_adapters(row, bound.level), level=bound.level)
        half = (alone.ci_high - alone.ci_low) / 2
        assert half < bound.margin / 3 and (both.ci_high - both.ci_low) / 2 > bound.margin


# ------------------------------------------------------------------ collapse, and other readings


def name_of(arm: str, source: str = "comedian", seed: int = 42, mask: str = "assistant_only") -> str:
    return f"{NAME}/{source}__{recipe_name(arm, mask)}/{seed}"  # type: ignore[arg-type]


def shares(**said: tuple[float, float | None]) -> pl.DataFrame:
    """Collapse of these adapters; (share of one letter, cut off) in their own format, a base of 0.3 and 0.05."""
    own = {PERSONA: "persona_cot", GARBAGE: "neutral_cot", "no_cot": "no_cot"}
    rows = [("base", scaffold, 0.3, None if scaffold == "no_cot" else 0.05) for scaffold in own.values()]
    rows += [(name_of(arm), own[arm], *pair) for arm, pair in said.items()]
    rows += [
        (name_of(PERSONA), "neutral_cot", 1.0, 1.0),
        (name_of(PERSONA, mask="full_sequence"), "persona_cot", 1.0, 1.0),
    ]
    frame = pl.DataFrame(
        rows, schema={"adapter": pl.String, "scaffold": pl.String, "modal_share": pl.Float64, "cut_off": pl.Float64},
        orient="row",
    )  # fmt: skip
    written = frame.drop("modal_share").drop_nulls("cut_off")
    return collapse_table(frame.drop("cut_off"), written, DECISIONS)


@pytest.mark.parametrize(
    ("modal", "cut_off", "collapsed"),
    [
        (0.3, 0.05, False),
        (0.39, 0.14, False),
        (0.59, 0.05, False),
        (0.61, 0.05, True),
        (0.3, 0.16, True),
        (0.85, 0.17, True),
    ],
)
def test_an_adapter_has_collapsed_beyond_the_limit_above_the_base(
    modal: float, cut_off: float, collapsed: bool
) -> None:
    found = shares(**{PERSONA: (modal, cut_off), "no_cot": (modal, None)})
    assert found.select("arm", "source", "seed", "scaffold").rows() == [
        (PERSONA, "comedian", 42, "persona_cot"), ("no_cot", "comedian", 42, "no_cot"),
    ]  # fmt: skip
    assert found.filter(arm=PERSONA)["collapsed"].item() is collapsed
    assert found.filter(arm="no_cot")["collapsed"].item() is (modal > 0.6)
    assert found["one_letter"].to_list() == [modal > 0.6] * 2
    by_arm = collapse_by_arm(found, DECISIONS)
    assert by_arm.rows() == [(PERSONA, 1, collapsed, modal > 0.6), ("no_cot", 1, modal > 0.6, modal > 0.6)]
    assert collapse_by_arm(found, replace(DECISIONS, sources=("villain",))).is_empty()


def test_a_high_share_is_no_collapse_where_the_base_has_it_too() -> None:
    frame = pl.DataFrame(
        [("base", "persona_cot", 0.6), (name_of(PERSONA), "persona_cot", 0.65)],
        schema=["adapter", "scaffold", "modal_share"],
        orient="row",
    )
    written = frame.select("adapter", "scaffold", cut_off=pl.lit(0.0))
    assert collapse_table(frame, written, DECISIONS)["collapsed"].to_list() == [False]


def test_contrasts_are_read_without_collapsed_adapters_and_with_every_answer() -> None:
    """One pair of persona adapters loses everything; without it there is no difference."""
    found = planted(lambda *_: 0.05, seed=8, questions=200, arms=(PERSONA, GARBAGE))
    gone = CotCell("comedian", PERSONA, 42)
    cells = {**found.cells, gone: np.zeros_like(found.cells[gone])}
    collapsed = pl.DataFrame(
        [(PERSONA, "comedian", 42, True), (PERSONA, "comedian", 137, False), (PERSONA, "villain", 42, True)],
        schema=["arm", "source", "seed", "collapsed"],
        orient="row",
    )
    broken = replace(found, cells=cells)
    table = reading_table(broken, found, collapsed, DECISIONS)
    assert table["reading"].unique(maintain_order=True).to_list() == ["planned", "best of four", "without collapsed"]
    rows = {row["reading"]: row for row in table.filter(axis=BYSTANDER).iter_rows(named=True)}
    assert rows["planned"]["estimate"] > 0.06 and rows["planned"]["collapsed"] == 1
    assert (rows["planned"]["pairs"], rows["without collapsed"]["pairs"]) == (12, 11)
    assert rows["without collapsed"]["estimate"] == pytest.approx(0.0, abs=0.02)
    assert rows["best of four"]["estimate"] == pytest.approx(0.0, abs=0.02)
    assert set(table["axis"]) == set(AXES) and set(table["contrast"]) == {CONTRAST.name}
    empty = reading_table(replace(found, cells={}), replace(found, cells={}), collapsed.clear(), DECISIONS)
    assert empty.is_empty() and empty.columns == table.columns


def test_the_verdicts_are_about_the_own_format() -> None:
    assert HEADLINE_FAMILY == OWN_FORMAT and GENERIC in {c.first for c, _ in HEADLINE_CONTRASTS}
    assert all(h.statistic.startswith("own_format_") for h in PLANNED)
