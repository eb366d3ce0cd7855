"""The planned figures of a study: which of them the finished cells allow, and what the others lack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import polars as pl

if TYPE_CHECKING:
    import plotly.graph_objects as go

Tables = Mapping[str, pl.DataFrame]
S = TypeVar("S")
"""What a figure is drawn for: the study, or its plan."""


@dataclass(frozen=True)
class Drawing(Generic[S]):
    """One planned figure: its caption (inline markdown), how it is drawn, and what it needs to exist."""

    name: str
    caption: str
    draw: Callable[[S, Tables], go.Figure]
    needs: str


def draw_all(
    planned: Callable[[S], Sequence[Drawing[S]]], subject: S, tables: Tables
) -> tuple[dict[str, go.Figure], dict[str, str]]:
    """The figures planned for a subject, by name, and for each that cannot be drawn what it lacks (inline markdown)."""
    from leakage_assets.reporting.figures import MissingRowsError

    drawn: dict[str, go.Figure] = {}
    left_out: dict[str, str] = {}
    for drawing in planned(subject):
        try:
            drawn[drawing.name] = drawing.draw(subject, tables)
        except MissingRowsError:
            left_out[drawing.name] = drawing.needs
    return drawn, left_out


def of_recipe(table: pl.DataFrame, recipe: str, **where: Any) -> pl.DataFrame:
    """The rows of a recipe. A table of an analysis in which nothing qualified may lack every column."""
    return table.filter(recipe=recipe, **where) if {"recipe", *where} <= set(table.columns) else table.clear()
