"""Recomputes every published statistic of source_rate (#271, #232) from its published counts and cosines.

The statistics come from the functions that analyse a live run. What the write-up prints, and what of it its own data
refute, stands in ``data/published/source_rate.json``, with the cosines of #232, which no published table holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leakage_assets.paths import DATA
from leakage_assets.statistics.correlation import COEFFICIENTS, asymptotic_p
from leakage_assets.statistics.intervals import wilson_bounds
from leakage_assets.statistics.multiplicity import bonferroni
from leakage_assets.statistics.partial import partial_spearman, spearman_of_rank_residuals, variance_inflation
from leakage_assets.statistics.points import (
    MIN_POINTS,
    Points,
    as_points,
    correlate_points,
    count_above,
    drop_one,
    within_groups,
)
from leakage_assets.statistics.regression import check_predictions, fit_line, influence, leave_one_out
from leakage_assets.statistics.result import Estimate, StatisticsError
from leakage_assets.studies.published import (
    FigureKey,
    Headline,
    ReproductionError,
    comparison,
    comparison_table,
    figure_row,
    published_file,
    read_headline,
    read_published,
    within,
)
from leakage_assets.studies.source_rate.design import ALPHA, INFORMATIVE_HALF_WIDTH, MAX_VIF

if TYPE_CHECKING:
    import polars as pl

FIGURES = DATA / "published" / "source_rate.json"
RATES, EXPECTED = "i271_source_rates.csv", "i271_expected.json"

TOLERANCE = 1e-9
LAYERS = (10, 15, 20, 25)
PRIMARY = 20
REFERENCE, VENDOR_DEFAULT, OUTLIER = "helpful_assistant", "qwen_default", "librarian"
PROMPT_WORDS = {REFERENCE: 5, VENDOR_DEFAULT: 11}
"""What the write-up takes for the token counts of the new prompts (D2)."""

METRIC = {"spearman": "spearman_rho", "pearson": "pearson_r"}
PARENT = "cosine_l10_of_232"

PUBLISHED_LEVEL = math.erf(1.96 / math.sqrt(2))
"""The level at which the normal quantile is 1.96, with which the published Wilson bounds were computed."""

COLUMNS: Mapping[str, type] = {
    "persona": str, "category": str, "new": int, "n": int, "k": int, "rate": float, "wilson_lo": float,
    "wilson_hi": float, "prompt_tokens": int, **{f"cos_l{layer}": float for layer in LAYERS},
}  # fmt: skip

Facts = dict[FigureKey, float | None]


def reproduce(published: Path) -> pl.DataFrame:
    """Published beside recomputed, one row per statistic.

    Columns as those of ``marker_leakage``: block, item, metric, published, recomputed, difference, tolerance (1e-9, 0
    for counts and verdicts, half a printed unit for what the write-up prints), verdict: ``ok``, ``DIFFERS``,
    ``undefined``, or ``known: D3`` where the sheet says that the write-up contradicts its own data. ``published`` is
    the folder of the ``i271_*`` files.

    Raises ``ReproductionError`` for a missing folder or file, missing columns, cells that are not numbers, or an entry
    of the expected file that nothing recomputes.
    """
    rates, expected = read_published(published, RATES, COLUMNS), _expected(published)
    headline = headline_figures()
    try:
        tree, rate_rows = _recomputed(rates, headline), list(_rate_rows(rates))
    except StatisticsError as error:
        raise ReproductionError(f"{published / RATES}: {error}; fetch the file again") from error
    facts = dict(_facts(rates, tree))
    rows = [
        *rate_rows,
        *_expected_rows(published / EXPECTED, expected, tree),
        *(figure_row(f, facts, tolerance=f.precision / 2, path=FIGURES) for f in headline.figures),
    ]
    return comparison_table(rows)


def headline_figures(path: Path = FIGURES) -> Headline:
    """The typed-in figures, validated. Raises ``ReproductionError`` naming the file and the field."""
    return read_headline(path)


def _expected(published: Path) -> dict[str, Any]:
    path = published_file(published, EXPECTED)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReproductionError(f"{path}: no JSON ({error}); fetch the file again") from error
    if not isinstance(found, dict):
        raise ReproductionError(f"{path}: {type(found).__name__}; expected an object; fetch the file again")
    return found


def _rate_rows(rates: pl.DataFrame) -> Iterator[dict[str, object]]:
    """Within the published table: rates are k/n, and the bounds Wilson's with z = 1.96."""
    low, high = wilson_bounds(rates["k"], rates["n"], level=PUBLISHED_LEVEL)
    for i, row in enumerate(rates.iter_rows(named=True)):
        for metric, value in (("rate", row["k"] / row["n"]), ("wilson_lo", low[i]), ("wilson_hi", high[i])):
            yield comparison(FigureKey("rates", row["persona"], metric), row[metric], float(value), TOLERANCE)


# ------------------------------------------------------------------ the expected file


def _expected_rows(path: Path, expected: Mapping[str, Any], tree: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """Every number and verdict of the expected file beside ours; names and texts in it only label them."""
    theirs, ours = dict(_leaves(expected)), dict(_leaves(tree))
    for key in theirs.keys() ^ ours.keys():
        side = "is in the file, but nothing recomputes it" if key in theirs else "is not in the file"
        raise ReproductionError(f"{path}: {'/'.join(key)} {side}; fetch it again")
    for key, value in theirs.items():
        exact = isinstance(value, bool | int)
        row = comparison(_figure_key(key), float(value), _number(ours[key]), 0.0 if exact else TOLERANCE)
        refuted = REFUTED.get(key)
        if refuted is not None and ours[key] is not None and within(ours[key] - refuted[1], 0.0, 1.0):
            row["verdict"] = f"known: {refuted[0]}"
        yield row


REFUTED: Mapping[tuple[str, ...], tuple[str, int]] = {
    ("parent_232_l10", "loo_drops_stated_in_seed"): ("section 9", 8),
}
"""Entries that hold a claim of the write-up, where the sheet refutes it, and the right value."""


def _leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Numbers, truth values and nulls with their place; a list's members are called by the persona they are about."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for position, value in enumerate(node):
            name = str(position)
            if isinstance(value, Mapping):
                name = str(value.get("dropped", value.get("persona", position)))
            yield from _leaves(value, (*path, name))
    elif not isinstance(node, str):
        yield path, node


def _figure_key(path: tuple[str, ...]) -> FigureKey:
    return FigureKey(path[0], " ".join(path[1:-1]) or "all", path[-1])


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


# ------------------------------------------------------------------ recomputed


def _recomputed(rates: pl.DataFrame, headline: Headline) -> dict[str, Any]:
    """Everything the expected file holds, under the same keys."""
    by_layer = {layer: _points(rates, f"cos_l{layer}") for layer in LAYERS}
    everyone = by_layer[PRIMARY]
    new = rates.filter(new=1)["persona"].to_list()
    old = everyone.without(*new)
    line = fit_line(old)
    r = correlate_points("pearson", old, "pearson")
    checks = check_predictions(old, everyone.only(new), margin=INFORMATIVE_HALF_WIDTH)
    pulled = influence(everyone)
    return {
        "layer_stats": {
            f"L{layer}": {"n12": _pair(points), "n10": {"n": len(old), **_pair(points.without(*new))}}
            for layer, points in by_layer.items()
        },
        "n10_l20": {
            "r": r.estimate,
            "p": r.p,
            "slope": line.slope.estimate,
            "intercept": line.intercept.estimate,
        },
        "n10_residual_sd": line.residual_sd.estimate,
        "pi_l20": {
            c.name: {
                "observed": c.observed,
                "predicted": c.predicted.estimate,
                "pi_half": c.half_width,
                "inside": c.inside,
            }
            for c in checks
        },
        "loo": _left_out(everyone, old, everyone.only(new)),
        "cooks_d": {one.name: one.cooks_d.estimate for one in pulled},
        "leverage": {one.name: one.leverage.estimate for one in pulled},
        "cooks_threshold": pulled[0].cooks_threshold,
        "length_partial": _length(rates, everyone),
        "drop_librarian": _dropped(everyone, OUTLIER),
        "drop_helpful_assistant": _dropped(everyone, REFERENCE),
        "within_category": _within(rates, everyone),
        "bonferroni_x4": _over_layers(by_layer),
        "parent_232_l10": _parent(rates, headline),
    }


def _points(rates: pl.DataFrame, column: str) -> Points:
    return as_points(rates["persona"].to_list(), rates[column].to_list(), rates["rate"].to_list(), unit="source")


def _pair(points: Points) -> dict[str, float | None]:
    """Both coefficients with their asymptotic p."""
    found = {c: correlate_points(c, points, c) for c in COEFFICIENTS}
    return {
        key: value
        for c in ("pearson", "spearman")
        for key, value in ((METRIC[c], found[c].estimate), (f"{c}_p", found[c].p))
    }


def _dropped(points: Points, name: str) -> dict[str, float | None]:
    rest = points.without(name)
    return {"n": len(rest), **_pair(rest)}


def _left_out(everyone: Points, old: Points, new: Points) -> dict[str, Any]:
    """The published leave-one-out coverage and the two that the sheet puts beside it (D5)."""
    published = leave_one_out("published", everyone, checked=new, margin=INFORMATIVE_HALF_WIDTH)
    among_old = leave_one_out("among_old", old, checked=new, margin=INFORMATIVE_HALF_WIDTH)
    held_out = leave_one_out("held_out", everyone, margin=INFORMATIVE_HALF_WIDTH)

    def refits(checks: Sequence[tuple[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
        by = {dropped: [check for left_out, check in checks if left_out == dropped] for dropped in names}
        return [
            {
                "dropped": dropped,
                "predicted": [check.predicted.estimate for check in found],
                "half": [check.half_width for check in found],
                "inside": all(check.inside for check in found),
            }
            for dropped, found in by.items()
        ]

    coverage = published.coverage
    return {
        "published": {
            "passes": None if coverage.estimate is None else round(coverage.estimate * coverage.n),
            "total": coverage.n,
        },
        "recomputed_as_published": refits(published.checks, everyone.names),
        "recomputed_drop_among_10_only": refits(among_old.checks, old.names),
        "heldout_each_of_12": [
            {
                "persona": name,
                "predicted": check.predicted.estimate,
                "half": check.half_width,
                "inside": check.inside,
            }
            for name, check in held_out.checks
        ],
    }


def _length(rates: pl.DataFrame, points: Points) -> dict[str, Any]:
    tokens = dict(zip(rates["persona"], rates["prompt_tokens"], strict=True))
    ranked, textbook, vif = _partials(points, tokens)
    stated, _, stated_vif = _partials(points, tokens | PROMPT_WORDS)
    r = textbook.estimate
    return {
        "published": {
            "vif": vif.estimate,
            "vif_warning": vif.estimate is None or vif.estimate > MAX_VIF,
            "partial_spearman_rho": ranked.estimate,
            "partial_spearman_p": ranked.p,
        },
        "recomputed": {
            "spearman_of_rank_residuals": ranked.estimate,
            "p": ranked.p,
            "pearson_of_rank_residuals": r,
            "p_df_n_minus_2": None if r is None else asymptotic_p(r, len(points)),
            "p_df_n_minus_3": textbook.p,
        },
        "with_seed_text_lengths_5_and_11": {
            "spearman_of_rank_residuals": stated.estimate,
            "p": stated.p,
            "vif": stated_vif.estimate,
        },
    }


def _partials(points: Points, tokens: Mapping[str, int]) -> tuple[Estimate, Estimate, Estimate]:
    """Published and textbook partial correlation and the variance inflation, for these prompt lengths."""
    length = np.log([tokens[name] for name in points.names])
    return (
        spearman_of_rank_residuals("published", points.x, points.y, length, unit="source"),
        partial_spearman("textbook", points.x, points.y, length, unit="source"),
        variance_inflation("vif", points.x, length, unit="source"),
    )


def _within(rates: pl.DataFrame, points: Points) -> dict[str, Any]:
    """Both coefficients within the categories that have enough sources."""
    groups = dict(zip(rates["persona"], rates["category"], strict=True))
    by = {c: within_groups(points, groups, c) for c in COEFFICIENTS}
    return {
        group: {
            "n": pearson.n,
            "pearson_r": pearson.estimate,
            "pearson_p": pearson.p,
            "spearman_rho": by["spearman"][group].estimate,
            "spearman_p": by["spearman"][group].p,
        }
        for group, pearson in by["pearson"].items()
        if pearson.n >= MIN_POINTS
    }


def _over_layers(by_layer: Mapping[int, Points]) -> dict[str, dict[str, float | None]]:
    adjusted = {
        c: bonferroni({f"L{layer}": correlate_points(c, points, c).p for layer, points in by_layer.items()})
        for c in COEFFICIENTS
    }
    return {f"L{layer}": {c: adjusted[c][f"L{layer}"] for c in COEFFICIENTS} for layer in by_layer}


def _parent(rates: pl.DataFrame, headline: Headline) -> dict[str, Any]:
    """#232: the same rates on its own cosines, which were centred on eleven personas."""
    cosines = headline.inputs.get(PARENT, {})
    old = rates.filter(new=0)
    absent = [name for name in old["persona"] if name not in cosines]
    if absent:
        raise ReproductionError(f"{FIGURES}: inputs.{PARENT}: no {absent[0]!r}; it is part of the repository")
    points = as_points(old["persona"].to_list(), [cosines[p] for p in old["persona"]], old["rate"].to_list(), unit="u")
    above = count_above("drops", drop_one(points, "pearson"), ALPHA).estimate
    drops = None if above is None else int(above)
    return {
        "n": len(points),
        **_pair(points),
        "loo_drops_with_pearson_p_above_0p05": drops,
        "loo_drops_stated_in_seed": drops,
    }


# ------------------------------------------------------------------ what the write-up prints


def _facts(rates: pl.DataFrame, tree: Mapping[str, Any]) -> Iterator[tuple[FigureKey, float | None]]:
    """Every number that a typed-in figure may name."""
    for path, value in _leaves(tree):
        yield _figure_key(path), _number(value)
    low, high = wilson_bounds(rates["k"], rates["n"], level=PUBLISHED_LEVEL)
    for i, row in enumerate(rates.iter_rows(named=True)):
        numbers = {
            "cosine_l20": row[f"cos_l{PRIMARY}"],
            "rate_pct": 100 * row["k"] / row["n"],
            "wilson_lo_pct": 100 * float(low[i]),
            "wilson_hi_pct": 100 * float(high[i]),
            "tokens": row["prompt_tokens"],
        }
        for metric, number in numbers.items():
            yield FigureKey("sources", row["persona"], metric), number
    for name, check in tree["pi_l20"].items():
        for metric in ("predicted", "pi_half"):
            value = check[metric]
            yield FigureKey("pi_l20", name, f"{metric}_pct"), None if value is None else 100 * value
    layers = [tree["layer_stats"][f"L{layer}"]["n12"] for layer in LAYERS]
    over = [tree["bonferroni_x4"][f"L{layer}"]["spearman"] for layer in LAYERS]
    yield FigureKey("claims", "Bonferroni-adjusted Spearman", "layers_below_0p01"), _below(over, 0.01)
    yield FigureKey("claims", "Pearson", "layers_below_0p05"), _below([row["pearson_p"] for row in layers], ALPHA)
    held_out = tree["loo"]["heldout_each_of_12"]
    yield FigureKey("loo", "heldout_each_of_12", "passes"), sum(bool(row["inside"]) for row in held_out)
    among = tree["loo"]["recomputed_drop_among_10_only"]
    yield FigureKey("loo", "recomputed_drop_among_10_only", "passes"), sum(bool(row["inside"]) for row in among)


def _below(values: Sequence[float | None], threshold: float) -> int | None:
    if any(value is None for value in values):
        return None
    return sum(value < threshold for value in values if value is not None)
