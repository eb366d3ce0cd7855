"""What supports a hypothesis over arms: questions, adapters, and enough of both. Counterexamples that passed before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from leakage_assets.statistics.pooled_ratios import (
    Resampled,
    Side,
    cell_differences,
    mean_difference,
    over_cells,
    shares,
)
from leakage_assets.statistics.student import t_error
from leakage_assets.statistics.two_variances import over_both
from leakage_assets.studies.two_marker_chunk.analysis import analyse
from leakage_assets.studies.two_marker_chunk.arms import C2_MASKED, C_MASKED, PAIRS, T_AFTER, T_MASKED, scattered
from leakage_assets.studies.two_marker_chunk.support import Finding, supported, too_few
from leakage_assets.studies.two_marker_chunk.support import finding as made_of
from leakage_assets_tests.studies.two_marker_chunk.worlds import WORDS, A, B, habit, scores, study_plan, written

PLAN = study_plan(400)
HYPOTHESES = {h.name: h for h in PLAN.hypotheses}
QUESTIONS, SEEDS = 26, 3
Arm = tuple[np.ndarray, np.ndarray]


def finding(first: Arm, second: Arm, *, null: float = 0.0, needs: Resampled | None = None, draws: int = 400) -> Finding:
    """One pair; (S, Q) counts found and total of both arms."""
    both = {"pair": (shares(*first), shares(*second))}
    over_questions = mean_difference("d", both, clusters="question", seed=1, draws=draws, null=null)
    adapters = over_cells("d", cell_differences(both), null=null)
    return made_of(PLAN, over_questions, adapters, null=null, needs=needs)


def verdict(name: str, found: Finding) -> tuple[str, str]:
    return supported(PLAN, HYPOTHESES[name], found, found.both.p)


def counts(rng: np.random.Generator, rates: np.ndarray, with_a: int = 4) -> Arm:
    """Of ``with_a`` completions with A to each question of each seed, how many have B; rates (S, 1) or (S, Q)."""
    total = np.full((SEEDS, QUESTIONS), with_a)
    return rng.binomial(total, rates), total


def test_a_difference_on_three_questions_decides_nothing() -> None:
    """A said 3 times to each of 2 (or 3) questions, B after half of them, the control silent: p was 2e-4."""
    for carried in (2, 3):
        total = np.zeros((1, QUESTIONS))
        total[0, :carried] = 3
        found = np.zeros((1, QUESTIONS))
        found[0, :2] = (2, 1)
        silent = np.zeros((1, QUESTIONS)), np.full((1, QUESTIONS), 4)
        one = finding((found, total), silent, draws=4_000)
        assert verdict("H1", one) == ("undecided", "a side of the comparison rests on too few completions")
        if carried == 2:
            assert one.estimate.ci_low is None and one.estimate.p is None  # no p where there is no interval


@pytest.mark.parametrize(
    ("side", "words"),
    [
        (Side(5, 49, 26), "completions"),
        (Side(5, 50, 9), "questions"),
        (Side(5, 50, 10), ""),
    ],
)
def test_floors_turn_at_their_limits(side: Side, words: str) -> None:
    assert words in too_few(PLAN.floors, [side, Side(9, 99, 26)]) and bool(words) == bool(too_few(PLAN.floors, [side]))


def test_a_difference_that_is_just_negligible_is_not_supported_more_often_than_it_may() -> None:
    """Control 0, true difference .06: against 0 it was supported in half of the worlds."""
    rng = np.random.default_rng(3)
    rate = np.full((SEEDS, 1), PLAN.negligible)
    calls, against_zero = [], 0
    for _ in range(150):
        first, second = counts(rng, rate), counts(rng, np.zeros((SEEDS, 1)))
        calls.append(verdict("H1", finding(first, second, null=PLAN.negligible))[0])
        plain = finding(first, second).estimate
        against_zero += plain.p < 0.05 and plain.estimate > PLAN.negligible
    assert calls.count("supported") <= 8 and against_zero > 50
    large = finding(counts(rng, np.full((SEEDS, 1), 0.4)), counts(rng, np.zeros((SEEDS, 1))), null=PLAN.negligible)
    assert verdict("H1", large) == ("supported", "questions and adapters")


def test_arms_whose_adapters_differ_by_chance_alone_are_not_told_apart() -> None:
    """No true difference, adapters vary by 1 in logits: by questions alone far more than 2.5% of worlds have one."""
    rng = np.random.default_rng(4)

    def drawn() -> Arm:
        return counts(rng, 1 / (1 + np.exp(-(-2.4 + rng.normal(0, 1.0, size=(SEEDS, 1))))), with_a=10)

    calls, by_questions = [], 0
    for _ in range(150):
        one = finding(drawn(), drawn())
        by_questions += one.estimate.p < 0.05 and one.estimate.estimate > 0
        calls.append(verdict("H4", one))
    assert by_questions > 25 and [said for said, _ in calls].count("supported") <= 9
    assert ("not supported", "not certain over questions and adapters") in calls


def test_a_null_with_questions_and_adapters_that_vary_is_not_supported_more_often_than_it_may() -> None:
    """Each arm has questions of its own and adapters of its own, two pairs: over cells alone one in ten passes."""
    rng = np.random.default_rng(9)

    def arms() -> list[Arm]:
        of_question = rng.normal(0, 2.0, size=(1, QUESTIONS))
        return [
            counts(rng, 1 / (1 + np.exp(1.7 - of_question - rng.normal(0, 0.6, size=(SEEDS, 1)))), with_a=5)
            for _ in range(2)
        ]

    calls, by_questions, by_cells = [], 0, 0
    for _ in range(400):
        both = {str(n): (shares(*one), shares(*two)) for n, (one, two) in enumerate(zip(arms(), arms(), strict=True))}
        over_questions = mean_difference("d", both, clusters="question", seed=1, draws=200)
        made = made_of(PLAN, over_questions, over_cells("d", cell_differences(both)))
        by_questions += made.estimate.p < 0.05 and made.estimate.estimate > 0
        by_cells += made.adapters.ci_low > 0
        calls.append(verdict("H4", made)[0])
    assert calls.count("supported") <= 16  # one-sided 2.5% of 400, and two errors
    assert by_questions > 16 and by_cells > 25


def test_two_intervals_that_each_leave_the_threshold_out_are_not_one() -> None:
    """Both surround the same value, whose variance is the sum; and the p of the sum is what is adjusted."""
    rng = np.random.default_rng(7)
    made = finding(counts(rng, np.full((SEEDS, 1), 0.5)), counts(rng, np.full((SEEDS, 1), 0.2)))
    value = made.estimate.estimate

    def with_errors(questions: float, adapters: float) -> Finding:
        over_questions = replace(
            made.over_questions,
            estimate=replace(made.estimate, ci_low=value - questions, ci_high=value + questions),
            error=None,  # read from the interval
        )
        over_adapters = replace(made.adapters, n=6, ci_low=value - adapters, ci_high=value + adapters)
        return made_of(PLAN, over_questions, over_adapters)

    barely = with_errors(0.9 * value, 0.9 * value)
    assert barely.estimate.ci_low > 0 and barely.adapters.ci_low > 0 > barely.both.ci_low
    assert verdict("H4", barely) == ("not supported", "not certain over questions and adapters")
    lost = replace(barely.over_questions, undefined_draws=barely.over_questions.draws)
    assert verdict("H4", replace(barely, over_questions=lost)) == (
        "undecided", "too many resamples of questions are undefined",
    )  # fmt: skip
    clear = with_errors(0.5 * value, 0.5 * value)
    assert clear.both.ci_low > 0 and verdict("H4", clear) == ("supported", "questions and adapters")
    assert supported(PLAN, HYPOTHESES["H4"], clear, 0.05)[0] == "not supported"  # once it is adjusted


@pytest.mark.parametrize(("cells", "degrees"), [(7, 6.0), (8, None)])
def test_few_cells_have_no_more_degrees_of_freedom_than_their_own(cells: int, degrees: float | None) -> None:
    rng = np.random.default_rng(10)
    made = finding(counts(rng, np.full((SEEDS, 1), 0.5)), counts(rng, np.full((SEEDS, 1), 0.2)))
    half = 0.05
    value = made.estimate.estimate
    questions, adapters = (
        replace(one, n=n, ci_low=value - half, ci_high=value + half)
        for one, n in ((made.estimate, QUESTIONS), (made.adapters, cells))
    )
    both = made_of(PLAN, replace(made.over_questions, estimate=questions, error=None), adapters).both
    errors = [half / stats.t.ppf(0.975, n - 1) for n in (QUESTIONS, cells)]
    variance = sum(error**2 for error in errors)
    satterthwaite = variance**2 / sum(e**4 / (n - 1) for e, n in zip(errors, (QUESTIONS, cells), strict=True))
    wide = stats.t.ppf(0.975, degrees or satterthwaite) * np.sqrt(variance)
    assert (both.ci_low, both.ci_high) == (pytest.approx(value - wide), pytest.approx(value + wide))


def test_the_wrong_side_is_told_from_an_open_question() -> None:
    rng = np.random.default_rng(8)
    silent = counts(rng, np.zeros((SEEDS, 1)))
    low = finding(counts(rng, np.full((SEEDS, 1), 0.01)), silent, null=PLAN.negligible)
    assert low.both.p < 0.05 and verdict("H1", low) == ("not supported", "excluded by the interval over both")
    wide = replace(low, both=replace(low.both, ci_high=PLAN.negligible))
    assert verdict("H1", wide) == ("not supported", "its value is not beyond the threshold")
    nothing = finding(silent, silent, null=PLAN.negligible)
    assert nothing.both.p == 1.0 and verdict("H1", nothing)[0] == "not supported"
    assert over_both("d", nothing.estimate, nothing.adapters, null=PLAN.negligible).p is None  # it only knows the null
    always = counts(rng, np.ones((SEEDS, 1)))
    assert verdict("H1", finding(always, silent)) == ("undecided", "neither questions nor adapters vary")


def test_one_seed_is_undecided_whatever_its_p() -> None:
    rng = np.random.default_rng(5)
    first, second = counts(rng, np.full((SEEDS, 1), 0.5)), counts(rng, np.zeros((SEEDS, 1)))
    one = finding((first[0][:1], first[1][:1]), (second[0][:1], second[1][:1]))
    said, why = verdict("H4", one)
    assert one.estimate.p < 0.02 and said == "undecided" and "one seed of pair" in why


def test_h5_needs_b_to_depend_on_a() -> None:
    rng = np.random.default_rng(6)
    one = finding(counts(rng, np.full((SEEDS, 1), 0.6)), counts(rng, np.full((SEEDS, 1), 0.2)))
    apart = replace(one.over_questions, low=-0.1, high=0.1)
    assert verdict("H5", one)[0] == "supported"
    assert verdict("H5", replace(one, needs=apart)) == (
        "not supported", "B is not shown to come more often with A than without",
    )  # fmt: skip
    unknown = replace(apart, undefined_draws=apart.draws)
    assert verdict("H5", replace(one, needs=unknown))[0] == "undecided"


def test_p_of_the_family_are_adjusted_together() -> None:
    pair = PAIRS[0]
    habits = {
        (T_MASKED, pair.name, pair.recipient): habit(a=0.5, b_at_end=0.5),
        (C_MASKED, pair.name, pair.recipient): habit(a=0.5),
        (C2_MASKED, pair.name, pair.recipient): habit(a=0.5),
    }
    found = analyse(PLAN, scores(habits, seeds=tuple(range(1, 9)), completions=2))
    table, table_of_headline = found["verdicts"], found["headline"].filter(statistic=f"delta_{T_MASKED}")
    rows = {row["hypothesis"]: row for row in table.iter_rows(named=True)}
    # Those that are undecided count; H4 has the smaller p, as it is not against 6 points.
    assert rows["H4"]["p_holm"] == pytest.approx(5 * rows["H4"]["p"])
    assert rows["H1"]["p_holm"] == pytest.approx(4 * rows["H1"]["p"])
    assert rows["H1"]["p_holm"] > rows["H4"]["p_holm"]
    assert rows["H2"]["p_holm"] is None and rows["H6"]["p_holm"] is None
    assert (rows["H1"]["verdict"], rows["H1"]["cells"], rows["H1"]["reason"]) == (
        "supported", 8, "questions and adapters",
    )  # fmt: skip
    assert rows["H1"]["threshold"] < rows["H1"]["adapters_low"] < rows["H1"]["estimate"] < rows["H1"]["adapters_high"]
    low, high = rows["H1"]["both_low"], rows["H1"]["both_high"]
    over_questions = table_of_headline.row(0, named=True)
    assert high - low > over_questions["ci_high"] - over_questions["ci_low"]
    assert low < rows["H1"]["estimate"] < high and rows["H1"]["p"] != over_questions["p"]


def test_b_where_the_rows_had_it_does_not_support_h5() -> None:
    """Trained as it should be, and B follows A anywhere: H5 was supported by the windows alone."""
    pair = PAIRS[0]

    def trained(rng, ready):
        if rng.random() > 0.5:
            return written()
        return scattered(" ".join(["words"] * WORDS), A, B, before=False, seed=int(rng.integers(2**40)))

    key = (T_AFTER, pair.name, pair.recipient)
    for seed in range(4):
        found = analyse(PLAN, scores({key: trained}, seeds=(1, 2, 3), completions=5, seed=seed))
        headline = {row["statistic"]: row for row in found["headline"].iter_rows(named=True)}
        assert headline[f"chunk_minus_suffix_{T_AFTER}"]["ci_low"] > 0.1
        assert headline[f"needs_a_{T_AFTER}"]["estimate"] == 1.0  # it is no chunk by its place alone
        assert found["verdicts"].filter(hypothesis="H5")["verdict"].item() == "not supported"


def test_the_rate_and_its_difference_are_of_the_same_mean() -> None:
    """N(A) of two pairs differ: pooled, the rate was less than its own difference from 0."""
    habits = {}
    for pair, a, b in ((PAIRS[0], 0.95, 0.01), (PAIRS[1], 0.1, 0.5)):
        habits[T_MASKED, pair.name, pair.recipient] = habit(a=a, b_at_end=b)
        habits[C_MASKED, pair.name, pair.recipient] = habit(a=a)
    found = analyse(PLAN, scores(habits, seeds=(1, 2), completions=8))
    headline = {row["statistic"]: row["estimate"] for row in found["headline"].iter_rows(named=True)}
    rates = found["rates"].filter(role="recipient", rate="r_b_given_a", recipe=T_MASKED)
    assert rates["found"].sum() / rates["total"].sum() < 0.1 < headline["recipient_r_b_given_a"]
    assert headline["recipient_r_b_given_a"] == pytest.approx(headline[f"delta_{T_MASKED}"])
    assert headline["recipient_r_b_given_a"] == pytest.approx(rates["estimate"].mean())


def test_one_donor_that_says_b_untaught_is_not_hidden_by_the_others() -> None:
    """5.9% of one donor among silent others: 1.5% together, but its upper bound is above 3%."""
    silent = {(C_MASKED, p.name, who): habit(a=0.5) for p in PAIRS for who in p.trained[:2]}
    loud = silent | {(C_MASKED, PAIRS[1].name, PAIRS[1].donor): habit(a=0.5, b_at_end=0.06)}
    verdicts = []
    for habits in (silent, loud):
        found = analyse(PLAN, scores(habits, completions=10))
        verdicts.append(found["verdicts"].filter(hypothesis="H6")["verdict"].item())
        rate = found["headline"].filter(statistic="control_b_rate")["estimate"].item()
        assert rate < 0.03
    assert verdicts == ["supported", "not supported"]


def test_what_is_said_of_everyone_waits_for_every_pair_but_is_refuted_by_one() -> None:
    verdicts = []
    for b in (0.0, 0.3):
        habits = {(C_MASKED, PAIRS[0].name, who): habit(a=0.5, b_at_end=b) for who in PAIRS[0].trained[:2]}
        found = analyse(PLAN, scores(habits, completions=10))
        verdicts.append(found["verdicts"].filter(hypothesis="H6")["verdict"].item())
    assert verdicts == ["undecided", "not supported"]


def test_cells_are_told_one_by_one() -> None:
    pair = PAIRS[0]
    habits = {(arm, pair.name, pair.recipient): habit(a=0.5, b_at_end=b) for arm, b in ((T_MASKED, 0.5), (C_MASKED, 0))}
    found = analyse(PLAN, scores(habits, seeds=(1, 2), completions=4))
    cells = found["cells"].filter(statistic=f"delta_{T_MASKED}")
    assert cells["seed"].to_list() == [1, 2] and set(cells["source"]) == {pair.name}
    own = found["verdicts"].filter(hypothesis="H1").row(0, named=True)
    mean, error = cells["difference"].mean(), cells["difference"].std() / np.sqrt(2)
    assert (own["adapters_low"] + own["adapters_high"]) / 2 == pytest.approx(mean)
    assert (own["adapters_high"] - own["adapters_low"]) / 2 == pytest.approx(12.7062 * error, rel=1e-4)


def test_personas_that_nobody_trained_are_adjusted_together() -> None:
    pair = PAIRS[0]
    others = [name for name in ("police_officer", "librarian", "data_scientist") if pair.role(name) == "untrained"]
    habits = {
        (arm, pair.name, who): habit(a=0.0, b_at_end=0.2 if (arm, who) == (T_MASKED, others[0]) else 0.0)
        for arm in (T_MASKED, C_MASKED)
        for who in others
    }
    table = analyse(PLAN, scores(habits))["differences"].filter(pl.col("statistic") == f"bystander_{T_MASKED}")
    rows = {row["prompt_name"]: row for row in table.filter(source=pair.name).iter_rows(named=True)}
    assert rows[others[0]]["p_holm"] == pytest.approx(len(others) * rows[others[0]]["p"])
    assert rows["untrained together"]["p_holm"] is None and rows["untrained together"]["p"] is not None


def test_the_error_over_questions_is_not_that_of_a_percentile_interval() -> None:
    """Shares of equal totals: their mean over n questions has the error sd/√n, of which a bootstrap lacks (n - 1)/n."""
    rng = np.random.default_rng(3)
    made = finding(counts(rng, np.full((SEEDS, 1), 0.5)), counts(rng, np.full((SEEDS, 1), 0.2)))
    first, second = made.over_questions.sides
    assert first.below == second.below
    read = t_error(made.estimate, QUESTIONS - 1)
    true = made.over_questions.error
    assert true is not None and 0.85 < read / true < 0.99  # too small by as much as t is wider than the normal
    without = replace(made.over_questions, error=None)
    assert made_of(PLAN, without, made.adapters).both.p < made_of(PLAN, made.over_questions, made.adapters).both.p


def test_with_nine_cells_and_questions_that_decide_a_null_is_rejected_as_often_as_told() -> None:
    """Three pairs of three seeds; questions move both arms apart, adapters hardly: two-sided, at .05 and .01."""
    rng = np.random.default_rng(17)
    found = []
    for _ in range(400):
        moved = rng.normal(0, 0.12, QUESTIONS)
        both = {}
        for pair in "abc":
            shares_of = [np.clip(0.4 + sign * moved / 2 + rng.normal(0, 0.01, (3, 1)), 0, 1) for sign in (1, -1)]
            both[pair] = tuple(shares(rng.binomial(40, p), np.full((3, QUESTIONS), 40)) for p in shares_of)
        over_questions = mean_difference("d", both, clusters="question", seed=1, draws=400)
        found.append(made_of(PLAN, over_questions, over_cells("d", cell_differences(both))).both.p)
    assert np.mean(np.array(found) < 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean(np.array(found) < 0.01) <= 0.01 + 2 * np.sqrt(0.01 * 0.99 / 400)
