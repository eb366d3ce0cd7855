"""Right and wrong answers as arrays: y, and the losses d = y of the base - y of an adapter (section 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from leakage_assets.generation.requests import BASE
from leakage_assets.statistics.resampling import Floats
from leakage_assets.studies.cot_leakage.arms import LossMask, arm_of_recipe
from leakage_assets.studies.cot_leakage.design import SOURCE_LOSS, Axis
from leakage_assets.studies.cot_leakage.evaluation import EvaluationError
from leakage_assets.studies.study import Condition

Scores = NDArray[np.int8]
"""(scaffolds, personas, questions), 1 where the answer is right."""


GRID = ("scaffold", "prompt_name", "question_name")


@dataclass(frozen=True, slots=True, order=True)
class CotCell:
    """One adapter: what it was trained on, under whom, and with which seed."""

    source: str
    arm: str
    seed: int


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The scores of the base and of every finished adapter of one loss mask, on the same panel."""

    scaffolds: tuple[str, ...]
    personas: tuple[str, ...]
    questions: tuple[str, ...]
    base: Scores
    cells: Mapping[CotCell, Scores]

    def seeds(self, source: str, *arms: str) -> tuple[int, ...]:
        """The seeds that every one of these arms has under a source, ascending."""
        found = [{c.seed for c in self.cells if (c.source, c.arm) == (source, name)} for name in arms]
        return tuple(sorted(set.intersection(*found))) if found else ()

    def loss(self, source: str, arm: str, scaffold: str, axis: Axis, seeds: Sequence[int]) -> Floats:
        """d of one arm under one source: (seeds, questions), mean over the bystanders on their axis.

        Raises ``EvaluationError`` for a scaffold or source that the panel lacks, or an adapter that is not finished.
        """
        place, own = self._place(scaffold, self.scaffolds, "scaffold"), self._place(source, self.personas, "persona")
        missing = [seed for seed in seeds if CotCell(source, arm, seed) not in self.cells]
        if missing:
            raise EvaluationError(f"{source}, {arm}, seed {missing[0]}: no finished evaluation")
        scores = np.stack([self.cells[CotCell(source, arm, seed)][place] for seed in seeds])
        lost = self.base[place] - scores  # (seeds, personas, questions), each -1, 0 or 1
        if axis == SOURCE_LOSS:
            own_loss: Floats = lost[:, own].astype(np.float64)
            return own_loss
        others = lost.sum(axis=1, dtype=np.int64) - lost[:, own]
        return np.asarray(others / (len(self.personas) - 1), dtype=np.float64)

    def accuracy(self, arm: str | None, scaffold: str, source: str, axis: Axis) -> float | None:
        """Mean accuracy of an arm under a source (None: the base), its seeds together, for the source or the others.

        None where no adapter of it is finished.
        """
        place, own = self._place(scaffold, self.scaffolds, "scaffold"), self._place(source, self.personas, "persona")
        found = [s for c, s in self.cells.items() if (c.source, c.arm) == (source, arm)] if arm else [self.base]
        if not found:
            return None
        scores = np.stack([scores[place] for scores in found])
        if axis == SOURCE_LOSS:
            return float(scores[:, own].mean())
        return float(np.delete(scores, own, axis=1).mean())

    @staticmethod
    def _place(name: str, names: tuple[str, ...], kind: str) -> int:
        if name not in names:
            raise EvaluationError(f"no {kind} {name!r} in the panel; {kind}s: {', '.join(names)}")
        return names.index(name)


def cell_of(adapter: str) -> tuple[CotCell, LossMask]:
    """The cell that an adapter's name stands for, and its mask.

    Raises ``EvaluationError``, ``StudyError`` or ``ArmError`` for another name, by the part that is wrong.
    """
    parts = adapter.split("/")
    if len(parts) != 3 or not parts[2].isdigit():
        raise EvaluationError(f"adapter {adapter!r}: expected <study>/<source>__<arm>_<mask>/<seed>")
    condition = Condition.parse(parts[1])
    one, mask = arm_of_recipe(condition.recipe)
    return CotCell(condition.source, one.name, int(parts[2])), mask


def outcomes(choices: pl.DataFrame, mask: LossMask) -> Outcomes:
    """The first pass over the panel as arrays; adapters trained under another mask are left out.

    ``choices`` as ``evaluation.read_choices`` gives them, those of the base included. Raises ``EvaluationError``
    without the base, or for an adapter that was not asked exactly what the base was.
    """
    first = choices.filter(pl.col("repeat") == 0)
    base = first.filter(pl.col("adapter") == BASE)
    if base.is_empty():
        raise EvaluationError("no answers of the untrained base; evaluate it first: every loss is measured from it")
    scaffolds, personas, questions = (tuple(base[column].unique().sort()) for column in GRID)
    names = (scaffolds, personas, questions)
    grid = base.select(GRID).sort(GRID)
    cells = {}
    for (adapter,), part in first.filter(pl.col("adapter") != BASE).group_by("adapter", maintain_order=True):
        cell, trained_with = cell_of(str(adapter))
        if trained_with == mask:
            cells[cell] = _scores(str(adapter), part, grid, names)
    return Outcomes(scaffolds, personas, questions, _scores(BASE, base, grid, names), cells)


def _scores(adapter: str, answers: pl.DataFrame, grid: pl.DataFrame, names: tuple[tuple[str, ...], ...]) -> Scores:
    ordered = answers.sort(GRID)
    shape = tuple(len(part) for part in names)
    if ordered.height != np.prod(shape) or not ordered.select(GRID).equals(grid):
        raise EvaluationError(
            f"{adapter}: {ordered.height} answers, the base has {' x '.join(map(str, shape))} "
            "(scaffolds x personas x questions); evaluate it on the same panel"
        )
    return ordered["right"].cast(pl.Int8).to_numpy().reshape(shape)
