from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from leakage_assets.statistics import centroid_bootstrap as module
from leakage_assets.statistics.centroid_bootstrap import QuestionCounts, centroid_bootstrap
from leakage_assets.statistics.resampling import cluster_weights
from leakage_assets.statistics.result import StatisticsError

PERSONAS = tuple(f"p{i}" for i in range(12))
SOURCES = ("p7", "p2")
QUESTIONS = 9


def hidden(rng: np.random.Generator, *, noise: float = 1.0, offset: float = 50.0) -> np.ndarray:
    """A large common offset and question effects, as in real hidden states, that centring must remove."""
    persona = rng.normal(size=(12, 1, 16))
    question = rng.normal(size=(1, QUESTIONS, 16))
    return (offset + persona + question + noise * rng.normal(size=(12, QUESTIONS, 16))).astype(np.float32)


def slow(vectors: np.ndarray, rates: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    """Section 6 of the sheet, literally."""
    centroids = vectors[:, chosen].astype(np.float64).mean(axis=1)
    centred = centroids - centroids.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    cosine = unit @ unit.T
    per = {}
    for s, source in enumerate(SOURCES):
        me = PERSONAS.index(source)
        others = [b for b in range(12) if b != me]
        per[source] = (cosine[me, others], rates[s, others])
    result = {source: stats.spearmanr(*pair).statistic for source, pair in per.items()}
    result["pooled"] = stats.spearmanr(*(np.concatenate(side) for side in zip(*per.values(), strict=True))).statistic
    return result


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("block", [1 << 23, 500])
def test_equals_the_sheet_computed_draw_by_draw(joint, block, monkeypatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)  # small enough to chunk both the hidden size and the draws
    rng = np.random.default_rng(0)
    vectors = hidden(rng)
    total = np.full((2, 12, QUESTIONS), 10)
    found = rng.binomial(total, rng.random((2, 12, 1)))
    counts = QuestionCounts(found, total)
    rates = found.sum(axis=2) / total.sum(axis=2)
    ours = centroid_bootstrap(SOURCES, PERSONAS, vectors, counts if joint else rates, seed=3, draws=80, level=0.9)
    draws = []
    for weight in cluster_weights(QUESTIONS, 80, 3).astype(int):
        chosen = np.repeat(np.arange(QUESTIONS), weight)
        drawn = found[..., chosen].sum(axis=2) / total[..., chosen].sum(axis=2) if joint else rates
        draws.append(slow(vectors, drawn, chosen))
    assert list(ours) == ["pooled", *SOURCES]
    for key, estimate in ours.items():
        assert estimate.estimate == pytest.approx(slow(vectors, rates, np.arange(QUESTIONS))[key], abs=1e-9)
        expected = np.quantile([d[key] for d in draws], [0.05, 0.95])
        assert (estimate.ci_low, estimate.ci_high) == pytest.approx(tuple(expected), abs=1e-9)
        assert (estimate.n, estimate.unit) == (QUESTIONS, "question cluster")
        assert ("centroids and rates" in estimate.method) is joint


@pytest.mark.slow
def test_interval_covers_the_correlation_of_the_noiseless_centroids() -> None:
    rng = np.random.default_rng(1)
    inside, widths = 0, []
    for trial in range(100):
        persona = rng.normal(size=(12, 1, 16))
        vectors = persona + 0.8 * rng.normal(size=(12, QUESTIONS, 16))
        exact = np.repeat(persona, QUESTIONS, axis=1)
        rates = rng.random((2, 12))
        truth = slow(exact, rates, np.arange(QUESTIONS))["pooled"]
        e = centroid_bootstrap(SOURCES, PERSONAS, vectors, rates, seed=trial, draws=200)["pooled"]
        inside += e.ci_low <= truth <= e.ci_high
        widths.append(e.ci_high - e.ci_low)
    assert inside >= 88
    assert np.mean(widths) < 0.6  # an interval that covers by being everything would say nothing


def test_without_question_noise_nothing_varies() -> None:
    rng = np.random.default_rng(2)
    e = centroid_bootstrap(SOURCES, PERSONAS, hidden(rng, noise=0.0, offset=0.0), rng.random((2, 12)), seed=1)["pooled"]
    assert e.estimate is not None
    assert e.ci_low is None
    assert "no variation" in e.method


def test_a_source_whose_marker_never_appears_is_undefined() -> None:
    rng = np.random.default_rng(3)
    rates = np.vstack([rng.random(12), np.zeros(12)])
    result = centroid_bootstrap(SOURCES, PERSONAS, hidden(rng), rates, seed=1, draws=50)
    assert result["p2"].undefined == "similarity or outcome is constant"
    assert result["p7"].estimate is not None


def test_a_marker_that_hangs_on_one_question_leaves_no_interval() -> None:
    rng = np.random.default_rng(4)
    total = np.full((2, 12, QUESTIONS), 10)
    found = np.zeros_like(total)
    found[:, 4, 0] = 3
    e = centroid_bootstrap(SOURCES, PERSONAS, hidden(rng), QuestionCounts(found, total), seed=1)["pooled"]
    assert e.estimate is not None
    assert "resamples are undefined" in e.method


def misfits():
    good = hidden(np.random.default_rng(5))
    rates = np.random.default_rng(6).random((2, 12))
    counts = np.zeros((2, 12, QUESTIONS + 1), dtype=int)
    yield "no persona", ("ghost", "p1"), good, rates
    yield "hidden has shape", SOURCES, good[:5], rates
    yield "outcome has shape", SOURCES, good, rates[:1]
    yield "questions in the counts", SOURCES, good, QuestionCounts(counts, counts + 1)
    yield "not finite", SOURCES, np.where(np.arange(16) == 3, np.nan, good), rates
    same = np.repeat(good[:1], 12, axis=0)
    yield "'p7' equals the panel's mean", SOURCES, same, rates
    balanced = good.astype(np.float64)
    balanced[5] = np.delete(good, 5, axis=0).mean(axis=0, dtype=np.float64)
    yield "'p5' equals the panel's mean", SOURCES, balanced, rates
    yield "no outcome", SOURCES, good, np.where(np.arange(12) == 1, np.nan, rates)


@pytest.mark.parametrize(("message", "sources", "vectors", "outcome"), list(misfits()))
def test_misuse_raises(message, sources, vectors, outcome) -> None:
    with pytest.raises(StatisticsError, match=message):
        centroid_bootstrap(sources, PERSONAS, vectors, outcome, seed=1, draws=5)


def test_counts_must_be_possible() -> None:
    with pytest.raises(StatisticsError, match="between 0 and"):
        QuestionCounts(np.full((1, 2, 3), 5), np.full((1, 2, 3), 4))
    with pytest.raises(StatisticsError, match="expected"):
        QuestionCounts(np.zeros((1, 2, 3), dtype=int), np.zeros((1, 2), dtype=int))
