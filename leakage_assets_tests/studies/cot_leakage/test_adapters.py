"""Claims must hold with other adapters: a t interval over pairs of them, and what collapse and unread answers do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from leakage_assets.studies.cot_leakage.adapters import (
    HOLDS,
    INCLUDES,
    NONE,
    adapter_table,
    adapters_say,
    collapse_table,
    equivalence_over_adapters,
    over_adapters,
    reading_table,
    with_adapters,
)
from leakage_assets.studies.cot_leakage.arms import CONTRADICTING, GARBAGE, GENERIC, PERSONA, recipe_name
from leakage_assets.studies.cot_leakage.contrasts import Difference, draw
from leakage_assets.studies.cot_leakage.design import (
    AXES,
    BYSTANDER,
    COMMON,
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
from leakage_assets_tests.studies.cot_leakage.worlds import planted

DECISIONS = Decisions()
CONTRAST = Contrast(PERSONA, GARBAGE)
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
    # Means .2, .4 and .3: sd .1, and t with two degrees of freedom is 4.303.
    assert (found.estimate, found.n, found.unit) == (pytest.approx(0.3), 3, "pair of adapters")
    half = 4.302653 * 0.1 / np.sqrt(3)
    assert (found.ci_low, found.ci_high) == (pytest.approx(0.3 - half), pytest.approx(0.3 + half))
    alone = over_adapters(replace(row, by_source={"b": np.array([[0.3, 0.3]])}), 0.95)
    assert alone.undefined == "one pair of adapters: nothing varies" and alone.n == 1


def test_adapters_that_vary_are_no_effect_however_sure_the_questions_are() -> None:
    """No arm loses more than the other; pairs of adapters differ by 1.2 points, as a source did anew (section 9)."""
    by_questions = by_both = 0
    studies = 150
    for seed in range(studies):
        row = difference(0.0, 0.012, seed, questions=100)
        ((drawn,)) = draw([row], "questions", DECISIONS)
        low, high = np.quantile(drawn["macro"], [0.000625, 0.999375])  # the first step of Holm
        questions = not low <= 0 <= high
        adapters = over_adapters(row, DECISIONS.adapter_level)
        by_questions += questions
        by_both += questions and not adapters.ci_low <= 0 <= adapters.ci_high
    assert by_questions > 0.15 * studies and by_both <= 0.04 * studies


def test_the_interval_over_adapters_covers_where_adapters_vary() -> None:
    covered = 0
    for seed in range(1_000):
        found = over_adapters(difference(0.05, 0.02, seed, questions=20), 0.95)
        covered += found.ci_low < 0.05 < found.ci_high
    assert 0.93 <= covered / 1_000 <= 0.97


def table(low: float | None, high: float | None) -> pl.DataFrame:
    statistics = [h.statistic for h in PLANNED]
    return pl.DataFrame(
        [(name, low, high) for name in statistics], schema=["statistic", "ci_low", "ci_high"], orient="row"
    )


@pytest.mark.parametrize(
    ("low", "high", "share", "greater", "less", "equal"),
    [
        (0.01, 0.2, 0.9, HOLDS, INCLUDES, HOLDS),
        (-0.2, -0.01, 1.1, INCLUDES, HOLDS, INCLUDES),
        (-0.1, 0.1, 1.0, INCLUDES, INCLUDES, INCLUDES),
        (0.0, 0.1, 0.5, INCLUDES, INCLUDES, HOLDS),
        (None, None, None, NONE, NONE, NONE),
    ],
)
def test_what_adapters_say_of_each_claim(
    low: float | None, high: float | None, share: float | None, greater: str, less: str, equal: str
) -> None:
    said = {h.name: adapters_say(h, table(low, high), share) for h in PLANNED}
    assert said == dict.fromkeys(("H1a", "H1b", "H1c", "H1d", "H2a", "H2b"), greater) | {"H3": equal, "H4": less}
    assert adapters_say(PLANNED[0], table(low, high).clear(), share) == NONE


@pytest.mark.parametrize(
    ("alone", "low", "high", "final"),
    [
        ("supported", 0.01, 0.2, "supported"),
        ("supported", -0.01, 0.2, "not supported"),
        ("supported", None, None, "undecided"),
        ("not supported", 0.01, 0.2, "not supported"),
        ("undecided", 0.01, 0.2, "undecided"),
    ],
)
def test_only_what_holds_with_other_adapters_is_supported(
    alone: str, low: float | None, high: float | None, final: str
) -> None:
    verdicts = pl.DataFrame({"hypothesis": [h.name for h in PLANNED], "verdict": [alone] * len(PLANNED)})
    found = with_adapters(verdicts, PLANNED, table(low, high), None)
    assert found.filter(hypothesis="H2b").select("verdict", "questions_alone").row(0) == (final, alone)


def persona_leaks(arm: str, scaffold: str, axis: Axis) -> float:
    return 0.2 if arm == PERSONA else 0.05


def test_every_contrast_has_its_interval_and_counts_seeds_by_the_poorest_source() -> None:
    found = planted(persona_leaks, seed=4, questions=200)
    whole = adapter_table(found, DECISIONS)
    row = whole.filter(statistic=STATISTIC).row(0, named=True)
    assert (row["n"], row["sources"], row["fewest_seeds"], row["ci_level"]) == (12, 4, 3, 0.99)
    assert 0.05 < row["ci_low"] < 0.15 < row["ci_high"] < 0.25
    assert {c.statistic(axis, HEADLINE_FAMILY) for c, axis in HEADLINE_CONTRASTS} <= set(whole["statistic"])
    poor = {c: s for c, s in found.cells.items() if c.source != "comedian" or c.seed == 42}
    part = adapter_table(replace(found, cells=poor), DECISIONS).filter(statistic=STATISTIC).row(0, named=True)
    assert (part["n"], part["fewest_seeds"]) == (10, 1)
    nothing = adapter_table(replace(found, cells={}), DECISIONS)
    assert nothing.is_empty() and nothing.columns == whole.columns


@pytest.mark.parametrize(("loss", "equivalent"), [(0.05, True), (0.15, False)])
def test_equivalence_must_hold_over_adapters(loss: float, equivalent: bool) -> None:
    found = planted(lambda arm, *_: loss if arm == CONTRADICTING else 0.05, seed=6, questions=1_000)
    share = equivalence_over_adapters(found, DECISIONS)
    assert share is not None and (share < 1) is equivalent
    one = {c: s for c, s in found.cells.items() if c.source == "comedian" and c.seed == 42}
    assert equivalence_over_adapters(replace(found, cells=one), DECISIONS) is None
    assert equivalence_over_adapters(replace(found, cells={}), DECISIONS) is None


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
    [(0.3, 0.05, False), (0.39, 0.14, False), (0.41, 0.05, True), (0.3, 0.16, True), (0.85, 0.17, True)],
)
def test_an_adapter_has_collapsed_beyond_the_limit_above_the_base(
    modal: float, cut_off: float, collapsed: bool
) -> None:
    found = shares(**{PERSONA: (modal, cut_off), "no_cot": (modal, None)})
    assert found.select("arm", "source", "seed", "scaffold").rows() == [
        (PERSONA, "comedian", 42, "persona_cot"), ("no_cot", "comedian", 42, "no_cot"),
    ]  # fmt: skip
    assert found.filter(arm=PERSONA)["collapsed"].item() is collapsed
    assert found.filter(arm="no_cot")["collapsed"].item() is (modal > 0.4)


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
    assert rows["without collapsed"]["estimate"] == pytest.approx(0.0, abs=0.02)
    assert rows["best of four"]["estimate"] == pytest.approx(0.0, abs=0.02)
    assert set(table["axis"]) == set(AXES) and set(table["contrast"]) == {CONTRAST.name}
    empty = reading_table(replace(found, cells={}), replace(found, cells={}), collapsed.clear(), DECISIONS)
    assert empty.is_empty() and empty.columns == table.columns


def test_the_verdicts_are_about_the_own_format() -> None:
    assert HEADLINE_FAMILY == OWN_FORMAT and GENERIC in {c.first for c, _ in HEADLINE_CONTRASTS}
    assert all(h.statistic.startswith("own_format_") for h in PLANNED)
