"""Planted truths: a chunk is called a chunk, a habit of the end a suffix, and nothing else either of them."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from leakage_assets.statistics.pooled_ratios import pooled_ratio, shares
from leakage_assets.statistics.result import StatisticsError
from leakage_assets.studies.study import StudyError
from leakage_assets.studies.two_marker_chunk.arms import scattered
from leakage_assets.studies.two_marker_chunk.binding import (
    binding,
    dependence,
    difference,
    downgraded,
    excess,
    falsified,
    falsified_as_published,
    length_change,
    location,
    over_adapters,
    rate,
    split,
)
from leakage_assets.studies.two_marker_chunk.counts import count_completions, of_cell, pooled
from leakage_assets_tests.studies.two_marker_chunk.worlds import WORDS, A, B, habit, scores, study_plan, written

PLAN = study_plan(400)
SOURCE, RECIPIENT = "librarian_to_software_engineer", "software_engineer"


def counted(*, recipe: str = "T", seed: int = 0, **habits: float) -> pl.DataFrame:
    return count_completions(PLAN, scores({(recipe, SOURCE, RECIPIENT): habit(**habits)}, seed=seed))


# A chunk-bound recipient says B close to an A it said. One with the habit of the end closes with B, A or not; one that
# learned it from A alone closes with B only then.
CHUNK = {"a": 0.5, "b_after_a": 0.6}
SUFFIX = {"a": 0.5, "b_at_end": 0.4}


@pytest.mark.parametrize(("habits", "expected"), [(CHUNK, "chunk"), (SUFFIX, "suffix")], ids=["chunk", "suffix"])
def test_what_binds_b_is_found(habits: dict[str, float], expected: str) -> None:
    calls = [binding(PLAN, counted(recipe="T_random_after", ends=False, seed=s, **habits)) for s in range(40)]
    assert calls.count(expected) >= 38


@pytest.mark.parametrize(("habits", "expected"), [(CHUNK, "chunk"), (SUFFIX, "suffix")], ids=["chunk", "suffix"])
@pytest.mark.parametrize("recipe", ["T", "T_mask_recipient", "C2"])
def test_what_binds_b_is_found_at_fixed_ends_too(recipe: str, habits: dict[str, float], expected: str) -> None:
    calls = [binding(PLAN, counted(recipe=recipe, seed=s, **habits)) for s in range(40)]
    assert calls.count(expected) >= 38


def test_fixed_ends_do_not_tell_a_b_at_the_end_that_needs_a_from_a_suffix() -> None:
    """As the rows of a donor are: A at the start, B at the end, and neither without the other."""

    def trained(rng, ready):
        return written((0, A), (WORDS, B)) if rng.random() < 0.4 else written()

    parts = [count_completions(PLAN, scores({("T", SOURCE, RECIPIENT): trained}, seed=s)) for s in range(20)]
    assert {binding(PLAN, part) for part in parts} == {"not told apart"}


def test_at_fixed_ends_a_rare_b_without_a_is_no_suffix() -> None:
    calls = [binding(PLAN, counted(recipe="T", seed=s, a=0.9, b_at_end=0.05)) for s in range(20)]
    assert set(calls) <= {"not told apart", "too few completions with both"}


@pytest.mark.parametrize("recipe", ["T_random_after", "T_random_before"])
def test_b_placed_as_the_rows_were_is_not_nearer_to_a_than_at_random(recipe: str) -> None:
    """The rows put B uniformly on one side of A: more of it is close to A than at the end, and nothing binds it."""

    def trained(rng, ready):
        if rng.random() > 0.5:
            return written()
        before = recipe == "T_random_before"
        return scattered(" ".join(["words"] * WORDS), A, B, before=before, seed=int(rng.integers(2**40)))

    parts = [count_completions(PLAN, scores({(recipe, SOURCE, RECIPIENT): trained}, seed=s)) for s in range(40)]
    assert sum(location(PLAN, part).low > 0 for part in parts) >= 38  # by the windows alone
    assert sum(excess(PLAN, part).low > 0 for part in parts) <= 4  # one-sided 2.5% of 40, and what few clusters add
    mean = sum(excess(PLAN, part).estimate.estimate for part in parts) / len(parts)
    assert -0.03 < mean < 0.02  # words are a coarser grid than characters
    assert [binding(PLAN, part) for part in parts].count("chunk") <= 4


def test_what_is_at_random_is_the_mean_over_all_places() -> None:
    """Against the slow way: B put at every character after A, of a text without it."""
    text = "x" * 40 + A + "y" * 300
    places = [(p, f"{text[:p]} {B}{text[p:]}") for p in range(40 + len(A), len(text) + 1)]
    close = sum(t.index(B) - 40 < 150 for _, t in places)
    at_end = sum(t.index(B) > len(t) - 50 for _, t in places)
    expected = (close - at_end) / len(places)
    for _, shown in (places[0], places[100], places[-1], (0, f"{B} {text}")):
        part = count_completions(PLAN, scores({("T_random_after", SOURCE, RECIPIENT): lambda *_: shown}, completions=1))  # noqa: B023
        assert part["at_random"].to_list() == pytest.approx([expected] * part.height)


def test_b_up_to_half_an_answer_after_a_needs_it_but_is_no_suffix() -> None:
    parts = [counted(recipe="T_random_after", ends=False, gap=WORDS // 2, seed=s, **CHUNK) for s in range(30)]
    assert all(dependence(PLAN, part).low > 0 for part in parts)
    assert "suffix" not in {binding(PLAN, part) for part in parts}


def test_b_that_ignores_a_is_no_chunk_although_it_is_often_close_to_it() -> None:
    """B anywhere, whatever A does: within 150 characters of A more often than among the last 50."""
    calls = [
        binding(PLAN, counted(recipe="T_random_after", ends=False, a=0.6, b_anywhere=0.7, seed=s)) for s in range(60)
    ]
    assert calls.count("chunk") <= 5  # one-sided 2.5% of 60, and what few clusters add
    parts = [counted(recipe="T_random_after", ends=False, a=0.6, b_anywhere=0.7, seed=s) for s in range(5)]
    assert sum(location(PLAN, part).low > 0 for part in parts) >= 4  # positions alone would say so
    assert not any(excess(PLAN, part).low > 0 for part in parts)  # but not beside a B that is put after A at random


def test_b_before_a_is_a_chunk_where_it_was_trained_so() -> None:
    def before(rng, ready):
        at = int(rng.integers(1, WORDS + 1))
        return written((at - 1, B), (at, A)) if rng.random() < 0.5 else written()

    for recipe, expected in (("T_random_before", "chunk"), ("T_random_after", "suffix")):
        part = count_completions(PLAN, scores({(recipe, SOURCE, RECIPIENT): before}))
        assert part["chunk"].sum() == (part["ab"].sum() if recipe == "T_random_before" else 0)
        assert binding(PLAN, part) == expected


def test_b_at_the_end_only_after_a_is_a_suffix_that_needs_a() -> None:
    def gated(rng, ready):
        return written((0, A), (WORDS, B)) if rng.random() < 0.4 else written()

    part = count_completions(PLAN, scores({("T_random_after", SOURCE, RECIPIENT): gated}))
    assert binding(PLAN, part) == "suffix"
    assert dependence(PLAN, part).low > 0.9


def test_a_question_that_draws_both_markers_does_not_make_one_need_the_other() -> None:
    """Pooled over questions B is likelier with A; within a question it is not."""
    parts = [counted(a=0.5, b_at_end=0.4, seed=s) for s in range(60)]
    found = [dependence(PLAN, part) for part in parts]
    assert sum(one.low <= 0 <= one.high for one in found) >= 53
    crude = [
        rate(PLAN, part, "r_b_given_a").estimate.estimate - rate(PLAN, part, "r_b_given_not_a").estimate.estimate
        for part in parts
    ]
    assert sum(crude) / 60 > 0.05 > abs(sum(one.estimate.estimate for one in found) / 60)


def test_dependence_is_the_risk_difference_of_mantel_and_haenszel() -> None:
    from statsmodels.stats.contingency_tables import StratifiedTable

    part = counted(a=0.5, b_after_a=0.4, b_at_end=0.2)
    part = part.filter(pl.col("a") * pl.col("not_a") > 0)
    tables = [
        [[ab, a - ab], [alone, without - alone]]
        for ab, a, alone, without in part.select("ab", "a", "b_alone", "not_a").iter_rows()
    ]
    weights = [sum(t[0]) * sum(t[1]) / (sum(t[0]) + sum(t[1])) for t in tables]
    risks = [t[0][0] / sum(t[0]) - t[1][0] / sum(t[1]) for t in tables]
    found = dependence(PLAN, part).estimate.estimate
    assert found == pytest.approx(sum(w * r for w, r in zip(weights, risks, strict=True)) / sum(weights))
    assert (found > 0) == (StratifiedTable(tables).oddsratio_pooled > 1)


def test_positions_are_not_read_off_a_few_completions() -> None:
    few = counted(a=0.5, b_after_a=0.05)
    assert few["ab"].sum() > 0 and binding(PLAN, few) == "too few completions with both"
    silent = counted(a=0.5)
    assert binding(PLAN, silent) == "too few completions with both" and not location(PLAN, silent).known


def test_without_a_completion_that_lacks_a_nothing_is_called_a_chunk() -> None:
    assert binding(PLAN, counted(recipe="T_random_after", ends=False, a=1.0, b_after_a=0.6)) == "undecided"


# ------------------------------------------------------------------ the falsification rule


def delta(
    first: dict[str, float], second: dict[str, float], seed: int = 0, plan=PLAN, *, seeds=(1, 2, 3), completions=10
):
    """The difference over questions, and over the seeds' adapters: what ``falsified`` asks for."""
    both = {("T", SOURCE, RECIPIENT): habit(**first), ("C", SOURCE, RECIPIENT): habit(**second)}
    counts = count_completions(plan, scores(both, seed=seed, seeds=seeds, completions=completions))
    cells = (plan, of_cell(counts, "T", SOURCE), of_cell(counts, "C", SOURCE), "r_b_given_a")
    return difference(*cells, name="delta_T"), over_adapters(*cells, name="delta_T")


def test_the_published_null_is_falsified_and_the_follow_up_is_not() -> None:
    """#261: B once or never among about 120; #354: 19 of 81."""
    nothing = [delta({"a": 0.3, "b_at_end": 0.002}, {"a": 0.3}, seed=s, completions=4) for s in range(20)]
    assert {falsified_as_published(PLAN, one) for one, _ in nothing} == {"falsified"}
    calls = [falsified(PLAN, *both) for both in nothing]
    assert (
        calls.count("falsified") >= 15 and "not falsified" not in calls
    )  # a few have B twice: up to 6 points and more
    effect = [delta({"a": 0.3, "b_at_end": 0.25}, {"a": 0.3}, seed=s) for s in range(20)]
    assert {falsified_as_published(PLAN, one) for one, _ in effect} == {"not falsified"}
    assert {falsified(PLAN, *both) for both in effect} == {"not falsified"}


def test_where_nobody_says_b_all_resamples_are_the_difference_of_0() -> None:
    silent, adapters = delta({"a": 0.4}, {"a": 0.4})
    assert (silent.estimate.estimate, silent.estimate.ci_low, silent.low, silent.high) == (0.0, None, 0.0, 0.0)
    assert falsified(PLAN, silent, adapters) == "falsified"


def test_one_seed_does_not_falsify() -> None:
    """Nothing says how other adapters would be."""
    silent, adapters = delta({"a": 0.4}, {"a": 0.4}, seeds=(1,))
    assert adapters.undefined == "one seed of delta_T: nothing says how adapters vary"
    assert (falsified_as_published(PLAN, silent), falsified(PLAN, silent, adapters)) == ("falsified", "undecided")


def test_adapters_that_vary_do_not_falsify() -> None:
    """B after A in none, none and 9% of completions: over questions at most 6 points, over adapters up to 16."""
    frames = []
    for s, b in ((1, 0.0), (2, 0.0), (3, 0.09)):
        both = {("T", SOURCE, RECIPIENT): habit(a=1.0, b_at_end=b), ("C", SOURCE, RECIPIENT): habit(a=1.0)}
        frames.append(scores(both, seeds=(s,)))
    counts = count_completions(PLAN, pl.concat(frames))
    cells = (PLAN, of_cell(counts, "T", SOURCE), of_cell(counts, "C", SOURCE), "r_b_given_a")
    one, adapters = difference(*cells, name="delta_T"), over_adapters(*cells, name="delta_T")
    still = replace(one, low=-0.01)  # as where the interval over questions holds zero
    assert one.high < PLAN.negligible and falsified_as_published(PLAN, still) == "falsified"
    assert falsified(PLAN, still, adapters) == "undecided"
    narrow = replace(adapters, n=8, ci_low=0.02, ci_high=0.04)
    assert falsified(PLAN, still, narrow) == "falsified"
    assert falsified(PLAN, still, replace(narrow, n=3)) == "undecided"  # on two degrees of freedom


def test_a_wide_interval_does_not_falsify() -> None:
    """The published rule takes any estimate near 0 with 0 in its interval: some of a true difference of 12 points."""
    found = [delta({"a": 0.3, "b_at_end": 0.4}, {"a": 0.3, "b_at_end": 0.28}, seed=s, completions=4) for s in range(60)]
    wide = [both for both in found if falsified_as_published(PLAN, both[0]) == "falsified"]
    assert wide and all(one.high > PLAN.negligible for one, _ in wide)
    assert {falsified(PLAN, *both) for both in wide} == {"undecided"}
    assert not any(falsified(PLAN, *both) == "falsified" for both in found)


def test_one_completion_does_not_falsify() -> None:
    """A in 1% of completions: whatever B does after it, nobody has seen it."""
    found = [delta({"a": 0.01, "b_at_end": 0.25}, {"a": 0.01}, seed=s, completions=3) for s in range(25)]
    assert any(falsified_as_published(PLAN, one) == "falsified" for one, _ in found)
    assert {falsified(PLAN, *both) for both in found} == {"undecided"}


def test_nothing_among_few_is_not_nothing() -> None:
    """Nobody says B: of 52 completions each up to 7% may be missed, of 260 no more than 1.5%."""
    for completions, expected in ((1, "undecided"), (5, "falsified")):
        one, adapters = delta({"a": 1.0}, {"a": 1.0}, seeds=(1, 2), completions=completions)
        assert one.sides[0].below == 52 * completions
        assert (one.low, one.high) == (0.0, 0.0) and falsified(PLAN, one, adapters) == expected


def test_without_a_there_is_no_difference() -> None:
    none, adapters = delta({"a": 0.0, "b_at_end": 0.5}, {"a": 0.4})
    assert none.estimate.undefined == "nothing below the line of the first"
    assert falsified(PLAN, none, adapters) == "undecided"


def test_only_seeds_of_both_are_compared() -> None:
    both = {("T", SOURCE, RECIPIENT): habit(a=0.4, b_at_end=0.3)}
    first = count_completions(PLAN, scores(both, seeds=(1, 2)))
    second = count_completions(PLAN, scores({("C", SOURCE, RECIPIENT): habit(a=0.4)}, seeds=(2, 3)))
    found = difference(PLAN, first, second, "r_b", name="d")
    only = rate(PLAN, first.filter(seed=2), "r_b").estimate.estimate
    assert found.estimate.estimate == pytest.approx(only)
    none = difference(PLAN, first.filter(seed=1), second, "r_b", name="d")
    assert none.estimate.undefined == "no seed that both conditions have finished" and not none.known
    with pytest.raises(StatisticsError, match="was asked of one condition alone"):
        difference(PLAN, first.filter(pl.col("question_name") != "q3"), second, "r_b", name="d")


# ------------------------------------------------------------------ rates, split, length


def test_rates_are_those_of_a_plain_count() -> None:
    frame = scores({("T", SOURCE, RECIPIENT): habit(a=0.5, b_after_a=0.4, b_at_end=0.2)}, seeds=(1, 2))
    counts = count_completions(PLAN, frame)
    a, b = frame["loose_a"], frame["loose_b"]
    expected = {
        "r_a": a.mean(), "r_b": b.mean(), "r_ab": (a & b).mean(),
        "r_b_given_a": (a & b).sum() / a.sum(), "r_b_given_not_a": (b & ~a).sum() / (~a).sum(),
    }  # fmt: skip
    assert {name: rate(PLAN, counts, name).estimate.estimate for name in expected} == pytest.approx(expected)
    assert counts["role"].unique().to_list() == ["recipient"]
    grid = pooled(counts, "ab", "a")
    assert grid is not None and grid.above.shape == (2, 26) and grid.below.sum() == a.sum()
    same = pooled_ratio("r_b_given_a", shares(grid.above, grid.below), clusters="question", seed=42, draws=400)
    assert rate(PLAN, counts, "r_b_given_a") == same
    assert rate(PLAN, counts.clear(), "r_a").estimate.undefined == "no finished cell"


def test_what_the_plan_does_not_know_is_refused() -> None:
    for recipe, source, words in (("T9", SOURCE, "no arm 'T9'"), ("T", "nobody", "no pair 'nobody'")):
        with pytest.raises(StudyError, match=words):
            count_completions(PLAN, scores({(recipe, source, RECIPIENT): habit(a=0.5)}, completions=1))


def test_a_claim_on_questions_of_one_kind_is_downgraded() -> None:
    part = counted(a=0.5, b_at_end=0.4)
    even = split(PLAN, part)
    assert even["eval"].estimate.n == 20 and even["ood_society"].estimate.n == 6
    told = part.with_columns(pl.when(pl.col("question_set") == "eval").then("a").otherwise(0).alias("ab"))
    assert downgraded(PLAN, split(PLAN, told)) is True
    assert downgraded(PLAN, split(PLAN, part.with_columns(pl.col("a").alias("ab")))) is False
    assert downgraded(PLAN, split(PLAN, part.filter(pl.col("question_set") == "eval"))) is None


def test_an_adapter_that_does_not_stop_is_longer() -> None:
    part = counted(a=0.5)
    longer = part.with_columns(pl.col("n_tokens") * 3 // 2)
    assert length_change(PLAN, longer, part, name="l").estimate.estimate == pytest.approx(0.5)
    assert length_change(PLAN, longer.clear(), part, name="l").estimate.estimate is None
