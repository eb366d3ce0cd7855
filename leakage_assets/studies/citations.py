"""What every section of a study's report is written from, and how a number is cited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from leakage_assets.reporting.report import Block, Bound, FigureBlock, bound_cell
from leakage_assets.studies.context import ReportContext
from leakage_assets.studies.drawings import Tables, of_recipe
from leakage_assets.studies.study import AnalysisPlan, Study

RHO, RATE, POINTS, LIMIT = "+.2f", ".1%", "points", "unsigned points"

Row = dict[str, str | Bound]


@dataclass(frozen=True)
class Citations:
    """The newest analysis of a study, and the numbers of it that prose has cited so far.

    ``left_out`` says what the figures lack that could not be drawn, ``labels`` how each headline statistic is called
    and printed.

    A cell of a table takes a ``Bound``, from ``bound``. Prose takes a placeholder, from ``bind`` and the methods that
    call it: each enters its value in ``bindings``, which alone grows while the sections are written.
    """

    study: Study
    tables: Tables
    context: ReportContext
    figures: Mapping[str, FigureBlock]
    left_out: Mapping[str, str]
    labels: Mapping[str, tuple[str, str]]
    bindings: dict[str, Bound] = field(default_factory=dict)

    @property
    def plan(self) -> AnalysisPlan:
        return self.study.plan

    @property
    def recipe(self) -> str:
        """The headline recipe."""
        return self.plan.headline_recipe

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.context.facts

    @property
    def has_headline(self) -> bool:
        """Whether a cell of the headline recipe is finished."""
        return bool(self.facts["recipes"][self.recipe]["cells"] > 0)

    @property
    def seeds(self) -> int:
        """Seeds of the headline recipe that every finished source has."""
        return int(self.facts["recipes"][self.recipe]["seeds"])

    # -------------------------------------------------------------- numbers

    def bound(self, table: str, column: str, spec: str, **keys: Any) -> Bound:
        """The value of a column in the one row of an analysis table that has these keys."""
        return bound_cell(self.tables[table], self.context.table(table), column, spec, keys)

    def bind(self, bound: Bound) -> str:
        """The placeholder under which prose prints a bound value."""
        key = f"n{len(self.bindings)}"
        self.bindings[key] = bound
        return f"{{{key}}}"

    def cell(self, table: str, column: str, spec: str, **keys: Any) -> str:
        return self.bind(self.bound(table, column, spec, **keys))

    def headline(self, statistic: str, column: str = "estimate", spec: str | None = None) -> str:
        return self.cell("headline", column, self.labels[statistic][1] if spec is None else spec, statistic=statistic)

    def fact(self, *keys: str | int, spec: str = "") -> str:
        return self.bind(self.context.fact(*keys, spec=spec))

    def planned(self, key: str, spec: str = "") -> str:
        return self.bind(self.context.planned(key, value=getattr(self.plan, key), spec=spec))

    # -------------------------------------------------------------- parts that several sections share

    def rows(self, name: str, **where: Any) -> pl.DataFrame:
        """Rows of the headline recipe in a table that may be absent."""
        return of_recipe(self.tables.get(name, pl.DataFrame()), self.recipe, **where)

    def figure(self, name: str) -> Iterator[Block]:
        """The figure with its caption; nothing where it could not be drawn."""
        if name in self.figures:
            yield self.figures[name]

    def finished_sources(self) -> list[str]:
        """Sources with a finished cell of the headline recipe, in the order of the study."""
        present = set(self.rows("rates")["source"])
        return [source for source in self.study.sources if source in present]

    def role(self, recipe: str) -> str:
        """What is written after the name of a recipe."""
        return {self.recipe: " (headline)", self.plan.control_recipe: " (control)"}.get(recipe, "")


def code_list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
