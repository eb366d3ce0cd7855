"""How well columns predict groups that were not fitted, and whether more columns predict them better.

Leave one group out, fit the others, and compare the prediction with the held-out group's own mean: R² below 0 says
that the mean would have been the better prediction (sheet trigger_leakage, section 7, H2).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leakage_assets.statistics.correlation import correlate_rows, ranks
from leakage_assets.statistics.linear_model import Design, cluster_codes, design
from leakage_assets.statistics.resampling import TIE, Floats, permutations
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined

Orders = NDArray[np.int64]
"""(draws, n): each draw says from which row every row takes its outcome."""

MIN_GROUPS = 4
"""Fewer would fit each fold on one or two groups, whose own differences are then taken for what predicts the next."""


@dataclass(frozen=True)
class HeldOut:
    """Mean R² over the held-out groups of both models, their difference, and mean rank correlation of the larger one.

    ``folds`` is R² of the larger model by group, empty where it is undefined.
    """

    full: Estimate
    reduced: Estimate
    gap: Estimate
    rank: Estimate
    folds: Mapping[Hashable, float] = field(default_factory=dict)


def held_out_r2(matrix: Floats, outcomes: Floats, groups: NDArray[np.intp]) -> Floats:
    """(..., G): 1 - SSE/SST of each group, predicted from all others; NaN where its outcome does not vary.

    ``outcomes`` are (..., n), ``groups`` the numbers 0 to G-1. SST is around the group's own mean.
    """
    folds = []
    for group in range(int(groups.max()) + 1):
        own = groups == group
        predicted = _predict(matrix, outcomes, own)
        actual = outcomes[..., own]
        unexplained = np.sum((actual - predicted) ** 2, axis=-1)
        spread = np.sum((actual - actual.mean(axis=-1, keepdims=True)) ** 2, axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            folds.append(np.where(spread > TIE**2, 1 - unexplained / spread, np.nan))
    return np.stack(folds, axis=-1)


def _predict(matrix: Floats, outcomes: Floats, own: NDArray[np.bool_]) -> Floats:
    """(..., rows of the group): the outcome that the other groups lead one to expect."""
    hat = matrix[own] @ np.linalg.pinv(matrix[~own])
    predicted: Floats = outcomes[..., ~own] @ hat.T
    return predicted


def held_out_gap(
    columns: Mapping[str, ArrayLike],
    reduced: Sequence[str],
    outcome: ArrayLike,
    groups: Sequence[Hashable],
    *,
    orders: Orders | str,
    shuffled: str,
    group_unit: str,
) -> HeldOut:
    """Mean held-out R² of all ``columns`` minus that of the ``reduced`` ones, with a one-sided permutation p.

    ``orders`` rearrange the outcome under the null (``resampling.permutations`` moves every row alone, ``block_orders``
    whole blocks), or say why there are none; ``shuffled`` says in words what they move. p is one-sided,
    (1 + #{gap* >= gap}) / (B + 1), and a draw without a gap counts as large. No intervals: the folds share their
    training rows. n counts the held-out groups.

    Undefined for fewer than 4 groups, columns without coefficients in one of the fits, or a group whose outcome does
    not vary. Raises ``StatisticsError`` for lengths that differ or an unknown column.
    """
    unknown = [name for name in reduced if name not in columns]
    if unknown:
        raise StatisticsError(f"no column {unknown[0]!r}; columns: {', '.join(columns)}")
    whole, part = design(columns), design({name: columns[name] for name in reduced})
    y, codes = np.asarray(outcome, dtype=np.float64), cluster_codes(groups)
    if y.shape != codes.shape or len(y) != whole.rows:
        raise StatisticsError(f"{whole.rows} rows, outcome {y.shape}, {len(codes)} groups; expected one length")
    names = list(dict.fromkeys(groups))
    method = f"leave one {group_unit} out, R² against the held-out mean, averaged"
    reason = _reason(whole, part, y, codes, names, group_unit)
    if reason:
        n = len(names)
        full, small, gap, rank = (undefined(name, reason, n=n, unit=group_unit, method=method) for name in _NAMES)
        return HeldOut(full, small, gap, rank)
    folds = held_out_r2(whole.matrix, y, codes)
    observed, smaller = float(folds.mean()), float(held_out_r2(part.matrix, y, codes).mean())
    better = observed - smaller
    how, p = f"{method}; all columns minus {', '.join(reduced)}", None
    if isinstance(orders, str):
        how += f"; no p: {orders}"
    else:
        p = _gap_p(whole, part, y[orders], codes, better)
        how += f"; one-sided permutation p, {shuffled}, {len(orders)} draws"

    def plain(name: str, value: float, words: str, p: float | None = None) -> Estimate:
        return Estimate(name, value, None, None, None, p, len(names), group_unit, words)

    return HeldOut(
        plain(_NAMES[0], observed, f"{method}; all {len(columns)} columns"),
        plain(_NAMES[1], smaller, f"{method}; {', '.join(reduced)} only"),
        plain(_NAMES[2], better, how, p),
        _held_out_rank(whole.matrix, y, codes, names, group_unit),
        dict(zip(names, map(float, folds), strict=True)),
    )


_NAMES = ("held_out_r2", "held_out_r2_reduced", "held_out_gap", "held_out_rank_correlation")


def _reason(
    whole: Design, part: Design, y: Floats, codes: NDArray[np.intp], names: Sequence[Hashable], unit: str
) -> str | None:
    if len(names) < MIN_GROUPS:
        return f"{len(names)} {unit}{'s' * (len(names) != 1)}, fewer than {MIN_GROUPS}"
    if fault := whole.fault or part.fault:
        return fault
    for number, name in enumerate(names):
        own = codes == number
        rest = design({term: whole.matrix[~own, 1 + place] for place, term in enumerate(whole.terms)})
        if rest.fault:
            return f"without {name}: {rest.fault}"
        if np.ptp(y[own]) <= TIE:
            return f"the outcome of {name} does not vary"
    return None


def _gap_p(whole: Design, part: Design, permuted: Floats, codes: NDArray[np.intp], gap: float) -> float:
    gaps = held_out_r2(whole.matrix, permuted, codes).mean(-1) - held_out_r2(part.matrix, permuted, codes).mean(-1)
    extreme = int(np.sum((gaps >= gap - TIE) | np.isnan(gaps)))
    return (1 + extreme) / (len(permuted) + 1)


def _held_out_rank(
    matrix: Floats, y: Floats, codes: NDArray[np.intp], names: Sequence[Hashable], unit: str
) -> Estimate:
    """Does the prediction order the rows of a new group rightly, whatever its level?"""
    method = f"leave one {unit} out, Spearman of predicted and observed within it, averaged"
    folds = [
        float(correlate_rows(ranks(_predict(matrix, y, codes == group)), ranks(y[codes == group])))
        for group in range(len(names))
    ]
    flat = [name for name, value in zip(names, folds, strict=True) if np.isnan(value)]
    if flat:
        reason = f"the prediction for {flat[0]} does not vary"
        return undefined(_NAMES[3], reason, n=len(names), unit=unit, method=method)
    return Estimate(_NAMES[3], float(np.mean(folds)), None, None, None, None, len(names), unit, method)


def block_orders(blocks: Sequence[Hashable], places: Sequence[Hashable], draws: int, seed: int) -> Orders | str:
    """Whole blocks change places: what stood at a place of one block goes to the same place of another.

    Rows of a block may depend on one another, and stay together. Every block must have the same places, each once; else
    the reason why there are no orders is returned.
    """
    block, place = cluster_codes(blocks), cluster_codes(places)
    if len(block) != len(place):
        raise StatisticsError(f"{len(block)} blocks and {len(place)} places; expected one of each per row")
    count, width = int(block.max()) + 1, int(place.max()) + 1
    table = np.full((count, width), -1, dtype=np.int64)
    table[block, place] = np.arange(len(block))
    if len(block) != count * width or (table < 0).any():
        return "the blocks are not alike: some lack a row that others have"
    moved = permutations(count, draws, seed)
    orders: Orders = table[moved[:, block], place[None]]
    return orders
