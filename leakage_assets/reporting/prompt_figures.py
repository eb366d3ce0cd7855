"""Figures of studies in which prompts, axes and recipes are compared: heatmaps, intervals, signed bars, trade-offs.

In the theme of ``figures``; every builder takes a plain polars table with the columns its docstring names.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from leakage_assets.reporting.figures import (
    FRAME_HEIGHT,
    INK,
    MUTED,
    PAPER,
    RATE_AXIS,
    FigureError,
    _bars,
    _hover,
    _padded,
    _panels,
    _require,
    _require_columns,
    _style,
    _values,
)

if TYPE_CHECKING:
    import polars as pl

SCALE = ((0.0, "#f4f7fa"), (0.5, "#7fb2d6"), (1.0, "#00558a"))
"""From nearly white to a dark blue, as legible in grey."""

MARK = "◆"
ROW, COLUMN = 25, 92
DODGE = 0.66
"""The part of the distance between two labels over which the series of a label are spread."""


def rate_heatmap(
    table: pl.DataFrame,
    *,
    title: str,
    x_title: str,
    y_title: str | None = None,
    group: str | None = None,
    marked: str | None = None,
    what: str = "marker rate",
) -> go.Figure:
    """Rates as a grid of colours with their percentages.

    Args:
        table: columns `row`, `column`, `rate` (a fraction), one row per cell; rows and columns are drawn in the order
            in which they first occur, and a cell without row stays blank. Optional `found` and `total` (for the hover
            text).
        group: a column that is the same over a row of the grid; a line separates groups, which must not be torn.
        marked: a boolean column; marked cells carry a diamond before the percentage.
        what: the rates are of; titles the colour bar.

    Raises:
        MissingRowsError: fewer than two cells. FigureError: a missing column, an empty cell, a cell that occurs twice.
    """
    _require(table, ["row", "column", "rate", *([group] if group else []), *([marked] if marked else [])], "rate grid")
    if table.select("row", "column").is_duplicated().any():
        raise FigureError("rate grid: a cell occurs twice; pass one recipe")
    rows, columns = _values(table, "row"), _values(table, "column")
    cells = {(row["row"], row["column"]): row for row in table.iter_rows(named=True)}
    figure, _ = _panels([""], title)
    figure.add_trace(
        go.Heatmap(
            x=[escape(name) for name in columns],
            y=[escape(name) for name in rows],
            z=[[_of(cells, row, column, "rate") for column in columns] for row in rows],
            text=[[_percent(cells.get((row, column)), marked) for column in columns] for row in rows],
            texttemplate="%{text}",
            textfont={"size": 12},
            hovertext=[[_cell_hover(cells.get((row, column)), what) for column in columns] for row in rows],
            hoverinfo="text",
            zmin=0,
            zmax=1,
            colorscale=[list(stop) for stop in SCALE],
            colorbar={"tickformat": ".0%", "thickness": 12, "outlinewidth": 0, "title": {"text": what}},
            xgap=1.5,
            ygap=1.5,
        ),
        row=1,
        col=1,
    )
    if group is not None:
        for edge in _edges([_group_of(table, row, group) for row in rows]):
            figure.add_hline(y=edge, line={"color": INK, "width": 1.4})
    figure.update_xaxes(title=x_title, showgrid=False, ticks="", categoryorder="array", categoryarray=list(columns))
    figure.update_yaxes(
        title=y_title, showgrid=False, ticks="", autorange="reversed", categoryorder="array", categoryarray=list(rows)
    )
    figure.update_layout(height=max(320, FRAME_HEIGHT + ROW * len(rows)))
    figure.update_layout(meta={"min_width": 260 + COLUMN * len(columns)})
    return figure


def interval_plot(table: pl.DataFrame, *, title: str, x_title: str, zero: bool = True) -> go.Figure:
    """Estimates with their intervals, several series beside one another for each label.

    Args:
        table: columns `label` (on the vertical axis, in order), `series`, `estimate`; optional `ci_low`, `ci_high`
            (a row without has no bar), `n`. One row per (label, series).
        zero: a line at 0.

    Raises:
        MissingRowsError: fewer than two estimates. FigureError: as ``rate_heatmap``.
    """
    _require(table, ["label", "series", "estimate"], "estimates by label")
    if table.select("label", "series").is_duplicated().any():
        raise FigureError("estimates by label: more than one row for a (label, series)")
    labels, series = _values(table, "label"), _values(table, "series")
    figure, _ = _panels([""], title)
    for position, name in enumerate(series):
        rows = table.filter(series=name)
        colour, symbol, _ = _style(position)
        shift = DODGE * ((position + 0.5) / len(series) - 0.5)
        figure.add_trace(
            go.Scatter(
                x=rows["estimate"].to_list(),
                y=[labels.index(label) + shift for label in rows["label"]],
                error_x=_bars(rows, "estimate", colour),
                name=escape(name),
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 9},
                hovertext=[
                    _hover(row, row["label"], [("", name), ("estimate", row["estimate"])])
                    for row in rows.iter_rows(named=True)
                ],
                hoverinfo="text",
            ),
            row=1,
            col=1,
        )
    if zero:
        figure.add_vline(x=0, line={"color": MUTED, "width": 1})
    figure.update_xaxes(title=x_title)
    _label_axis(figure, labels)
    figure.update_layout(height=max(320, FRAME_HEIGHT + 26 * len(labels) * len(series)))
    return figure


def signed_bars(
    table: pl.DataFrame, *, title: str, x_title: str, points: pl.DataFrame | None = None, points_name: str = ""
) -> go.Figure:
    """A bar per label for values on both sides of 0.

    Args:
        table: columns `label` (in order), `value`; optional `series` (colours the bars), `n`.
        points: columns `label`, `value`, `name`: single values drawn on the bar of their label, such as those that it
            is the mean of.

    Raises:
        MissingRowsError: fewer than two bars. FigureError: as ``rate_heatmap``, or a point without bar.
    """
    coloured = "series" in table.columns
    _require(table, ["label", "value", *(["series"] if coloured else [])], "signed values")
    if table["label"].is_duplicated().any():
        raise FigureError("signed values: a label occurs twice")
    labels = _values(table, "label")
    figure, _ = _panels([""], title)
    for position, name in enumerate(_values(table, "series") if coloured else [""]):
        rows = table.filter(series=name) if coloured else table
        colour, _, _ = _style(position)
        figure.add_trace(
            go.Bar(
                x=rows["value"].to_list(),
                y=[labels.index(label) for label in rows["label"]],
                orientation="h",
                name=escape(name),
                marker={"color": colour},
                showlegend=coloured,
                hovertext=[_hover(row, row["label"], [(x_title, row["value"])]) for row in rows.iter_rows(named=True)],
                hoverinfo="text",
                textposition="none",
            ),
            row=1,
            col=1,
        )
    values = table["value"].to_list()
    if points is not None and points.height:
        _require_columns(points, ["label", "value", "name"], "points on bars")
        lost = [label for label in points["label"] if label not in labels]
        if lost:
            raise FigureError(f"points on bars: no bar for {lost[0]!r}")
        figure.add_trace(
            go.Scatter(
                x=points["value"].to_list(),
                y=[labels.index(label) for label in points["label"]],
                mode="markers",
                name=escape(points_name),
                marker={"color": INK, "symbol": "diamond", "size": 8, "line": {"color": PAPER, "width": 0.5}},
                hovertext=[_hover(row, row["name"], [(x_title, row["value"])]) for row in points.iter_rows(named=True)],
                hoverinfo="text",
            ),
            row=1,
            col=1,
        )
        values += points["value"].to_list()
    figure.add_vline(x=0, line={"color": MUTED, "width": 1})
    figure.update_xaxes(title=x_title, range=_padded([0.0, *values]))
    _label_axis(figure, labels)
    figure.update_layout(barmode="overlay", height=max(320, FRAME_HEIGHT + 34 * len(labels)))
    return figure


def trade_off(
    table: pl.DataFrame, *, title: str, x_title: str, y_title: str, y_range: Sequence[float] = (-0.25, 1.05)
) -> go.Figure:
    """Labelled points of two shares, with intervals of both, joined within a series in the order of the table.

    Args:
        table: columns `series`, `name` (for the hover text), `label` (printed beside the point; may be an empty text),
            `x`, `y` (fractions); optional `x_low`, `x_high`, `y_low`, `y_high` (empty where there is no interval).

    Raises:
        MissingRowsError: fewer than two points. FigureError: as ``rate_heatmap``.
    """
    _require(table, ["series", "name", "label", "x", "y"], "trade-off")
    figure, _ = _panels([""], title)
    for position, name in enumerate(_values(table, "series")):
        rows = table.filter(series=name)
        colour, symbol, dash = _style(position)
        figure.add_trace(
            go.Scatter(
                x=rows["x"].to_list(),
                y=rows["y"].to_list(),
                error_x=_axis_bars(rows, "x", colour),
                error_y=_axis_bars(rows, "y", colour),
                name=escape(name),
                mode="lines+markers+text" if rows.height > 1 else "markers+text",
                line={"color": colour, "width": 1.2, "dash": dash},
                marker={"color": colour, "symbol": symbol, "size": 9},
                text=[escape(str(label)) for label in rows["label"]],
                textposition="top right" if position % 2 == 0 else "bottom right",
                textfont={"size": 11},
                hovertext=[
                    _hover(row, row["name"], [("", name), (x_title, row["x"]), (y_title, row["y"])])
                    for row in rows.iter_rows(named=True)
                ],
                hoverinfo="text",
            ),
            row=1,
            col=1,
        )
    figure.add_hline(y=0, line={"color": MUTED, "width": 1})
    figure.update_xaxes(title=x_title, **RATE_AXIS)
    lowest = min([float(y_range[0]), *(value - 0.05 for value in table["y"])])
    figure.update_yaxes(title=y_title, tickformat=".0%", range=[lowest, float(y_range[1])])
    figure.update_layout(height=520)
    return figure


# ------------------------------------------------------------------ parts


def _of(cells: Any, row: str, column: str, key: str) -> float | None:
    found = cells.get((row, column))
    return None if found is None else found[key]


def _percent(cell: Any, marked: str | None) -> str:
    if cell is None:
        return ""
    text = f"{cell['rate']:.0%}"
    return f"{MARK} {text}" if marked and cell[marked] else text


def _cell_hover(cell: Any, what: str) -> str:
    return "" if cell is None else _hover(cell, cell["row"], [("", cell["column"]), (what, cell["rate"])])


def _group_of(table: pl.DataFrame, row: str, group: str) -> str:
    names = table.filter(row=row)[group].unique().to_list()
    if len(names) > 1:
        raise FigureError(f"rate grid: row {row!r} is in {len(names)} groups")
    return str(names[0])


def _edges(groups: Sequence[str]) -> list[float]:
    """Between which rows a group ends."""
    edges = [place + 0.5 for place, (one, other) in enumerate(pairwise(groups)) if one != other]
    if len(edges) + 1 != len(set(groups)):
        raise FigureError("rate grid: the rows of a group do not stand together; sort them")
    return edges


def _label_axis(figure: go.Figure, labels: Sequence[str]) -> None:
    """Numbers on the vertical axis, so that series can stand side by side, with the labels as their ticks."""
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(labels))),
        ticktext=[escape(label) for label in labels],
        range=[len(labels) - 0.4, -0.6],
        showgrid=False,
        ticks="",
    )


def _axis_bars(rows: pl.DataFrame, axis: str, colour: str) -> dict[str, Any] | None:
    low, high = f"{axis}_low", f"{axis}_high"
    if not {low, high} <= set(rows.columns):
        return None
    return _bars(rows.rename({low: "ci_low", high: "ci_high"}), axis, colour)
