"""Contrasts between arms under the published and the clustered bootstrap: Holm, equivalence, losses of single arms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from leakage_assets.statistics.multiplicity import holm
from leakage_assets.statistics.paired_bootstrap import (
    Equivalence,
    bootstrap_estimate,
    clustered_means,
    equivalence,
    independent_means,
    two_way_means,
)
from leakage_assets.statistics.resampling import Floats, generator
from leakage_assets.statistics.result import Estimate, estimate_table, undefined
from leakage_assets.studies.cot_leakage.arms import ARMS
from leakage_assets.studies.cot_leakage.design import (
    AXES,
    CONTRASTS,
    EXPLORATORY,
    FAMILIES,
    MACRO,
    SINGLE_ARMS,
    Axis,
    Contrast,
    Decisions,
    Family,
    scaffold_of,
)
from leakage_assets.studies.cot_leakage.outcomes import Outcomes

Scheme = Literal["pairs", "questions", "questions_and_seeds"]
SCHEMES: tuple[Scheme, ...] = ("pairs", "questions", "questions_and_seeds")
"""As published, every question of every seed as if independent; questions whole; questions and seeds whole."""

UNITS: Mapping[Scheme, str] = {
    "pairs": "question-seed pair",
    "questions": "question cluster",
    "questions_and_seeds": "question cluster",
}


@dataclass(frozen=True, eq=False)
class Difference:
    """The loss of one arm minus that of another, by source: (seeds, questions) each, over the seeds both have."""

    family: Family
    contrast: Contrast
    axis: Axis
    by_source: Mapping[str, Floats]

    @property
    def point(self) -> float:
        """The unweighted mean of the sources."""
        return float(np.mean([delta.mean() for delta in self.by_source.values()]))


def differences(
    found: Outcomes, decisions: Decisions, family: Family, contrasts: Sequence[Contrast] = CONTRASTS
) -> list[Difference]:
    """Every contrast on both axes, in order; sources in which an arm is missing are left out, and so is a contrast
    without any source.
    """
    rows = []
    for contrast in contrasts:
        for axis in AXES:
            by_source = {
                source: _loss(found, family, source, contrast.first, axis, seeds)
                - _loss(found, family, source, contrast.second, axis, seeds)
                for source in decisions.sources
                if (seeds := found.seeds(source, contrast.first, contrast.second))
            }
            if by_source:
                rows.append(Difference(family, contrast, axis, by_source))
    return rows


def _loss(found: Outcomes, family: Family, source: str, arm: str, axis: Axis, seeds: Sequence[int]) -> Floats:
    return found.loss(source, arm, scaffold_of(family, arm), axis, seeds)


Draws = dict[str, Floats]
"""Bootstrap means of a difference by source, and of the macro mean."""


def draw(rows: Sequence[Difference], scheme: Scheme, decisions: Decisions) -> list[Draws | str]:
    """The bootstrap of every difference, or why there is none.

    "pairs": one stream, contrast by contrast, sources in order, then macro, as published (section 7.5); the macro
    resample is of all sources' values together. What is taken from the stream is a multinomial count of each distinct
    value, of the same distribution as the published indices but not the same numbers: no published draw comes out
    again. The clustered schemes draw questions (and seeds) once: all sources
    and contrasts see the same.
    """
    if scheme == "pairs":
        rng = generator(decisions.seed)
        return [_pair_draws(row, decisions, rng) for row in rows]
    shapes = {delta.shape for row in rows for delta in row.by_source.values()}
    if scheme == "questions_and_seeds" and (len(shapes) > 1 or next(iter(shapes), (0,))[0] < 2):
        return ["seeds are resampled only where every source has the same number of them, at least 2"] * len(rows)
    stacked = [delta for row in rows for delta in row.by_source.values()]
    if not stacked:
        return []
    if scheme == "questions":
        means = clustered_means(np.stack([delta.mean(axis=0) for delta in stacked]), decisions.draws, decisions.seed)
    else:
        means = two_way_means(np.stack(stacked), decisions.draws, decisions.seed)
    columns, results = iter(means.T), list[Draws | str]()
    for row in rows:
        drawn = {source: next(columns) for source in row.by_source}
        results.append({**drawn, MACRO: np.mean(list(drawn.values()), axis=0)})
    return results


def _pair_draws(row: Difference, decisions: Decisions, rng: np.random.Generator) -> Draws:
    draws = decisions.published_draws
    drawn = {source: independent_means(delta, draws, rng) for source, delta in row.by_source.items()}
    together = np.concatenate([delta.ravel() for delta in row.by_source.values()])
    return {**drawn, MACRO: independent_means(together, draws, rng)}


def contrast_table(found: Outcomes, decisions: Decisions) -> pl.DataFrame:
    """Every contrast of both families under every scheme, macro and by source.

    Columns: family, scheme, hypothesis (empty for what is exploratory), contrast, first, second, axis, unit_of
    ("macro" or a source), sources, seeds (of macro: as many as every source has at least), p_holm (of the planned
    macro rows, within family and scheme; with fewer than the planned tests finished the missing ones still count),
    rejected, then those of ``Estimate``.
    """
    parts = [
        _family_rows(rows, scheme, decisions)
        for family in FAMILIES
        for rows in [differences(found, decisions, family, (*CONTRASTS, *EXPLORATORY))]
        for scheme in SCHEMES
        if rows
    ]
    labels = {"sources": pl.Int64, "seeds": pl.Int64, "p_holm": pl.Float64, "rejected": pl.Boolean}
    text = dict.fromkeys(
        ("family", "scheme", "hypothesis", "contrast", "first", "second", "axis", "unit_of"), pl.String
    )
    table = estimate_table([row for part in parts for row in part])
    if not parts:
        return pl.DataFrame(schema={**text, **labels, **table.schema})
    return table.with_columns(pl.col(name).cast(kind) for name, kind in {**text, **labels}.items())


def _family_rows(
    rows: Sequence[Difference], scheme: Scheme, decisions: Decisions
) -> Iterator[tuple[Mapping[str, Any], Estimate]]:
    drawn = draw(rows, scheme, decisions)
    estimates = [_estimates(row, draws, scheme, decisions) for row, draws in zip(rows, drawn, strict=True)]
    planned: dict[str, float | None] = {f"{c.name}/{axis}": None for c in CONTRASTS for axis in AXES}
    for row, found in zip(rows, estimates, strict=True):
        if row.contrast in CONTRASTS:
            planned[f"{row.contrast.name}/{row.axis}"] = found[MACRO].p
    adjusted = holm(planned)
    for row, found in zip(rows, estimates, strict=True):
        for unit, estimate in found.items():
            p = adjusted.get(f"{row.contrast.name}/{row.axis}") if unit == MACRO else None
            labels = {
                "family": row.family,
                "scheme": scheme,
                "hypothesis": (row.contrast.hypothesis or {}).get(row.axis, ""),
                "contrast": row.contrast.name,
                "first": row.contrast.first,
                "second": row.contrast.second,
                "axis": row.axis,
                "unit_of": unit,
                "sources": len(row.by_source) if unit == MACRO else 1,
                "seeds": min(len(d) for s, d in row.by_source.items() if unit in (MACRO, s)),
                "p_holm": p,
                "rejected": None if p is None else p < decisions.alpha,
            }
            yield labels, estimate


def _estimates(row: Difference, drawn: Draws | str, scheme: Scheme, decisions: Decisions) -> dict[str, Estimate]:
    name = f"{row.contrast.name} {row.axis}"
    draws = decisions.published_draws if scheme == "pairs" else decisions.draws
    method = f"{scheme.replace('_', ' ')} resampled, percentile, {draws} draws, seed {decisions.seed}"
    every = [*row.by_source, MACRO]
    sizes = {source: delta.size if scheme == "pairs" else delta.shape[1] for source, delta in row.by_source.items()}
    sizes[MACRO] = sum(sizes.values()) if scheme == "pairs" else max(sizes.values())
    if isinstance(drawn, str):
        return {u: undefined(name, drawn, n=sizes[u], unit=UNITS[scheme], method=method) for u in every}
    points = {source: float(delta.mean()) for source, delta in row.by_source.items()} | {MACRO: row.point}
    common: dict[str, Any] = {"level": decisions.level, "unit": UNITS[scheme], "published_p": scheme == "pairs"}
    return {
        unit: bootstrap_estimate(name, points[unit], drawn[unit], n=sizes[unit], method=method, **common)
        for unit in every
    }


def macro_estimate(row: Difference, drawn: Draws | str, scheme: Scheme, decisions: Decisions) -> Estimate:
    """The mean of the sources with its interval; p is not adjusted."""
    return _estimates(row, drawn, scheme, decisions)[MACRO]


def equivalence_table(found: Outcomes, decisions: Decisions) -> pl.DataFrame:
    """H3 (section 7.7) in both families under every scheme: is the loss of the source the same in both arms?

    Columns: family, scheme, level, margin, low, high, share_of_margin, inside, equivalent (all intervals inside). No
    rows while an arm is missing.
    """
    rows = []
    for family in FAMILIES:
        planned = differences(found, decisions, family)
        for scheme in SCHEMES:
            # The published stream passes the other contrasts first; a clustered draw is the same without them.
            needed = planned if scheme == "pairs" else [row for row in planned if is_equivalence(row)]
            for row, drawn in zip(needed, draw(needed, scheme, decisions), strict=True):
                if not is_equivalence(row) or isinstance(drawn, str):
                    continue
                rows += equivalence_rows(family, scheme, equivalence(drawn[MACRO], decisions.equivalence))
    return pl.DataFrame(rows, schema=EQUIVALENCE_SCHEMA, orient="row")


BOTH = "questions_and_adapters"
"""The scheme of what decides: no resampling, see ``adapters.both_table``."""

EQUIVALENCE_SCHEMA = dict.fromkeys(("family", "scheme"), pl.String) | dict.fromkeys(
    ("level", "margin", "low", "high", "share_of_margin"), pl.Float64
) | dict.fromkeys(("inside", "equivalent"), pl.Boolean)  # fmt: skip


def equivalence_rows(family: Family, scheme: str, test: Equivalence) -> list[tuple[object, ...]]:
    """The intervals of a test as rows of EQUIVALENCE_SCHEMA."""
    return [
        (family, scheme, p.bound.level, p.bound.margin, p.low, p.high, p.used, p.inside, test.equivalent)
        for p in test.parts
    ]


def is_equivalence(row: Difference) -> bool:
    """Whether H3 is about this difference."""
    return (row.contrast.hypothesis or {}).get(row.axis) == "H3"


def loss_table(found: Outcomes, decisions: Decisions) -> pl.DataFrame:
    """The loss of every arm under every scaffold, by source and macro, questions resampled whole.

    Columns: arm, scaffold, axis, own_format (the scaffold is the arm's own), unit_of, sources, seeds, then those of
    ``Estimate``.
    """
    keys, vectors = list[tuple[str, int]](), list[Floats]()
    groups: list[tuple[str, str, Axis, list[int]]] = []
    for one in ARMS:
        for scaffold in found.scaffolds:
            for axis in AXES:
                members = []
                for source in decisions.sources:
                    if seeds := found.seeds(source, one.name):
                        members.append(len(keys))
                        keys.append((source, len(seeds)))
                        vectors.append(found.loss(source, one.name, scaffold, axis, seeds).mean(axis=0))
                if members:
                    groups.append((one.name, scaffold, axis, members))
    rows: list[tuple[Mapping[str, Any], Estimate]] = []
    draws = decisions.published_draws
    means = clustered_means(np.stack(vectors), draws, decisions.seed) if vectors else np.empty((0, 0))
    method = f"questions resampled, percentile, {draws} draws, seed {decisions.seed}"
    common: dict[str, Any] = {"level": decisions.level, "n": len(found.questions), "unit": UNITS["questions"]}
    for arm, scaffold, axis, members in groups:
        own = scaffold == scaffold_of("own_format", arm)
        shared = {"arm": arm, "scaffold": scaffold, "axis": axis, "own_format": own}
        for unit, places in [*((keys[place][0], [place]) for place in members), (MACRO, members)]:
            point = float(np.mean([vectors[place].mean() for place in places]))
            drawn = means[:, places].mean(axis=1)
            labels = {**shared, "unit_of": unit, "sources": len(places), "seeds": min(keys[p][1] for p in places)}
            estimate = bootstrap_estimate(axis, point, drawn, method=method, published_p=False, **common)
            rows.append((labels, estimate))
    return _labelled(rows, ("arm", "scaffold", "axis", "unit_of"), ("sources", "seeds"), ("own_format",))


def single_arm_table(found: Outcomes, decisions: Decisions) -> pl.DataFrame:
    """The single-arm losses of section 7.8 with the published bootstrap, by source.

    Columns: arm, scaffold, axis, unit_of, seeds, then those of ``Estimate``.
    """
    rng, rows = generator(decisions.single_seed), list[tuple[Mapping[str, Any], Estimate]]()
    method = f"pairs resampled, percentile, {decisions.published_draws} draws, seed {decisions.single_seed}"
    for arm, scaffold in SINGLE_ARMS:
        for source in decisions.sources:
            seeds = found.seeds(source, arm)
            if not seeds or scaffold not in found.scaffolds:
                continue
            for axis in AXES:
                lost = found.loss(source, arm, scaffold, axis, seeds)
                drawn = independent_means(lost, decisions.published_draws, rng)
                labels = {"arm": arm, "scaffold": scaffold, "axis": axis, "unit_of": source, "seeds": len(seeds)}
                estimate = bootstrap_estimate(
                    axis,
                    float(lost.mean()),
                    drawn,
                    level=decisions.level,
                    n=lost.size,
                    unit=UNITS["pairs"],
                    method=method,
                    published_p=True,
                )
                rows.append((labels, estimate))
    return _labelled(rows, ("arm", "scaffold", "axis", "unit_of"), ("seeds",), ())


def accuracy_table(found: Outcomes, decisions: Decisions) -> pl.DataFrame:
    """Mean accuracy of every arm, and of the base, under every scaffold: sources together, for the source and others.

    Columns: arm ("base" for the untrained model), scaffold, axis, sources, accuracy.
    """
    schema = {"arm": pl.String, "scaffold": pl.String, "axis": pl.String, "sources": pl.Int64, "accuracy": pl.Float64}
    rows = []
    for name in (None, *(one.name for one in ARMS)):
        for scaffold in found.scaffolds:
            for axis in AXES:
                values = [found.accuracy(name, scaffold, source, axis) for source in decisions.sources]
                there = [value for value in values if value is not None]
                if there:
                    rows.append((name or "base", scaffold, axis, len(there), float(np.mean(there))))
    return pl.DataFrame(rows, schema=schema, orient="row")


def _labelled(
    rows: Sequence[tuple[Mapping[str, Any], Estimate]],
    texts: Sequence[str],
    numbers: Sequence[str],
    flags: Sequence[str],
) -> pl.DataFrame:
    """Label columns followed by the estimate's fields, also where there are no rows."""
    kinds: dict[str, Any] = dict.fromkeys(texts, pl.String) | dict.fromkeys(numbers, pl.Int64)
    kinds |= dict.fromkeys(flags, pl.Boolean)
    table = estimate_table(rows)
    if rows:
        return table.with_columns(pl.col(name).cast(kind) for name, kind in kinds.items())
    return pl.DataFrame(schema=kinds | dict(table.schema))
