"""Checks the published numbers of cot_leakage (#345 = #280, #186) against each other and against our own statistics.

No answers to single questions were published, so no interval can be recomputed (sheet section 9). What can be: the
means over sources, Holm's procedure and the equivalence verdicts from the published p and intervals, everything that
follows from the accuracies of #186, and every count, which is taken from the design that this package trains.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leakage_assets.paths import DATA
from leakage_assets.statistics.multiplicity import holm
from leakage_assets.statistics.paired_bootstrap import Bound, Equivalence, Within
from leakage_assets.studies.cot_leakage.arms import ASSISTANT_ONLY, GENERIC, NO_COT, PERSONA
from leakage_assets.studies.cot_leakage.design import (
    AXES,
    BYSTANDER,
    CONTRASTS,
    MACRO,
    PERSONAS,
    SEEDS,
    SOURCE_LOSS,
    SOURCES,
    Axis,
    Decisions,
    counted_cells,
    recipes,
)
from leakage_assets.studies.cot_leakage.evaluation import PERSONA_COT, SCAFFOLDS
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
)

if TYPE_CHECKING:
    import polars as pl

FIGURES = DATA / "published" / "cot_leakage.json"
EXPECTED, CONTRAST_TABLE, ACCURACY = "i280_expected.json", "i280_contrasts.csv", "i186_accuracy.csv"
CONTRAST_COLUMNS: Mapping[str, type] = {
    "hypothesis": str, "label": str, "arm_a": str, "arm_b": str, "eval_scaffold": str, "axis": str, "unit": str,
    "point": float, "ci95_lo": float, "ci95_hi": float, "p_uncorrected": float, "p_holm": float, "n_pairs": int,
}  # fmt: skip
ACCURACY_COLUMNS: Mapping[str, type] = {
    "source": str, "train_arm": str, "seed": int, "eval_scaffold": str, "eval_persona": str, "n_correct": int,
    "n_total": int, "accuracy": float,
}  # fmt: skip

MEAN_TOLERANCE = 1e-7
"""Of a macro mean: the published means were taken in float32."""

EXACT = 1e-12
ROUNDED_VERDICTS = ("within90", "within99", "equivalent")
TRAIN_QUESTIONS = 1_119

Row = dict[str, object]


def reproduce(published: Path) -> pl.DataFrame:
    """Published beside recomputed, one row per statistic or identity.

    Columns as those of the other studies: block, item, metric, published, recomputed, difference, tolerance, verdict
    (``ok``, ``DIFFERS``, ``undefined``, or ``known: E10`` where the sheet says that the write-up is wrong); verdicts
    are 1 and 0. ``published`` is the folder of the ``i280_*`` and ``i186_*`` files.

    Raises ``ReproductionError`` for a missing folder, file, column or entry, or cells that are not numbers.
    """
    expected = _Expected(published)
    table = read_published(published, CONTRAST_TABLE, CONTRAST_COLUMNS, may_be_empty={"p_holm"})
    accuracy = _Accuracy(published / ACCURACY, read_published(published, ACCURACY, ACCURACY_COLUMNS))
    facts = dict(_facts(expected, accuracy))
    rows = [
        *_flat_rows(expected, published / CONTRAST_TABLE, table),
        *_macro_rows(expected),
        *_holm_rows(expected),
        *_tost_rows(expected),
        *accuracy.rows(),
        *(figure_row(f, facts, tolerance=f.precision / 2, path=FIGURES) for f in headline_figures().figures),
    ]
    return comparison_table(rows)


def headline_figures(path: Path = FIGURES) -> Headline:
    """The typed-in figures, validated. Raises ``ReproductionError`` naming the file and the field."""
    return read_headline(path)


# ------------------------------------------------------------------ #280


class _Expected:
    """The aggregate of #280: contrasts by label and axis, the equivalence test, and losses of single arms."""

    def __init__(self, published: Path) -> None:
        self.path = published_file(published, EXPECTED)
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self.tree: dict[str, Any] = content
            self.contrasts = {(c["label"], c["axis"]): c for c in content["contrasts"]}
            self.tost: dict[str, Any] = content["tost_h3"]
            self.single = {(s["train_arm"], s["eval_scaffold"]): s["per_source"] for s in content["single_arm_losses"]}
        except (ValueError, KeyError, TypeError) as error:
            raise self._broken(f"{type(error).__name__} {error}") from error
        found = [(c["a"], c["b"], c["axis"]) for c in content["contrasts"]]
        ours = [(c.first, c.second, axis) for c in CONTRASTS for axis in AXES]
        if found != ours:
            raise self._broken(f"contrasts {found}; expected {ours}")

    def number(self, *path: str | int) -> float:
        """A number of the file. Raises ``ReproductionError`` naming the path where there is none."""
        value: Any = self.tree
        for step in path:
            try:
                value = value[step]
            except (LookupError, TypeError) as error:
                raise self._broken(f"no {'/'.join(map(str, path))}") from error
        if not isinstance(value, int | float):
            raise self._broken(f"{'/'.join(map(str, path))} is {value!r}, not a number")
        return float(value)

    def contrast(self, label: str, axis: str, unit: str, *path: str | int) -> float:
        """A number of one contrast: of the macro mean or of a source."""
        place = list(self.contrasts).index((label, axis))
        inside = ("macro",) if unit == MACRO else ("per_source", unit)
        return self.number("contrasts", place, *inside, *path)

    def lost(self, arm: str, scaffold: str, axis: str) -> dict[str, float]:
        """The loss of a single arm by source."""
        place = list(self.single).index((arm, scaffold))
        return {s: self.number("single_arm_losses", place, "per_source", s, axis) for s in SOURCES}

    def _broken(self, problem: str) -> ReproductionError:
        return ReproductionError(f"{self.path}: {problem}; fetch the file again")


def _flat_rows(expected: _Expected, path: Path, table: pl.DataFrame) -> Iterator[Row]:
    """The flat table is the aggregate, number for number."""
    entries = {(r["label"], r["axis"], r["unit"]): r for r in table.iter_rows(named=True)}
    wanted = {(label, axis, unit) for label, axis in expected.contrasts for unit in (*SOURCES, MACRO)}
    if entries.keys() != wanted or len(entries) != table.height:
        raise ReproductionError(
            f"{path}: {table.height} rows for {len(entries)} of {len(wanted)} entries; fetch it again"
        )
    for (label, axis, unit), row in entries.items():
        p = "p_uncorrected" if unit == MACRO else "p"
        columns = {"point": ("point",), "ci95_lo": ("ci95", 0), "ci95_hi": ("ci95", 1), "p_uncorrected": (p,)}
        for column, place in columns.items():
            value = expected.contrast(label, axis, unit, *place)
            yield comparison(FigureKey(f"{label} {axis}", unit, column), row[column], value, EXACT)
        size = _pairs(len(SOURCES) if unit == MACRO else 1, expected)
        yield comparison(FigureKey(f"{label} {axis}", unit, "n_pairs"), row["n_pairs"], size, 0.0)


def _pairs(sources: int, expected: _Expected) -> float:
    return sources * len(SEEDS) * expected.number("n_questions")


def _macro_rows(expected: _Expected) -> Iterator[Row]:
    for label, axis in expected.contrasts:
        mean = _mean(expected.contrast(label, axis, source, "point") for source in SOURCES)
        published = expected.contrast(label, axis, MACRO, "point")
        yield comparison(FigureKey(f"{label} {axis}", MACRO, "mean of sources"), published, mean, MEAN_TOLERANCE)


def _holm_rows(expected: _Expected) -> Iterator[Row]:
    """Adjusted p and verdicts, at the level of the frozen plan."""
    alpha = Decisions().alpha
    yield comparison(FigureKey("Holm", "family", "size"), expected.number("holm_family_size"), len(CONTRASTS) * 2, 0.0)
    yield comparison(FigureKey("Holm", "family", "alpha"), expected.number("holm_alpha"), alpha, EXACT)
    raw = {key: expected.contrast(*key, MACRO, "p_uncorrected") for key in expected.contrasts}
    adjusted = holm({f"{label} {axis}": p for (label, axis), p in raw.items()})
    for label, axis in expected.contrasts:
        name = f"{label} {axis}"
        ours = adjusted[name]
        yield comparison(FigureKey(name, MACRO, "p_holm"), expected.contrast(label, axis, MACRO, "p_holm"), ours, EXACT)
        rejected = None if ours is None else float(ours < alpha)
        published = expected.contrast(label, axis, MACRO, "reject_fwer_0p01")
        yield comparison(FigureKey(name, MACRO, "rejected"), published, rejected, 0.0)


def _tost_rows(expected: _Expected) -> Iterator[Row]:
    """The verdicts that follow from the published intervals under the margins of the frozen plan."""
    test = _tost(expected)
    for part, percent in zip(test.parts, ("90", "99"), strict=True):
        margin = expected.number("tost_h3", f"bound{percent}")
        yield comparison(FigureKey("TOST", f"ci{percent}", "margin"), margin, part.bound.margin, EXACT)
    found = (*(part.inside for part in test.parts), test.equivalent)
    for name, ours in zip(ROUNDED_VERDICTS, found, strict=True):
        yield comparison(FigureKey("TOST", "H3", name), expected.number("tost_h3", name), float(ours), 0.0)


def _tost(expected: _Expected) -> Equivalence:
    bounds: tuple[Bound, ...] = Decisions().equivalence
    ends = [[expected.number("tost_h3", f"ci{round(100 * b.level)}", end) for end in (0, 1)] for b in bounds]
    return Equivalence(tuple(Within(bound, low, high) for bound, (low, high) in zip(bounds, ends, strict=True)))


# ------------------------------------------------------------------ #186


class _Accuracy:
    """The accuracies of #186. A loss of one arm minus that of another needs no baseline under one scaffold."""

    def __init__(self, path: Path, table: pl.DataFrame) -> None:
        self.path, self.table = path, table
        keys = ("source", "train_arm", "seed", "eval_scaffold", "eval_persona")
        self.values: dict[tuple[str, str, int, str, str], float] = {
            key: found / total
            for *key_, found, total in table.select(*keys, "n_correct", "n_total").iter_rows()
            for key in [(key_[0], key_[1], key_[2], key_[3], key_[4])]
        }
        if len(self.values) != table.height:
            raise ReproductionError(f"{path}: an entry occurs twice; fetch the file again")

    def rows(self) -> Iterator[Row]:
        """Every accuracy is its count over the number of questions."""
        gap = max(abs(r["accuracy"] - r["n_correct"] / r["n_total"]) for r in self.table.iter_rows(named=True))
        yield comparison(FigureKey("#186 table", "all", "largest gap of accuracy from its count"), 0.0, gap, EXACT)

    def contrast(self, first: str, second: str, scaffold: str, axis: Axis, source: str) -> float:
        """Loss of the first arm minus that of the second, seeds together: the second's accuracy minus the first's."""
        asked = [source] if axis == SOURCE_LOSS else [persona for persona in PERSONAS if persona != source]
        return _mean(
            self.value(source, second, seed, scaffold, persona) - self.value(source, first, seed, scaffold, persona)
            for seed in SEEDS
            for persona in asked
        )

    def value(self, *key: str | int) -> float:
        """One accuracy. Raises ``ReproductionError`` naming what is missing."""
        try:
            return self.values[key]  # type: ignore[index]
        except KeyError as error:
            raise ReproductionError(f"{self.path}: no {' / '.join(map(str, key))}; fetch the file again") from error


# ------------------------------------------------------------------ what the typed-in figures name


def _facts(expected: _Expected, accuracy: _Accuracy) -> Iterator[tuple[FigureKey, float | None]]:
    facts: dict[tuple[str, str, str], float] = {**_counts(expected, accuracy), **_claims(expected)}
    for label, axis in expected.contrasts:
        for unit in (*SOURCES, MACRO):
            facts[label, axis, unit] = expected.contrast(label, axis, unit, "point")
        for place, end in enumerate(("lo", "hi")):
            facts[label, axis, f"{MACRO} ci95_{end}"] = expected.contrast(label, axis, MACRO, "ci95", place)
    for part in _tost(expected).parts:
        percent = round(100 * part.bound.level)
        facts["TOST", f"ci{percent}", "low"], facts["TOST", f"ci{percent}", "high"] = part.low, part.high
    for arm, scaffold in expected.single:
        for axis in AXES:
            for source, value in expected.lost(arm, scaffold, axis).items():
                facts["single arm", f"{arm} @ {scaffold} {axis}", source] = value
    facts |= _levels(expected) | _like_for_like(expected, accuracy) | _of_186(accuracy)
    return ((FigureKey(*key), value) for key, value in facts.items())


Facts = dict[tuple[str, str, str], float]


def _counts(expected: _Expected, accuracy: _Accuracy) -> Facts:
    trained = next(r for r in recipes((ASSISTANT_ONLY,)) if r.name.startswith(GENERIC))
    published = sum(one.published for one in SCAFFOLDS)
    return {
        ("design", "all models", "cells"): counted_cells(),
        ("design", "carried over from #186", "cells"): counted_cells("#186"),
        ("design", "new in #280", "cells"): counted_cells("#280"),
        ("design", "training", "steps"): trained.steps(TRAIN_QUESTIONS),
        ("design", "macro", "n_pairs"): _pairs(len(SOURCES), expected),
        ("design", "one source", "n_pairs"): _pairs(1, expected),
        ("design", "evaluation", "personas"): len(PERSONAS),
        ("design", "each model", "answers"): len(PERSONAS) * published * expected.number("n_questions"),
        ("design", "#186 table", "rows"): accuracy.table.height,
    }


def _claims(expected: _Expected) -> Facts:
    """What the write-up claims, as its own data have it."""
    every = [
        all(expected.contrast(*key, source, "p") < Decisions().alpha for source in SOURCES)
        for key in expected.contrasts
    ]
    return {
        ("claims", "macro", "n_pairs"): _pairs(len(SOURCES), expected),
        ("claims", "new in #280", "cells"): counted_cells("#280"),
        ("claims", "contrasts in which every source rejects", "count"): sum(every),
    }


def _levels(expected: _Expected) -> Facts:
    """Losses of persona and generic arm: the published contrasts on top of the published loss of garbage."""
    levels: Facts = {}
    for axis in AXES:
        garbage = _mean(expected.lost("garbage_cot", PERSONA_COT.name, axis).values())
        for label, arm in (("persona - garbage", PERSONA), ("generic - garbage", GENERIC)):
            levels["derived level", arm, axis] = garbage + expected.contrast(label, axis, MACRO, "point")
    return levels


def _like_for_like(expected: _Expected, accuracy: _Accuracy) -> Facts:
    """Section 9: the same contrast from both issues, and what the write-up should have compared."""
    facts: Facts = {}
    gaps = []
    for axis in AXES:
        new, old = {}, {}
        for unit in SOURCES:
            persona, generic = (
                expected.contrast(label, axis, unit, "point") for label in ("persona - garbage", "generic - garbage")
            )
            new[unit] = persona - generic
            old[unit] = accuracy.contrast(PERSONA, GENERIC, PERSONA_COT.name, axis, unit)
            gaps.append(abs(new[unit] - old[unit]))
        facts["like for like", f"persona - generic {axis}", "#280"] = _mean(new.values())
        facts["like for like", f"persona - generic {axis}", "#186"] = _mean(old.values())
        if axis == BYSTANDER:
            block = ("claims", f"persona - generic @ {PERSONA_COT.name} {axis}")
            facts |= {(*block, unit): value for unit, value in (old | {MACRO: _mean(old.values())}).items()}
    facts["like for like", "persona - generic", "largest gap of a source"] = max(gaps)
    matched = _mean(accuracy.contrast(PERSONA, NO_COT, PERSONA_COT.name, BYSTANDER, s) for s in SOURCES)
    facts["like for like", f"persona - no_cot @ {PERSONA_COT.name} {BYSTANDER}", "#186"] = matched
    facts["claims", f"persona - no_cot {BYSTANDER}", "#186"] = matched
    macro = {label: expected.contrast(label, BYSTANDER, MACRO, "point") for label, axis in expected.contrasts}
    facts["like for like", f"persona - garbage @ {PERSONA_COT.name} {BYSTANDER}", "#280"] = macro["persona - garbage"]
    floor = macro["contradicting - generic"] + macro["generic - garbage"]
    facts["like for like", f"contradicting - garbage {BYSTANDER}", "#280"] = floor
    return facts


def _of_186(accuracy: _Accuracy) -> Facts:
    """H1 of #186: persona minus no_cot under the scaffold without a rationale."""
    found = {source: accuracy.contrast(PERSONA, NO_COT, NO_COT, BYSTANDER, source) for source in SOURCES}
    block = ("#186 persona - no_cot @ no_cot", BYSTANDER)
    facts: Facts = {(*block, source): value for source, value in found.items()}
    facts[*block, MACRO] = _mean(found.values())
    facts[*block, f"{MACRO} without police_officer"] = _mean(v for s, v in found.items() if s != "police_officer")
    return facts


def _mean(values: Any) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)
