"""What every section of the report of marker leakage is written from, and how a number is cited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from leakage_assets.reporting.report import Block, Bound, FigureBlock, bound_cell
from leakage_assets.statistics.layers import POOLED
from leakage_assets.studies.context import ReportContext
from leakage_assets.studies.marker_leakage.figures import Tables, drawings, of_recipe
from leakage_assets.studies.study import AnalysisPlan, Study

if TYPE_CHECKING:
    import plotly.graph_objects as go

RHO, RATE = "+.2f", ".1%"

Row = dict[str, str | Bound]

HEADLINE = {
    "pooled_spearman": ("Pooled ρ of cosine and marker rate", RHO),
    "within_source_spearman": ("The same, ranks within each source", RHO),
    "pooled_spearman_question_bootstrap": ("Pooled ρ, questions resampled", RHO),
    "pooled_spearman_js": ("Pooled ρ of JS divergence and marker rate", RHO),
    "mean_source_rate": ("Mean source rate", RATE),
    "mean_bystander_rate": ("Mean bystander rate", RATE),
    "bystander_to_source_ratio": ("Bystander rate / source rate", ".2f"),
    "mean_source_rate_source_bootstrap": ("Mean source rate, sources resampled", RATE),
    "mean_bystander_rate_source_bootstrap": ("Mean bystander rate, sources resampled", RATE),
    "bystander_to_source_ratio_source_bootstrap": ("Bystander rate / source rate, sources resampled", ".2f"),
    "sources_learned": ("Sources that learned the marker", ".0f"),
    "sources_gated": ("Sources whose leakage is gated", ".0f"),
    "control_marker_rate": ("Marker rate of the control recipe", RATE),
}
"""How each headline statistic is called and printed."""


@dataclass(frozen=True)
class Citations:
    """The newest analysis of a study, and the numbers of it that prose has cited so far.

    A cell of a table takes a ``Bound``, from ``bound``. Prose takes a placeholder, from ``bind`` and the methods that
    call it: each enters its value in ``bindings``, which alone grows while the sections are written.
    """

    study: Study
    tables: Tables
    context: ReportContext
    drawn: Mapping[str, go.Figure]
    left_out: Mapping[str, str]
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
        return self.cell("headline", column, HEADLINE[statistic][1] if spec is None else spec, statistic=statistic)

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
        if name in self.drawn:
            caption = next(d.caption for d in drawings(self.study) if d.name == name)
            yield FigureBlock(name, self.drawn[name], caption)

    def finished_sources(self) -> list[str]:
        """Sources with a finished cell of the headline recipe, in the order of the study."""
        present = set(self.rows("rates")["source"])
        return [source for source in self.study.sources if source in present]

    def role(self, recipe: str) -> str:
        """What is written after the name of a recipe."""
        return {self.recipe: " (headline)", self.plan.control_recipe: " (control)"}.get(recipe, "")


def source_name(name: str) -> str:
    """A source, or the row of all pairs, in the first column of a table."""
    return "**all pairs**" if name == POOLED else f"`{name}`"


def code_list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
