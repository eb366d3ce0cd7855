from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leakage_assets.statistics.gating import (
    Cells,
    PromptGrid,
    Shuffled,
    fieller_bounds,
    gating,
    gating_over_sources,
    mean_over_questions,
    own_against_other_triggers,
    prompt_shuffle_p,
    ratio_over_questions,
    shuffle_p,
    specificity,
)
from leakage_assets.statistics.resampling import generator
from leakage_assets.statistics.result import StatisticsError

SEEDS, PROMPTS, QUESTIONS = (42, 137, 256), 12, 8


def cells(seed: int, *, own: float = 0.7, others: float = 0.3, matched: int = 4) -> Cells:
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(PROMPTS) < matched, len(SEEDS))
    total = np.full((len(labels), QUESTIONS), 10)
    found = rng.binomial(total, np.where(labels, own, others)[:, None])
    seeds = tuple(s for s in SEEDS for _ in range(PROMPTS))
    return Cells(found, total, labels, seeds, tuple(f"p{i}" for _ in SEEDS for i in range(PROMPTS)))


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_rates_difference_and_ratio_by_other_means(seed: int) -> None:
    given_cells = cells(seed)
    found = gating(given_cells, seed=1, draws=9)
    rates = given_cells.found / given_cells.total
    own, others = rates[given_cells.matched].mean(axis=0), rates[~given_cells.matched].mean(axis=0)
    assert (found.matched.estimate, found.bystander.estimate) == pytest.approx((own.mean(), others.mean()))
    paired = stats.ttest_rel(own, others)
    bounds = paired.confidence_interval()
    assert found.difference.estimate == pytest.approx(own.mean() - others.mean())
    assert (found.difference.ci_low, found.difference.ci_high) == pytest.approx((bounds.low, bounds.high))
    alone = stats.ttest_1samp(own, 0).confidence_interval()
    assert (found.matched.ci_low, found.matched.ci_high) == pytest.approx((alone.low, alone.high))
    # Delta method by the covariance matrix of the two means.
    cov = np.cov(own, others) / QUESTIONS
    variance = cov[0, 0] / own.mean() ** 2 + cov[1, 1] / others.mean() ** 2
    variance -= 2 * cov[0, 1] / own.mean() / others.mean()
    half = stats.t.ppf(0.975, QUESTIONS - 1) * np.sqrt(variance)
    assert found.ratio.estimate == pytest.approx(own.mean() / others.mean())
    assert np.log([found.ratio.ci_low, found.ratio.ci_high]) == pytest.approx(
        [np.log(found.ratio.estimate) - half, np.log(found.ratio.estimate) + half]
    )
    assert {(e.n, e.unit) for e in found.estimates()} == {(QUESTIONS, "question cluster")}
    assert found.ratio.p == found.difference.p
    assert "12 matched and 24 bystander cells" in found.ratio.method


@pytest.mark.parametrize("shuffled", ["pairs", "cells"])
def test_p_is_the_share_of_all_arrangements(shuffled: Shuffled) -> None:
    """Few enough cells to list every arrangement of labels."""
    one = cells(5, own=0.5, others=0.4, matched=2)
    keep = np.array([p in ("p0", "p1", "p2", "p3", "p4") for p in one.pairs])
    small = Cells(
        one.found[keep],
        one.total[keep],
        one.matched[keep],
        tuple(np.array(one.seeds)[keep].tolist()),
        tuple(np.array(one.pairs)[keep].tolist()),
    )
    rates = (small.found / small.total).mean(axis=1).reshape(3, 5)
    labelled = np.array(sorted(set(permutations([True, True, False, False, False]))))
    per_seed = np.array([[row[own].mean() - row[~own].mean() for own in labelled] for row in rates])
    if shuffled == "pairs":
        all_of_them = per_seed.mean(axis=0)
    else:
        all_of_them = ((per_seed[0][:, None, None] + per_seed[1][:, None] + per_seed[2]) / 3).ravel()
    own = np.array([True, True, False, False, False])
    observed = rates[:, own].mean() - rates[:, ~own].mean()
    exact = np.mean(all_of_them >= observed - 1e-12)
    draws = 20_000
    ours = gating(small, seed=3, draws=draws, shuffled=shuffled).difference
    assert ours.estimate == pytest.approx(observed)
    assert ours.p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / draws) + 2 / draws)
    assert ("within each seed" in ours.method) is (shuffled == "cells")
    if shuffled == "pairs":
        assert ours.p == pytest.approx(exact)
        assert "all 10 arrangements" in ours.method


def test_a_seed_that_lacks_a_source_does_not_weigh_more_than_another() -> None:
    whole = cells(6)
    keep = np.array([not (s == 256 and p in ("p0", "p5", "p6")) for s, p in zip(whole.seeds, whole.pairs, strict=True)])
    part = Cells(
        whole.found[keep],
        whole.total[keep],
        whole.matched[keep],
        tuple(np.array(whole.seeds)[keep].tolist()),
        tuple(np.array(whole.pairs)[keep].tolist()),
    )
    rates = part.rates.mean(axis=1)
    expected = np.mean([rates[part.matched & (np.array(part.seeds) == s)].mean() for s in SEEDS])
    assert gating(part, seed=1, draws=9).matched.estimate == pytest.approx(expected)


def test_the_same_seed_gives_the_same_p_and_strong_gating_the_least() -> None:
    strong = cells(7, own=0.95, others=0.05)
    assert gating(strong, seed=1, draws=999) == gating(strong, seed=1, draws=999)
    assert gating(strong, seed=1, draws=999).ratio.p == pytest.approx(1 / 495 + 1 / 1000, abs=0.005)
    assert gating(strong, seed=1, draws=999, shuffled="cells").ratio.p == 1 / 1000


def test_rates_of_zero() -> None:
    silent = cells(8, others=0.0)
    found = gating(silent, seed=1, draws=99, suffix="_own")
    assert found.ratio.undefined == "no bystander says the marker"
    assert found.bystander.estimate == 0 and "questions do not differ" in found.bystander.method
    assert found.difference.ci_low is not None
    assert [e.name for e in found.estimates()] == [
        "matched_rate_own", "bystander_rate_own", "gating_difference_own", "gating_ratio_own",
    ]  # fmt: skip
    mute = gating(cells(8, own=0.0), seed=1, draws=99)
    assert (mute.ratio.estimate, mute.ratio.ci_low, mute.ratio.p) == (0, None, 1)
    nothing = gating(cells(8, own=0.0, others=0.0), seed=1, draws=99)
    assert nothing.ratio.undefined == "no bystander says the marker"
    assert (nothing.difference.estimate, nothing.difference.ci_low, nothing.difference.p) == (0, None, 1)


def test_an_interval_of_a_rate_stays_in_its_range_and_says_so() -> None:
    values = [1.0, 1, 1, 1, 0.4]
    wide = mean_over_questions("m", values, method="m")
    cut = mean_over_questions("m", values, bounds=(0.0, 1.0), method="m")
    assert wide.ci_high > 1 == cut.ci_high and cut.ci_low == wide.ci_low
    assert cut.method == "m; clipped to the possible range" and wide.method == "m"
    inside = mean_over_questions("m", [0.4, 0.5, 0.6, 0.5], bounds=(0.0, 1.0), method="m")
    assert inside.method == "m"
    rare = specificity("s", [0.0, 0.0, 0.1, 0.0, 0.0], [0.0, 0.1, 0.0, 0.0, 0.0])
    assert rare.undefined == "the own prompt draws the marker too rarely: the interval of its rate reaches 0"
    gate = specificity("s", [0.2, 0.1, 0.3, 0.2, 0.2], [0.0, 0.0, 0.0, 0.05, 0.0])
    assert gate.ci_high == 1 and gate.estimate == pytest.approx(0.95)
    assert specificity("s", [0.0] * 5, [0.1] * 5).undefined == "the own prompt never draws the marker"


def test_specificity_covers_where_the_own_prompt_draws_the_marker_rarely() -> None:
    """5% under the own prompt and 2% elsewhere, ten completions to each of twenty questions that differ."""
    rng = np.random.default_rng(24)
    truth, holds, studies = 1 - 0.02 / 0.05, [], 2_000
    for _ in range(studies):
        push = np.exp(0.5 * rng.normal(size=20) - 0.125)
        own, others = rng.binomial(10, 0.05 * push) / 10, rng.binomial(80, 0.02 * push) / 80
        found = specificity("s", own, others)
        if found.undefined is None:
            holds.append(found.ci_low <= truth <= found.ci_high)
    assert 0.9 * studies < len(holds) < studies
    assert 0.94 <= np.mean(holds) <= 0.975


def test_fieller_s_bounds_are_where_the_t_test_of_the_difference_turns() -> None:
    rng = np.random.default_rng(25)
    above, below = rng.uniform(0.1, 0.5, size=12), rng.uniform(0.2, 0.7, size=12)
    for bound in fieller_bounds(above, below, 0.9):
        assert stats.ttest_1samp(above - bound * below, 0).pvalue == pytest.approx(0.1)


def test_degenerate_cells() -> None:
    whole = cells(9)
    for matched, word in ((np.zeros(36, bool), "matched"), (np.ones(36, bool), "bystander")):
        found = gating(replace(whole, matched=matched), seed=1, draws=9)
        assert {e.undefined for e in found.estimates()} == {f"a seed has no {word} cell"}
    empty = Cells(np.zeros((0, 5), int), np.zeros((0, 5), int), np.zeros(0, bool), (), ())
    assert gating(empty, seed=1, draws=9).ratio.undefined == "no cells"
    few = replace(whole, found=whole.found[:, :3], total=whole.total[:, :3])
    assert gating(few, seed=1, draws=9).matched.undefined == "3 questions, fewer than 4"
    assert mean_over_questions("m", [0.1, 0.2, 0.3], method="m").undefined == "3 questions, fewer than 4"
    assert ratio_over_questions("m", [1, 1, 1], [1, 1, 1], method="m").undefined == "3 questions, fewer than 4"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"found": np.zeros((36, 2), int)}, "expected"),
        ({"matched": np.ones(3, bool)}, "expected"),
        ({"seeds": (1,)}, "a seed and a pair"),
        ({"found": np.full((36, QUESTIONS), 11)}, "between 0 and its total"),
        ({"found": np.zeros((36, QUESTIONS), int), "total": np.zeros((36, QUESTIONS), int)}, "no completion"),
        ({"seeds": (1,) * 36}, "twice in one seed"),
        ({"matched": np.arange(36) % 5 == 0}, "matched in one seed and a bystander in another"),
    ],
)
def test_misuse_is_an_error(change: dict[str, object], words: str) -> None:
    with pytest.raises(StatisticsError, match=words):
        replace(cells(10), **change)


def test_over_sources_it_is_a_t_test_of_logarithms() -> None:
    rates = {"a": (0.6, 0.2), "b": (0.5, 0.4), "c": (0.9, 0.1), "d": (0.3, 0.2)}
    found = gating_over_sources("ratio", rates)
    logs = np.log([own / others for own, others in rates.values()])
    test = stats.ttest_1samp(logs, 0, alternative="greater")
    bounds = stats.ttest_1samp(logs, 0).confidence_interval()
    assert found.estimate == pytest.approx(stats.gmean([3, 1.25, 9, 1.5]))
    assert (found.ci_low, found.ci_high) == pytest.approx((np.exp(bounds.low), np.exp(bounds.high)))
    assert found.p == pytest.approx(test.pvalue)
    assert (found.n, found.unit) == (4, "source")
    assert gating_over_sources("r", rates | {"a": (0.5, 0.0)}).undefined == "a has a rate of 0"
    assert gating_over_sources("r", {"a": (0.5, 0.1)}).undefined == "1 sources, fewer than 4"
    same = gating_over_sources("r", dict.fromkeys("abcd", (0.5, 0.25)))
    assert (same.estimate, same.ci_low, same.p) == (2, None, None)


def test_own_against_other_prompts_is_exact_and_blind_to_rows_and_columns() -> None:
    rng = np.random.default_rng(11)
    effect = 0.5 * np.eye(4) + rng.normal(size=4) + rng.normal(size=(4, 1))
    found = own_against_other_triggers("gate", effect)
    assert found.estimate == pytest.approx(0.5)
    assert found.p == pytest.approx(1 / 24)
    noise = rng.normal(size=(5, 5))
    off = noise[~np.eye(5, dtype=bool)].mean()
    differences = []
    for order in permutations(range(5)):
        moved = noise[:, order]
        differences.append(np.trace(moved) / 5 - moved[~np.eye(5, dtype=bool)].mean())
    ours = own_against_other_triggers("gate", noise)
    assert ours.estimate == pytest.approx(np.trace(noise) / 5 - off)
    assert ours.p == pytest.approx(np.mean(np.array(differences) >= differences[0] - 1e-12))
    assert own_against_other_triggers("gate", noise[:3, :3]).undefined == "3 sources, fewer than 4"
    with pytest.raises(StatisticsError, match="expected"):
        own_against_other_triggers("gate", noise[:3])


def test_ties_count_as_extreme() -> None:
    values, labels = np.array([1.0, 1, 1, 1]), np.array([True, False, False, True])
    for draws, exact in ((50, True), (3, False)):
        found = shuffle_p([(values, labels)], draws=draws, rng=generator(1))
        assert (found.p, found.exact) == (1, exact)


OWN = np.array([
    [1, 0, 0, 0, 0, 0, -1, -1, -1],
    [0, 1, 0, 0, -1, 0, 0, -1, -1],
    [0, 0, 1, 0, -1, -1, 0, -1, -1],
    [0, 0, 0, 1, -1, -1, -1, -1, -1],
])  # fmt: skip
BUCKET = np.tile([1, 1, 1, 1, -1, -1, -1, -1, -1], (4, 1))
"""What 9 prompts are to 4 adapters, whose own prompts are the first four."""


@pytest.mark.parametrize("roles", [OWN, BUCKET])
def test_exchanged_prompts_are_the_share_of_all_exchanges(roles: np.ndarray) -> None:
    """Every order of the prompts listed; the observed difference is that of the means."""
    rng = np.random.default_rng(21)
    rates = rng.normal(size=(4, 9)) + 0.7 * (roles == 1)
    own, others = (
        np.mean([row[kind == sign].mean() for row, kind in zip(rates, roles, strict=True)]) for sign in (1, -1)
    )
    grid = PromptGrid(rates, roles, (42,) * 4)
    by_cell = rates[roles == 1].mean() - rates[roles == -1].mean()
    observed = float((grid.weights() * rates).sum())
    assert observed == pytest.approx(by_cell)
    if roles is BUCKET:
        assert observed == pytest.approx(own - others)
    places = np.array(list(permutations(range(9))))
    placed = grid.weights().T @ rates
    everything = placed[np.arange(9), places].sum(axis=1)
    exact = np.mean(everything >= observed - 1e-9)
    found = prompt_shuffle_p(grid, seed=1, draws=20_000)
    assert found.exact is (roles is BUCKET) and (not found.exact or found.arrangements == 126)
    assert found.p == pytest.approx(exact, abs=1e-12 if found.exact else 4 * np.sqrt(exact / 20_000) + 1e-4)


@pytest.mark.parametrize("bystanders", [3, 8])
def test_one_source_has_no_p_below_one_over_its_prompts(bystanders: int) -> None:
    roles = np.array([[1] + [-1] * bystanders])
    rates = np.linspace(0.9, 0.1, bystanders + 1)[None]
    found = prompt_shuffle_p(PromptGrid(rates, roles, (42,)), seed=1, draws=9_999)
    assert found.p == found.least == pytest.approx(1 / (bystanders + 1))
    seeds = prompt_shuffle_p(PromptGrid(np.tile(rates, (3, 1)), np.tile(roles, (3, 1)), (1, 2, 3)), seed=1, draws=9_999)
    assert seeds.p == seeds.least == found.least


@pytest.mark.parametrize("draws", [19, 9_999])
def test_no_p_is_below_the_least_that_the_exchanges_give(draws: int) -> None:
    """Four prompts, each an own one or something else to either adapter: 4!/2! orders that differ."""
    roles = np.array([[1, 0, -1, -1], [0, 1, -1, -1]])
    rates = 0.1 + 0.8 * (roles == 1)
    found = prompt_shuffle_p(PromptGrid(rates, roles, (42, 42)), seed=2, draws=draws)
    assert not found.exact and found.least == pytest.approx(max(1 / (draws + 1), 1 / 12))
    assert found.p == pytest.approx(1 / 12, abs=0.2 if draws == 19 else 0.01)


def test_least_p_of_shuffled_labels() -> None:
    values, labels = np.arange(4.0), np.array([False, False, True, True])
    exact = shuffle_p([(values, labels)], draws=50, rng=generator(1))
    assert exact.p == exact.least == pytest.approx(1 / 6)
    assert shuffle_p([(values, labels)], draws=4, rng=generator(1)).least == pytest.approx(1 / 5)
    assert shuffle_p([(values, labels)] * 2, draws=99, rng=generator(1)).least == pytest.approx(1 / 36)


@pytest.mark.parametrize(("family", "p"), [(0.5, 1 / 8), (0.9, 1 / 56)])
def test_what_leaks_to_the_own_family_makes_p_smaller(family: float, p: float) -> None:
    """The same gate against the same bystanders: p is against all prompts being exchangeable."""
    roles = np.array([[1, 0, 0, -1, -1, -1, -1, -1]])
    rates = np.where(roles == 0, family, np.where(roles == 1, 0.9, 0.5))
    found = prompt_shuffle_p(PromptGrid(rates, roles, (42,)), seed=1, draws=20_000)
    assert found.p == pytest.approx(p, rel=0.1)


def null_p(roles: np.ndarray, *, seed: int, column: float = 0.15, studies: int = 400) -> np.ndarray:
    """p of 12 adapters (4 sources in 3 seeds) whose prompts have levels, and nothing else: (studies, 2).

    By exchanged prompts, and by labels of (source, prompt) pairs.
    """
    rng = np.random.default_rng(seed)
    found = []
    seeds = tuple(s for s in SEEDS for _ in range(4))
    asked = np.argwhere(np.tile(roles, (3, 1)) != 0)
    adapter, prompt = asked.T
    matched = np.tile(roles, (3, 1))[adapter, prompt] == 1
    for study in range(studies):
        pair = 0.06 * rng.normal(size=roles.shape)
        rates = 0.5 + column * rng.normal(size=roles.shape[1]) + np.tile(pair, (3, 1))
        counts = rng.binomial(40, np.clip(rates + 0.05 * rng.normal(size=rates.shape), 0.01, 0.99))
        grid = PromptGrid(counts / 40, np.tile(roles, (3, 1)), seeds)
        given_cells = Cells(
            np.repeat(counts[adapter, prompt][:, None] // 4, 4, axis=1),
            np.full((len(asked), 4), 10),
            matched,
            tuple(seeds[a] for a in adapter),
            tuple((int(a) % 4, int(p)) for a, p in asked),
        )
        found.append([gating(given_cells, seed=study, draws=199, shuffled=s).difference.p for s in (grid, "pairs")])
    return np.array(found)


@pytest.mark.parametrize(("roles", "at_most"), [(BUCKET, 0.09), (OWN, 0.09)])
def test_prompts_that_draw_the_marker_from_everyone_are_no_gate(roles: np.ndarray, at_most: float) -> None:
    """With levels of prompts alone, p of exchanged prompts is below .05 in about 5% of studies."""
    exchanged, of_pairs = null_p(roles, seed=22).T
    assert stats.kstest(exchanged, "uniform").pvalue > 0.01
    assert np.mean(exchanged <= 0.05) < at_most
    if roles is BUCKET:
        # The reason why: one prompt counts as four where its pairs are taken as independent.
        assert np.mean(of_pairs <= 0.05) > 0.12


def test_a_gate_is_found_by_exchanged_prompts() -> None:
    rng = np.random.default_rng(23)
    rates = 0.3 + 0.1 * rng.normal(size=9) + 0.4 * (OWN == 1) + 0.02 * rng.normal(size=OWN.shape)
    assert prompt_shuffle_p(PromptGrid(rates, OWN, (42,) * 4), seed=1, draws=9_999).p < 0.01


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"roles": OWN[:, :3]}, "expected"),
        ({"seeds": (1,)}, "expected"),
        ({"rates": np.full((4, 9), np.nan)}, "adapter 0 has no rate under prompt 0"),
        ({"roles": np.abs(OWN)}, "no matched or no bystander"),
    ],
)
def test_a_grid_of_prompts_is_checked(change: dict[str, object], words: str) -> None:
    with pytest.raises(StatisticsError, match=words):
        replace(PromptGrid(np.zeros((4, 9)), OWN, (42,) * 4), **change)
