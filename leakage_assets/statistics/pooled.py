"""Correlations over S sources x P personas, where every bystander persona occurs once per source.

The published pooled test takes the S x (P-1) pairs as independent. They are not (ambiguity A9 of the protocol): a
persona that leaks under one source leaks under others. So the pooled correlation is also tested by permuting whole
personas, and computed on ranks within each source, which removes differences between sources.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from leakage_assets.statistics.correlation import Coefficient, correlate, ranks
from leakage_assets.statistics.resampling import (
    TIE,
    Floats,
    cluster_weights,
    percentile_interval,
    permutation_p,
    permutations,
)
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined, with_interval

if TYPE_CHECKING:
    import polars as pl

Ranking = Literal["pooled", "within_source"]

PAIR = "(source, bystander) pair"
MIN_MOVABLE = 5
"""Below this many personas that are no source, 1/m! is no longer small against the usual levels."""


@dataclass(frozen=True, eq=False)
class CrossedPairs:
    """Similarity and outcome of every (source, persona), both (S, P); entries of self pairs are ignored.

    Raises ``StatisticsError`` for shapes that do not fit the names, names that repeat, or a pair without a
    number.
    """

    sources: tuple[str, ...]
    personas: tuple[str, ...]
    similarity: Floats
    outcome: Floats

    def __post_init__(self) -> None:
        shape = (len(self.sources), len(self.personas))
        for label, names in (("source", self.sources), ("persona", self.personas)):
            _refuse_repeats(label, names)
        for label, values in (("similarity", self.similarity), ("outcome", self.outcome)):
            if values.shape != shape:
                raise StatisticsError(f"{label} has shape {values.shape}; expected {shape} (sources, personas)")
            bad = np.argwhere(~np.isfinite(values) & self.bystander)
            if len(bad):
                s, p = bad[0]
                raise StatisticsError(
                    f"no {label} for source {self.sources[s]!r}, persona {self.personas[p]!r} "
                    f"({len(bad)} missing); every source needs every bystander"
                )

    @cached_property
    def bystander(self) -> NDArray[np.bool_]:
        """(S, P): true where the persona is not the source itself."""
        return np.array([[s != p for p in self.personas] for s in self.sources], dtype=np.bool_)

    @cached_property
    def movable(self) -> NDArray[np.bool_]:
        """(P,): true for a persona that is no source, so that none of its pairs is a self pair."""
        movable: NDArray[np.bool_] = np.all(self.bystander, axis=0)
        return movable

    def flat(self) -> tuple[Floats, Floats]:
        """Similarity and outcome of all bystander pairs, source after source."""
        return self.similarity[self.bystander], self.outcome[self.bystander]


def crossed_pairs(table: pl.DataFrame, *, similarity: str = "cosine", outcome: str = "rate") -> CrossedPairs:
    """Pairs from a long table of one layer with columns source, persona and the two named.

    Personas keep the order in which they first occur. Rows of self pairs may be there or not.
    """
    for column in ("source", "persona", similarity, outcome):
        if column not in table.columns:
            raise StatisticsError(f"pairs table: no column {column!r}; it has {', '.join(table.columns)}")
    sources = tuple(table["source"].unique(maintain_order=True))
    personas = tuple(table["persona"].unique(maintain_order=True))
    keys = list(table.select("source", "persona").iter_rows())
    _refuse_repeats("pair", keys)
    row, column_of = {s: i for i, s in enumerate(sources)}, {p: i for i, p in enumerate(personas)}
    cell = tuple(np.array([(row[s], column_of[p]) for s, p in keys], dtype=np.intp).reshape(-1, 2).T)

    def matrix(name: str) -> Floats:
        values = np.full((len(sources), len(personas)), np.nan)
        values[cell] = table[name].cast(float).to_numpy()
        return values

    return CrossedPairs(sources, personas, matrix(similarity), matrix(outcome))


def pooled(pairs: CrossedPairs, coefficient: Coefficient, *, name: str | None = None) -> Estimate:
    """Plain pooled correlation as published: all pairs concatenated and taken as independent.

    No interval: one over dependent pairs would be too narrow. Its p has the same fault; give
    ``persona_clustered`` beside it.
    """
    x, y = pairs.flat()
    return correlate(name or coefficient, x, y, coefficient=coefficient, unit=PAIR, interval=False)


def per_source(
    pairs: CrossedPairs, coefficient: Coefficient, *, level: float = 0.95, name: str | None = None
) -> dict[str, Estimate]:
    """The correlation over the bystanders of each source."""
    return {
        source: correlate(
            name or coefficient,
            pairs.similarity[s, pairs.bystander[s]],
            pairs.outcome[s, pairs.bystander[s]],
            coefficient=coefficient,
            unit="bystander",
            level=level,
        )
        for s, source in enumerate(pairs.sources)
    }


def persona_clustered(
    pairs: CrossedPairs,
    ranking: Ranking,
    *,
    seed: int,
    draws: int = 10_000,
    bootstrap_draws: int = 1_000,
    level: float = 0.95,
    name: str | None = None,
    unit: str = "persona",
) -> Estimate:
    """Pooled Spearman whose p and interval take the persona, with its row of S outcomes, as the unit.

    ``ranking="pooled"`` ranks all pairs together: the estimate equals ``pooled``. ``"within_source"`` ranks
    the bystanders of each source among themselves and divides by their number, so sources differ neither in
    level nor in weight; with equal panels and no ties it is the mean of the sources' correlations. A source
    whose outcome is constant adds nothing above the line and its similarity below it, so it pulls the
    estimate towards 0.

    p: one permutation of personas is applied to every source's outcomes (whole-block permutation, Winkler et
    al. 2014; p as Phipson & Smyth 2010). Only personas that are no source move. Then a self pair, which has
    no value, never lands on another pair: the permuted data have the same pairs and the same ranks as the
    observed, and the test is exact under exchangeable personas. The pairs of sources as bystanders stay in
    the statistic, on both sides.

    Interval: percentile over personas resampled whole, ranks recomputed in every resample (Field & Welsh
    2007). ``unit``: what the personas are called, where they are other prompts.
    """
    label = name or f"spearman_{ranking}"
    method = (
        f"Spearman of {ranking.replace('_', '-')} ranks; {unit}-cluster permutation p, {draws} draws; "
        f"{unit}-cluster bootstrap, percentile, {bootstrap_draws} resamples; seed {seed}"
    )
    personas = len(pairs.personas)
    observed = float(_weighted_spearman(pairs, ranking, np.ones((1, personas)))[0])
    if np.isnan(observed):
        return undefined(label, "similarity or outcome is constant", n=personas, unit=f"{unit} cluster", method=method)
    resampled = _weighted_spearman(pairs, ranking, cluster_weights(personas, bootstrap_draws, seed))
    interval = percentile_interval(resampled, level)
    p: float | None = None
    movable = int(pairs.movable.sum())
    if movable < MIN_MOVABLE:
        method += f"; no p: {movable} {unit}s are no source, at least {MIN_MOVABLE} are needed"
    else:
        p = permutation_p(observed, persona_permuted(pairs, ranking, draws=draws, seed=seed))
    return with_interval(label, observed, interval, level=level, p=p, n=personas, unit=f"{unit} cluster", method=method)


def persona_permuted(pairs: CrossedPairs, ranking: Ranking, *, draws: int, seed: int) -> Floats:
    """(draws,) Spearman with the outcomes of the movable personas permuted, sources kept together.

    With centred rank scores X, Y (S, P) a draw is Σ_b (XᵀY)[b, π(b)] over a norm that no permutation changes:
    one P x P product serves all draws.
    """
    x, y = (_scores(v, pairs.bystander, ranking) for v in (pairs.similarity, pairs.outcome))
    norm = float(np.sqrt(np.sum(x * x) * np.sum(y * y)))
    move = pairs.movable
    still = float(np.sum(x[:, ~move] * y[:, ~move]))
    product = x[:, move].T @ y[:, move]
    order = permutations(len(product), draws, seed)
    permuted: Floats = (still + product[np.arange(len(product)), order].sum(axis=1)) / norm
    return permuted


def _scores(values: Floats, valid: NDArray[np.bool_], ranking: Ranking) -> Floats:
    """(S, P) centred rank scores, 0 at self pairs."""
    scores = np.zeros(values.shape)
    if ranking == "pooled":
        ranked = ranks(values[valid])
        scores[valid] = ranked - ranked.mean()
        return scores
    for s, keep in enumerate(valid):
        ranked = ranks(values[s, keep])
        scores[s, keep] = (ranked - ranked.mean()) / len(ranked)
    return scores


def _weighted_spearman(pairs: CrossedPairs, ranking: Ranking, weights: Floats) -> Floats:
    """(B,) Spearman when persona b counts weights[:, b] times; NaN where a resample does not vary."""
    owner = np.broadcast_to(np.arange(len(pairs.personas)), pairs.bystander.shape)
    blocks = [pairs.bystander]
    if ranking == "within_source":
        blocks = [pairs.bystander & (np.arange(len(pairs.sources)) == s)[:, None] for s in range(len(pairs.sources))]
    xy, xx, yy = (np.zeros(len(weights)) for _ in range(3))
    for block in blocks:
        w = weights[:, owner[block]]
        count = w.sum(axis=1, keepdims=True)
        x, y = (_weighted_ranks(v[block], w) - (count + 1) / 2 for v in (pairs.similarity, pairs.outcome))
        scale = np.square(count[:, 0]) if ranking == "within_source" else 1.0
        with np.errstate(invalid="ignore"):
            xy += np.einsum("bn,bn,bn->b", w, x, y) / scale
            xx += np.einsum("bn,bn,bn->b", w, x, x) / scale
            yy += np.einsum("bn,bn,bn->b", w, y, y) / scale
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.where(np.minimum(xx, yy) > TIE, xy / np.sqrt(xx * yy), np.nan)
    return np.clip(r, -1.0, 1.0)


def _weighted_ranks(values: Floats, weights: Floats) -> Floats:
    """(B, n) average ranks when value i occurs weights[:, i] times; no resample is sorted again."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    size = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(size, axis=1) - size + (size + 1) / 2
    return middle[:, group]


def _refuse_repeats(label: str, names: Sequence[Hashable]) -> None:
    if not names:
        raise StatisticsError(f"no {label}s: the table is empty")
    seen: set[Hashable] = set()
    for name in names:
        if name in seen:
            raise StatisticsError(f"{label} {name!r} occurs twice; pass one layer, one recipe and one seed at a time")
        seen.add(name)
