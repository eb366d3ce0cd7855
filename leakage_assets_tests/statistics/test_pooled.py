from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leakage_assets.statistics.pooled import (
    CrossedPairs,
    _weighted_ranks,
    crossed_pairs,
    per_source,
    persona_clustered,
    persona_permuted,
    pooled,
)
from leakage_assets.statistics.resampling import cluster_weights, permutations
from leakage_assets.statistics.result import StatisticsError

RANKINGS = ("pooled", "within_source")


def names(count: int, letter: str = "p") -> tuple[str, ...]:
    return tuple(f"{letter}{i}" for i in range(count))


def panel(rng: np.random.Generator, sources: int = 4, personas: int = 15, *, steps: int = 6) -> CrossedPairs:
    """Ties on both sides; the sources are the personas 1, 3, 5, ... so self pairs lie across the panel."""
    x, y = rng.integers(0, steps, size=(2, sources, personas)).astype(float)
    return CrossedPairs(names(personas)[1 : 2 * sources : 2], names(personas), x, y)


def slow_spearman(pairs: CrossedPairs, ranking: str, columns: np.ndarray, outcome: np.ndarray | None = None) -> float:
    """By lists: columns may repeat personas; ranks recomputed; self pairs dropped by name."""
    outcome = pairs.outcome if outcome is None else outcome
    per = []
    for s, source in enumerate(pairs.sources):
        kept = [b for b in columns if pairs.personas[b] != source]
        per.append(([pairs.similarity[s, b] for b in kept], [outcome[s, b] for b in kept]))
    if ranking == "pooled":
        return float(
            stats.spearmanr(np.concatenate([x for x, _ in per]), np.concatenate([y for _, y in per])).statistic
        )
    scaled = [
        [(stats.rankdata(v) - (len(v) + 1) / 2) / len(v) for v in (x, y)]
        for x, y in per
    ]  # fmt: skip
    return float(np.corrcoef(np.concatenate([x for x, _ in scaled]), np.concatenate([y for _, y in scaled]))[0, 1])


@pytest.mark.parametrize("ranking", RANKINGS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_estimate_and_interval_equal_the_slow_ones(ranking, seed) -> None:
    pairs = panel(np.random.default_rng(seed))
    ours = persona_clustered(pairs, ranking, seed=seed, draws=20, bootstrap_draws=60)
    everyone = np.arange(15)
    assert ours.estimate == pytest.approx(slow_spearman(pairs, ranking, everyone), abs=1e-12)
    weights = cluster_weights(15, 60, seed).astype(int)
    slow = [slow_spearman(pairs, ranking, np.repeat(everyone, w)) for w in weights]
    assert (ours.ci_low, ours.ci_high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=1e-10)
    assert (ours.n, ours.unit) == (15, "persona cluster")


@pytest.mark.parametrize("ranking", RANKINGS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_permutations_equal_a_loop_that_moves_whole_personas(ranking, seed) -> None:
    pairs = panel(np.random.default_rng(seed))
    free = np.flatnonzero([p not in pairs.sources for p in pairs.personas])
    slow = []
    for order in permutations(len(free), 25, seed):
        moved = pairs.outcome.copy()
        moved[:, free] = pairs.outcome[:, free[order]]
        slow.append(slow_spearman(pairs, ranking, np.arange(15), moved))
    fast = persona_permuted(pairs, ranking, draws=25, seed=seed)
    np.testing.assert_allclose(fast, slow, atol=1e-12)
    p = (1 + sum(abs(r) >= abs(slow_spearman(pairs, ranking, np.arange(15))) - 1e-12 for r in slow)) / 26
    assert persona_clustered(pairs, ranking, seed=seed, draws=25, bootstrap_draws=5).p == pytest.approx(p)


def test_self_pairs_are_ignored_wherever_they_stand() -> None:
    pairs = panel(np.random.default_rng(0))
    dirty = CrossedPairs(
        pairs.sources,
        pairs.personas,
        np.where(pairs.bystander, pairs.similarity, np.nan),
        np.where(pairs.bystander, pairs.outcome, 1e9),
    )
    for ranking in RANKINGS:
        assert persona_clustered(dirty, ranking, seed=1, draws=99) == persona_clustered(
            pairs, ranking, seed=1, draws=99
        )
    assert pooled(dirty, "pearson") == pooled(pairs, "pearson")
    assert per_source(dirty, "spearman") == per_source(pairs, "spearman")


def test_plain_pooled_and_per_source_are_those_of_scipy() -> None:
    pairs = panel(np.random.default_rng(1))
    x, y = pairs.flat()
    assert len(x) == 4 * 14
    theirs = stats.spearmanr(x, y)
    ours = pooled(pairs, "spearman")
    assert (ours.estimate, ours.p) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))
    assert (ours.n, ours.ci_low) == (56, None)
    assert "taken as independent" in ours.method
    assert persona_clustered(pairs, "pooled", seed=1, draws=10).estimate == pytest.approx(ours.estimate)
    own = per_source(pairs, "pearson")["p3"]
    keep = np.arange(15) != 3
    assert own.estimate == pytest.approx(stats.pearsonr(pairs.similarity[1, keep], pairs.outcome[1, keep]).statistic)
    assert (own.n, own.unit) == (14, "bystander")


def test_within_source_without_ties_is_the_mean_of_the_sources() -> None:
    rng = np.random.default_rng(2)
    pairs = CrossedPairs(names(3), names(20), *rng.normal(size=(2, 3, 20)))
    mean = np.mean([e.estimate for e in per_source(pairs, "spearman").values()])
    assert persona_clustered(pairs, "within_source", seed=1, draws=10).estimate == pytest.approx(mean)


def test_within_source_ignores_how_much_a_source_leaks() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 4, 30))
    shift = np.array([[0.0], [10], [20], [30]])
    levels = CrossedPairs(names(4), names(30), x + shift, y + shift)
    assert pooled(levels, "spearman").estimate > 0.8
    within = persona_clustered(levels, "within_source", seed=1)
    flat = persona_clustered(CrossedPairs(names(4), names(30), x, y), "within_source", seed=1)
    assert within.estimate == pytest.approx(flat.estimate)
    assert within.p > 0.05


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=15))
def test_weighted_ranks_are_the_ranks_of_the_repeated_values(items: list[tuple[int, int]]) -> None:
    values, weights = (np.array(column, dtype=float) for column in zip(*items, strict=True))
    repeated = stats.rankdata(np.repeat(values, weights.astype(int)))
    ours = np.repeat(_weighted_ranks(values, weights[None])[0], weights.astype(int))
    np.testing.assert_allclose(ours, repeated)


def shared_persona_effect(rng: np.random.Generator, *, relation: float = 0.0) -> CrossedPairs:
    """Each persona leaks, and resembles, by an amount of its own under all sources; related only if asked."""
    typical, leaky = rng.normal(size=(2, 40))
    x = typical + 0.7 * rng.normal(size=(5, 40))
    y = leaky + relation * typical + 0.7 * rng.normal(size=(5, 40))
    return CrossedPairs(names(5), names(40), x, y)


@pytest.mark.slow
def test_repeated_bystanders_break_the_plain_p_and_not_the_clustered_one() -> None:
    rng = np.random.default_rng(11)
    plain, clustered = [], {ranking: [] for ranking in RANKINGS}
    for trial in range(300):
        pairs = shared_persona_effect(rng)
        plain.append(pooled(pairs, "spearman").p)
        for ranking in RANKINGS:
            test = persona_clustered(pairs, ranking, seed=trial, draws=199, bootstrap_draws=1)
            clustered[ranking].append(test.p)
    # The design effect on the variance of ρ is 1 + 4·(1/1.49)² = 2.8: it rejects P(|z| > 1.96/√2.8) = 24%.
    assert np.mean(np.array(plain) <= 0.05) == pytest.approx(0.24, abs=3 * np.sqrt(0.24 * 0.76 / 300))
    for ranking in RANKINGS:
        p = np.array(clustered[ranking])
        assert np.mean(p <= 0.05) <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 300)
        assert stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.slow
def test_a_planted_relation_is_found_and_covered() -> None:
    rng = np.random.default_rng(12)
    relation = 1.0
    # Jointly normal with correlation r, so the population Spearman is 6/π asin(r/2).
    r = relation / np.sqrt(1.49 * (1 + relation**2 + 0.49))
    truth = 6 / np.pi * np.arcsin(r / 2)
    inside = found = 0
    for trial in range(150):
        e = persona_clustered(
            shared_persona_effect(rng, relation=relation),
            "pooled",
            seed=trial,
            draws=199,
            bootstrap_draws=300,
        )
        inside += e.ci_low <= truth <= e.ci_high
        found += e.p <= 0.05
    assert inside >= 132
    assert found >= 130


def test_degenerate_panels() -> None:
    x = np.random.default_rng(0).normal(size=(2, 8))
    flat = persona_clustered(CrossedPairs(names(2), names(8), x, np.zeros((2, 8))), "within_source", seed=1)
    assert flat.undefined == "similarity or outcome is constant"
    assert flat.p is None
    crowded = persona_clustered(
        CrossedPairs(names(6), names(8), *np.random.default_rng(1).normal(size=(2, 6, 8))), "pooled", seed=1
    )
    assert crowded.p is None
    assert "2 personas are no source" in crowded.method
    one_flat = np.vstack([x[0], np.zeros(8)])
    assert (
        persona_clustered(CrossedPairs(names(2), names(8), x, one_flat), "within_source", seed=1).estimate is not None
    )


def test_few_bystanders_that_leak_leave_no_interval() -> None:
    x = np.random.default_rng(0).normal(size=(2, 20))
    y = np.zeros((2, 20))
    y[:, 7] = 1
    e = persona_clustered(CrossedPairs(names(2), names(20), x, y), "pooled", seed=1)
    assert e.estimate is not None
    assert e.ci_low is None
    assert "resamples are undefined" in e.method


def test_panel_from_a_long_table() -> None:
    rows = [{"source": s, "persona": p, "cosine": float(i), "rate": i / 10}
            for i, (s, p) in enumerate([("b", "a"), ("b", "c"), ("c", "a"), ("c", "b")])]  # fmt: skip
    table = pl.DataFrame(rows)
    pairs = crossed_pairs(table)
    assert pairs.sources == ("b", "c")
    assert pairs.personas == ("a", "c", "b")
    assert pairs.flat()[0].tolist() == [0, 1, 2, 3]
    with_self = pl.concat(
        [table, pl.DataFrame([{"source": "b", "persona": "b", "cosine": None, "rate": 0.9}])],
        how="vertical_relaxed",
    )
    assert crossed_pairs(with_self).flat()[1].tolist() == pairs.flat()[1].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.slice(1), "no similarity for source 'b', persona 'a'"),
        (lambda t: pl.concat([t, t.head(1)]), r"\('b', 'a'\) occurs twice"),
        (lambda t: t.drop("cosine"), "no column 'cosine'"),
        (lambda t: t.clear(), "empty"),
        (lambda t: t.with_columns(rate=pl.lit(None)), "no outcome for source 'b', persona 'a'"),
        (lambda t: t.with_columns(rate=pl.lit(float("nan"))), "no outcome for source 'b', persona 'a'"),
    ],
)
def test_a_panel_with_holes_is_refused(change, message) -> None:
    table = pl.DataFrame(
        {"source": list("bbcc"), "persona": list("acab"), "cosine": [0.0, 1, 2, 3], "rate": [0.0, 1, 2, 3]}
    )
    with pytest.raises(StatisticsError, match=message):
        crossed_pairs(change(table))
