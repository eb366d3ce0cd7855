"""Histograms of shares, such as where in an answer a marker stands; in the theme of ``figures``."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from leakage_assets.reporting.figures import (
    FRAME_HEIGHT,
    PANEL_HEIGHT,
    FigureError,
    _hover,
    _panels,
    _require,
    _style,
    _values,
)

if TYPE_CHECKING:
    import polars as pl


def share_histogram(
    table: pl.DataFrame,
    *,
    title: str,
    x_title: str,
    y_title: str = "share of a series",
    series: Sequence[str] | None = None,
    bins: int = 20,
) -> go.Figure:
    """One panel per group: which share of each series lies where between 0 and 1.

    Args:
        table: columns `panel`, `series`, `value` (a fraction), one row per observation; panels are drawn in the order
            in which they first occur.
        series: their order; that of their first occurrence by default.
        bins: of equal width; a value of 1 belongs to the last.

    Raises:
        MissingRowsError: fewer than two observations. FigureError: a missing column, an empty cell, or a value that is
            no fraction.
    """
    _require(table, ["panel", "series", "value"], "observations")
    if not table["value"].is_between(0, 1).all():
        raise FigureError("observations: a value is no fraction; divide positions by the length of their text")
    panels, series = _values(table, "panel"), series or _values(table, "series")
    figure, cells = _panels(panels, title, x_title=x_title, y_title=y_title, columns=2, spacing=0.08, min_width=380)
    edges = np.linspace(0, 1, bins + 1)
    shown: set[str] = set()
    for panel, (row, col) in zip(panels, cells, strict=True):
        for position, name in enumerate(series):
            values = table.filter(panel=panel, series=name)["value"].to_numpy()
            if not len(values):
                continue
            counts = np.histogram(values, bins=edges)[0]
            colour, _, _ = _style(position)
            # An outline rather than bars: two series can be seen through each other.
            steps = np.repeat(counts / len(values), 2).tolist()
            hover = [
                _hover({"n": int(count)}, name, [(x_title, f"{low:.2f} to {low + 1 / bins:.2f}"), ("of", len(values))])
                for low, count in zip(edges, counts, strict=False)
                for _ in range(2)
            ]
            outline = go.Scatter(
                x=[0.0, *np.repeat(edges, 2)[1:-1].tolist(), 1.0],
                y=[0.0, *steps, 0.0],
                mode="lines",
                line={"color": colour, "width": 1.2},
                fill="toself",
                fillcolor=colour,
                opacity=0.6,
                name=escape(name),
                legendgroup=name,
                showlegend=name not in shown,
                hovertext=["", *hover, ""],
                hoverinfo="text",
            )
            shown.add(name)
            figure.add_trace(outline, row=row, col=col)
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    figure.update_yaxes(range=[0, 1.05], tickformat=".0%")
    height = FRAME_HEIGHT + PANEL_HEIGHT * len({row for row, _ in cells})
    figure.update_layout(height=height)
    return figure
