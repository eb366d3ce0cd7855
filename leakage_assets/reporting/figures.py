"""Plotly figures of the leakage results, in one theme.

Every builder takes a plain polars table with the columns its docstring names and returns a
`plotly.graph_objects.Figure`; a table with fewer than two usable rows raises `MissingRowsError`. Colours are
the Okabe-Ito ones that stay legible on white and on dark grey; a sixth series changes the symbol or the dash,
never the palette. A series keeps its style in all figures as long as the tables list the series in the same
order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from leakage_assets.reporting.report import format_value
from leakage_assets.statistics.result import Estimate

if TYPE_CHECKING:
    import polars as pl

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7")
SYMBOLS = ("circle", "diamond", "square", "triangle-up")
DASHES = ("solid", "dash", "dot", "dashdot")

INK, MUTED, PAPER, GRID = "#1f2328", "#5b6470", "#ffffff", "#e4e7eb"
# What the report's script swaps when the reader's system is dark.
DARK = {INK: "#e6e8eb", MUTED: "#a0a8b3", PAPER: "#16181d", GRID: "#33383f", "#0072B2": "#3d9fdc"}

# How plotly.js shows a figure. The buttons are listed because its own set has one that uploads the chart.
CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
}

POOLED = "pooled"
RATE_AXIS = {"tickformat": ".0%", "range": [-0.03, 1.18]}  # whole points at 0% and 100%, and the estimate above them
BAR_AXIS = {"tickformat": ".0%", "range": [0, 1.05]}
PANEL_HEIGHT, FRAME_HEIGHT = 270, 150
LABELLED_HEIGHT = 560
LABEL_SIZE, LABEL_WIDTH, PANEL_WIDTH = 11, 6.2, 860
"""Pixels: the type of a label, one character of it, and a panel on a page of usual width."""

PLACES = ("top right", "bottom right", "top left", "bottom left", "middle right", "middle left", "top center")
MAX_COLUMNS = 3


class FigureError(ValueError):
    """A table that cannot be drawn."""


class MissingRowsError(FigureError):
    """A table, or one panel of it, has too few rows to draw."""


# ------------------------------------------------------------------ figures


def scatter_by_source(
    pairs: pl.DataFrame,
    *,
    title: str,
    x: str = "cosine",
    y: str = "rate",
    x_title: str,
    y_title: str = "marker rate",
    group: str | None = None,
    estimates: Mapping[str, Estimate] | None = None,
) -> go.Figure:
    """One panel per source: x of each bystander against its rate y.

    Args:
        pairs: one row per (source, bystander), the source itself excluded. Columns `source`, `persona` (the
            bystander), `x`, `y` (a fraction); optional `found` and `total` (counts, for the hover text),
            `ci_low` and `ci_high` (an interval of y, drawn as bars when present).
        group: a text column that colours the points, such as category or intended / not intended.
        estimates: the rank correlation of each panel, by source.

    Raises:
        MissingRowsError: no rows, or a source with a single row. FigureError: a missing column, an empty
            cell, a self pair.
    """
    _require(pairs, ["source", "persona", x, y, *([group] if group else [])], "bystander pairs")
    _refuse_self_pairs(pairs)
    sources = _values(pairs, "source")
    for source in sources:
        _require(pairs.filter(source=source), [], f"bystander pairs of source {source!r}")
    groups = _values(pairs, group) if group else [""]
    absent = [source for source in sources if estimates is not None and source not in estimates]
    if absent:
        raise FigureError(f"bystander pairs: no estimate for source {', '.join(absent)}")
    figure, cells = _panels(sources, title, x_title=x_title, y_title=y_title)
    shown: set[str] = set()
    for source, (row, col) in zip(sources, cells, strict=True):
        panel = pairs.filter(source=source)
        for position, name in enumerate(groups):
            points = panel.filter(panel[group].cast(str) == name) if group else panel
            if not points.height:
                continue
            trace = _points(points, name, position, x=x, y=y, x_title=x_title, y_title=y_title)
            # Plotly gives every trace a legend entry; a group has a trace in each panel.
            trace.update(legendgroup=name, showlegend=bool(group) and name not in shown)
            shown.add(name)
            figure.add_trace(trace, row=row, col=col)
        if estimates is not None:
            _annotate(figure, estimates[source], row, col)
    figure.update_xaxes(range=_padded(pairs[x].to_list()), matches="x")
    figure.update_yaxes(**RATE_AXIS, matches="y")
    figure.update_layout(xaxis={"matches": None}, yaxis={"matches": None})  # the first axis leads the others
    for row, col in cells:
        figure.update_yaxes(showticklabels=col == 1, row=row, col=col)
    return figure


def scatter_pooled(
    pairs: pl.DataFrame,
    *,
    title: str,
    x: str = "cosine",
    y: str = "rate",
    x_title: str,
    y_title: str = "marker rate",
    estimate: Estimate | None = None,
) -> go.Figure:
    """All pairs of all sources in one panel, coloured by source; otherwise as `scatter_by_source`."""
    _require(pairs, ["source", "persona", x, y], "bystander pairs")
    _refuse_self_pairs(pairs)
    figure, _ = _panels([""], title)
    for position, source in enumerate(_values(pairs, "source")):
        points = pairs.filter(source=source)
        trace = _points(points, source, position, x=x, y=y, x_title=x_title, y_title=y_title)
        figure.add_trace(trace, row=1, col=1)
    if estimate is not None:
        _annotate(figure, estimate, 1, 1)
    figure.update_layout(height=480)
    figure.update_xaxes(title=x_title, range=_padded(pairs[x].to_list()))
    figure.update_yaxes(title=y_title, **RATE_AXIS)
    return figure


def line_with_band(
    points: pl.DataFrame,
    band: pl.DataFrame,
    *,
    title: str,
    x_title: str,
    y_title: str = "marker rate",
    line_name: str = "line through the fitted points",
    band_name: str = "prediction band",
    estimate: Estimate | None = None,
) -> go.Figure:
    """Labelled points with their intervals, the line through them and its prediction band.

    Args:
        points: columns `name` (the label), `x`, `y` (a fraction), `role` (colours the points: `fitted`, `new`, ...);
            optional `ci_low`, `ci_high` (drawn as bars), `found`, `total` (for the hover text).
        band: columns `x` (ascending), `predicted`, `ci_low`, `ci_high`, as `statistics.regression.prediction_band`
            makes them. No rows: there is no line, and none is drawn.
        estimate: the correlation to print.

    Raises:
        MissingRowsError: fewer than two points. FigureError: a missing column, an empty cell, a name that repeats.
    """
    _require(points, ["name", "x", "y", "role"], "labelled points")
    _require_columns(band, ["x", "predicted", "ci_low", "ci_high"], "prediction band")
    if points["name"].is_duplicated().any():
        raise FigureError("labelled points: a name occurs twice; pass one layer and one recipe")
    figure, _ = _panels([""], title)
    if band.height:
        at = band["x"].to_list()
        edge = [*band["ci_high"], *reversed(band["ci_low"].to_list())]
        outline = {"color": MUTED, "width": 0}
        area = go.Scatter(
            x=[*at, *reversed(at)], y=edge, mode="lines", line=outline, fill="toself", fillcolor=MUTED, opacity=0.16
        )
        line = go.Scatter(x=at, y=band["predicted"].to_list(), mode="lines", line={"color": INK, "width": 2})
        for trace, name in ((area, band_name), (line, line_name)):
            figure.add_trace(trace.update(name=escape(name), hoverinfo="skip"), row=1, col=1)
    x_range = _padded([*points["x"], *band["x"]])
    places = _label_places(points, band, x_range)
    for position, role in enumerate(_values(points, "role")):
        rows = points.filter(role=role)
        colour, symbol, _ = _style(position)
        hover = [
            _hover(row, row["name"], [(x_title, row["x"]), (y_title, row["y"])]) for row in rows.iter_rows(named=True)
        ]
        trace = go.Scatter(
            x=rows["x"].to_list(),
            y=rows["y"].to_list(),
            error_y=_bars(rows, "y", colour),
            name=escape(role),
            mode="markers+text",
            marker={"color": colour, "symbol": symbol, "size": 9},
            text=[escape(name) for name in rows["name"]],
            textposition=[places[name] for name in rows["name"]],
            textfont={"size": LABEL_SIZE, "color": INK},
            cliponaxis=False,
            hovertext=hover,
            hoverinfo="text",
        )
        figure.add_trace(trace, row=1, col=1)
    if estimate is not None:
        _annotate(figure, estimate, 1, 1)
    figure.update_layout(height=LABELLED_HEIGHT)
    figure.update_xaxes(title=x_title, range=x_range)
    figure.update_yaxes(title=y_title, **RATE_AXIS)
    return figure


def layer_sensitivity(
    table: pl.DataFrame,
    *,
    title: str,
    x_title: str = "block output (index from zero)",
    y_title: str = "Spearman ρ of cosine and marker rate",
) -> go.Figure:
    """Rank correlation by layer: a bold line for the pooled pairs, a thin one per source.

    Args:
        table: a `statistics.layers.correlation_table` cut down to one coefficient: columns `layer` (block
            output index), `source` (a name, or `pooled`), `estimate` (null where undefined: a gap); optional
            `ci_low`, `ci_high` (drawn where present) and `n` (pairs, for the hover text).
    """
    _require_columns(table, ["layer", "source", "estimate"], "correlations by layer")
    if table.select("layer", "source").n_unique() < table.height:
        raise FigureError("correlations by layer: more than one row for a (layer, source); select one coefficient")
    _require(table.drop_nulls("estimate"), ["layer", "source"], "defined correlations by layer")
    table = table.sort("layer", maintain_order=True)
    figure, _ = _panels([""], title)
    sources = [name for name in _values(table, "source") if name != POOLED]
    lines = [(name, *_style(position)) for position, name in enumerate(sources)]
    for name, colour, symbol, dash in [*lines, (POOLED, INK, "circle", "solid")]:
        rows = table.filter(source=name)
        bold = name == POOLED
        if not rows.height:
            continue
        figure.add_trace(
            go.Scatter(
                x=rows["layer"].to_list(),
                y=rows["estimate"].to_list(),
                error_y=_bars(rows, "estimate", colour),
                name=escape(name),
                mode="lines+markers",
                line={"color": colour, "width": 4 if bold else 1.8, "dash": dash},
                marker={"color": colour, "symbol": symbol, "size": 9 if bold else 7},
                hovertext=[
                    _hover(row, name, [("block output", row["layer"]), ("ρ", row["estimate"])])
                    for row in rows.iter_rows(named=True)
                ],
                hoverinfo="text",
            ),
            row=1,
            col=1,
        )
    figure.add_hline(y=0, line={"color": MUTED, "width": 1})
    figure.update_layout(height=460)
    figure.update_xaxes(title=x_title, tickmode="array", tickvals=table["layer"].unique().sort().to_list())
    figure.update_yaxes(title=y_title)
    return figure


def rate_bars(
    table: pl.DataFrame, *, title: str, y_title: str = "marker rate", orientation: Literal["h", "v"] = "h"
) -> go.Figure:
    """Rates side by side for each condition, such as the source's own and the mean of its bystanders.

    Args:
        table: columns `condition`, `role` (the bars of a condition: `source`, `mean bystander`, ...), `rate`
            (a fraction); optional `ci_low`, `ci_high` (Wilson interval), `found`, `total` (counts, for the
            hover text). One row per (condition, role).
    """
    _require(table, ["condition", "role", "rate"], "rates by condition")
    if table.select("condition", "role").n_unique() < table.height:
        raise FigureError(
            "rates by condition: more than one row for a (condition, role); for single bystanders use bystander_bars"
        )
    conditions, roles = _values(table, "condition"), _values(table, "role")
    figure, _ = _panels([""], title)
    for position, role in enumerate(roles):
        figure.add_trace(
            _bar(table.filter(role=role), "condition", role, position, y_title=y_title, orientation=orientation),
            row=1,
            col=1,
        )
    names, rates = _bar_axes(figure, conditions, orientation, horizontal_height=34 * len(conditions) * len(roles))
    names(title="condition" if orientation == "v" else None)
    rates(title=y_title)
    return figure


def bystander_bars(table: pl.DataFrame, *, title: str, y_title: str = "marker rate") -> go.Figure:
    """One panel per condition with a bar per persona, in the given order: the source and its top bystanders.

    Args:
        table: columns `condition`, `persona`, `role` (colours the bar: `source`, `bystander`, ...), `rate`;
            optional columns as in `rate_bars`. One row per (condition, persona).
    """
    _require(table, ["condition", "persona", "role", "rate"], "rates by persona")
    if table.select("condition", "persona").n_unique() < table.height:
        raise FigureError("rates by persona: more than one row for a (condition, persona)")
    conditions, roles = _values(table, "condition"), _values(table, "role")
    figure, cells = _panels(conditions, title, x_title=y_title, columns=2, spacing=0.3, min_width=420)
    deepest = 0
    shown: set[str] = set()
    for condition, (row, col) in zip(conditions, cells, strict=True):
        panel = table.filter(condition=condition)
        deepest = max(deepest, panel.height)
        for position, role in enumerate(roles):
            bars = panel.filter(role=role)
            if not bars.height:
                continue
            bar = _bar(bars, "persona", role, position, y_title=y_title, orientation="h")
            bar.update(legendgroup=role, showlegend=role not in shown)
            shown.add(role)
            figure.add_trace(bar, row=row, col=col)
        order = [escape(name) for name in panel["persona"]]
        figure.update_yaxes(categoryorder="array", categoryarray=order, autorange="reversed", row=row, col=col)
    figure.update_layout(barmode="overlay", height=FRAME_HEIGHT + len({row for row, _ in cells}) * (80 + 26 * deepest))
    figure.update_yaxes(showgrid=False, ticks="")
    figure.update_xaxes(**BAR_AXIS)
    return figure


# ------------------------------------------------------------------ parts


def theme() -> go.layout.Template:
    """White paper, quiet grid, readable sizes, legend below the plot."""
    axis: dict[str, Any] = {
        "gridcolor": GRID,
        "linecolor": MUTED,
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "tickcolor": MUTED,
        "ticklen": 4,
        "title": {"standoff": 8, "font": {"size": 14}},
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {
                "family": "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif",
                "size": 13,
                "color": INK,
            },
            "title": {
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "y": 0.98,
                "yanchor": "top",
                "pad": {"l": 16, "t": 8},
                "font": {"size": 16},
            },
            "paper_bgcolor": PAPER,
            "plot_bgcolor": PAPER,
            "colorway": list(PALETTE),
            "xaxis": axis,
            "yaxis": axis,
            "legend": {
                "orientation": "h",
                "yref": "container",
                "y": 0.01,
                "yanchor": "bottom",
                "x": 0,
                "xanchor": "left",
            },
            "margin": {"l": 70, "r": 24, "t": 76, "b": 96},
            "hoverlabel": {
                "bgcolor": PAPER,
                "bordercolor": MUTED,
                "font": {"color": INK, "size": 13},
                "align": "left",
            },
            "bargap": 0.25,
        }
    )


def _panels(
    names: Sequence[str],
    title: str,
    *,
    x_title: str | None = None,
    y_title: str | None = None,
    columns: int = MAX_COLUMNS,
    spacing: float = 0.045,
    min_width: int = 290,
) -> tuple[go.Figure, list[tuple[int, int]]]:
    """An empty grid with a panel per name and shared axis titles; and the (row, column) of each panel."""
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    height = FRAME_HEIGHT + PANEL_HEIGHT * rows
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[escape(name) for name in names],
        x_title=x_title,
        y_title=y_title,
        horizontal_spacing=spacing,
        vertical_spacing=78 / (height - FRAME_HEIGHT) if rows > 1 else 0,
    )
    cells = [(1 + position // columns, 1 + position % columns) for position in range(len(names))]
    for row in range(1, rows + 1):
        for col in range(1, columns + 1):
            if (row, col) not in cells:
                figure.update_xaxes(visible=False, row=row, col=col)
                figure.update_yaxes(visible=False, row=row, col=col)
    for note in figure.layout.annotations:
        note.font.size = 14
        if note.text == x_title and note.yanchor == "top":
            note.yshift = -28
        if note.text == y_title and note.textangle == -90:
            note.xshift = -44
    figure.update_layout(template=theme(), title={"text": escape(title)}, height=height)
    figure.update_layout(meta={"min_width": min_width * max(columns, 2)})  # the page scrolls rather than squeezes
    if not any(names):
        figure.update_layout(margin={"t": 52})  # no panel titles to make room for
    return figure, cells


def _points(
    points: pl.DataFrame, name: str, position: int, *, x: str, y: str, x_title: str, y_title: str
) -> go.Scatter:
    colour, symbol, _ = _style(position)
    hover = [
        _hover(row, row["persona"], [("source", row["source"]), (x_title, row[x]), (y_title, row[y])])
        for row in points.iter_rows(named=True)
    ]
    return go.Scatter(
        x=points[x].to_list(),
        y=points[y].to_list(),
        error_y=_bars(points, y, colour),
        name=escape(name),
        mode="markers",
        marker={
            "color": colour,
            "symbol": symbol,
            "size": 7,
            "opacity": 0.75,
            "line": {"color": PAPER, "width": 0.5},
        },
        hovertext=hover,
        hoverinfo="text",
    )


def _label_places(points: pl.DataFrame, band: pl.DataFrame, x_range: Sequence[float]) -> dict[str, str]:
    """Where each label stands beside its point: where it covers least of the points, bars, line and labels set before.

    Reckoned for a page of usual width; on another one labels may touch.
    """
    across, up = PANEL_WIDTH / (x_range[1] - x_range[0]), (LABELLED_HEIGHT - FRAME_HEIGHT) / 1.08

    def pixels(x: float, y: float) -> tuple[float, float]:
        return across * (x - x_range[0]), up * y

    centres = {name: pixels(x, y) for name, x, y in points.select("name", "x", "y").iter_rows()}
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in centres.values()]
    taken += [(x - 4, y - 2, x + 4, y + 2) for x, y in map(pixels, band["x"], band["predicted"])]
    taken += [(PANEL_WIDTH, -1e4, 1e4, 1e4), (-1e4, -1e4, 0.0, 1e4)]  # beside the panel
    if {"ci_low", "ci_high"} <= set(points.columns):
        ends = points.drop_nulls(["ci_low", "ci_high"]).select("x", "ci_low", "ci_high")
        taken += [
            (pixels(x, low)[0] - 2, up * low, pixels(x, low)[0] + 2, up * high) for x, low, high in ends.iter_rows()
        ]
    places = {}
    for name, (x, y) in centres.items():
        options = [(_label_box(x, y, LABEL_WIDTH * len(name), place), place) for place in PLACES]
        box, places[name] = min(options, key=lambda option: _overlap(option[0], taken))
        taken.append(box)
    return places


def _label_box(x: float, y: float, width: float, place: str) -> tuple[float, float, float, float]:
    """Left, bottom, right, top in pixels."""
    vertical, horizontal = place.split()
    left = {"right": x + 7, "left": x - 7 - width, "center": x - width / 2}[horizontal]
    bottom = {"top": y + 3, "bottom": y - 3 - LABEL_SIZE, "middle": y - LABEL_SIZE / 2}[vertical]
    return left, bottom, left + width, bottom + LABEL_SIZE


def _overlap(box: tuple[float, float, float, float], others: Sequence[tuple[float, float, float, float]]) -> float:
    """Square pixels of a box that others cover."""
    shared = 0.0
    for left, bottom, right, top in others:
        wide, high = min(box[2], right) - max(box[0], left), min(box[3], top) - max(box[1], bottom)
        shared += max(0.0, wide) * max(0.0, high)
    return shared


def _bar(
    rows: pl.DataFrame, label: str, role: str, position: int, *, y_title: str, orientation: Literal["h", "v"]
) -> go.Bar:
    colour, _, _ = _style(position)
    names, rates = [escape(name) for name in rows[label].cast(str)], rows["rate"].to_list()
    hover = [_hover(row, row[label], [(y_title, row["rate"])]) for row in rows.iter_rows(named=True)]
    bars = _bars(rows, "rate", INK)
    across = orientation == "h"
    return go.Bar(
        x=rates if across else names,
        y=names if across else rates,
        error_x=bars if across else None,
        error_y=None if across else bars,
        orientation=orientation,
        name=escape(role),
        marker={"color": colour},
        hovertext=[f"{text}<br>{escape(role)}" for text in hover],
        hoverinfo="text",
        textposition="none",
    )


def _bar_axes(figure: go.Figure, names: Sequence[str], orientation: str, horizontal_height: float) -> tuple[Any, Any]:
    """Settles the category and the rate axis; returns their update functions."""
    order = {
        "categoryorder": "array",
        "categoryarray": [escape(name) for name in names],
        "showgrid": False,
        "ticks": "",
    }
    if orientation == "h":
        figure.update_yaxes(**order, autorange="reversed")
        figure.update_xaxes(**BAR_AXIS)
        figure.update_layout(height=max(320, FRAME_HEIGHT + horizontal_height))
        return figure.update_yaxes, figure.update_xaxes
    figure.update_xaxes(**order)
    figure.update_yaxes(**BAR_AXIS)
    return figure.update_xaxes, figure.update_yaxes


def _bars(rows: pl.DataFrame, value: str, colour: str) -> dict[str, Any] | None:
    """Error bars from the columns ci_low and ci_high, or None where the table has no interval."""
    if not {value, "ci_low", "ci_high"} <= set(rows.columns) or rows["ci_low"].is_null().all():
        return None
    # An interval that ends on the estimate may miss it by a rounding error; plotly draws negative lengths.
    above = [None if high is None else max(0.0, high - at) for at, high in rows.select(value, "ci_high").iter_rows()]
    below = [None if low is None else max(0.0, at - low) for at, low in rows.select(value, "ci_low").iter_rows()]
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "color": colour,
        "thickness": 1,
        "width": 2,
    }


def _annotate(figure: go.Figure, estimate: Estimate, row: int, col: int) -> None:
    if estimate.estimate is None:
        text = f"ρ undefined ({escape(estimate.undefined or '')}), n = {estimate.n}"
    else:
        text = f"ρ = {estimate.estimate:.2f}, p = {format_value(estimate.p, 'p')}, n = {estimate.n}"
    figure.add_annotation(
        text=text,
        x=0.03,
        y=0.98,
        xref="x domain",
        yref="y domain",
        xanchor="left",
        yanchor="top",
        showarrow=False,
        font={"size": 12.5, "color": INK},
        bgcolor=PAPER,
        opacity=0.9,
        row=row,
        col=col,
    )


def _hover(row: Mapping[str, Any], name: str, values: Sequence[tuple[str, Any]]) -> str:
    """A bold name, one line per value, the interval and the counts the row has."""
    lines = [f"<b>{escape(str(name))}</b>"]
    for label, value in values:
        lines.append(f"{escape(label)}: {f'{value:.3f}' if isinstance(value, float) else escape(str(value))}")
    if row.get("ci_low") is not None and row.get("ci_high") is not None:
        lines.append(f"interval: {row['ci_low']:.3f} to {row['ci_high']:.3f}")
    if row.get("found") is not None and row.get("total") is not None:
        lines.append(f"{row['found']} of {row['total']} completions")
    if row.get("n") is not None:
        lines.append(f"n = {row['n']}")
    return "<br>".join(lines)


def _style(position: int) -> tuple[str, str, str]:
    """Colour, symbol and dash of a series; past the palette, symbol and dash tell series apart."""
    turn, colour = divmod(position, len(PALETTE))
    if turn >= len(SYMBOLS):
        raise FigureError(
            f"more than {len(PALETTE) * len(SYMBOLS)} series cannot be told apart; select some, or group them"
        )
    return PALETTE[colour], SYMBOLS[turn], DASHES[turn]


def _require(table: pl.DataFrame, columns: Sequence[str], what: str) -> None:
    _require_columns(table, columns, what)
    if table.height < 2:
        raise MissingRowsError(f"{what}: {table.height} row(s), a figure needs at least 2")
    for name in columns:
        series = table[name]
        empty = series.null_count() + (int(series.is_nan().sum()) if series.dtype.is_float() else 0)
        if empty:
            raise FigureError(
                f"{what}: column {name} is empty in {empty} of {table.height} rows; drop them and say so in the caption"
            )


def _require_columns(table: pl.DataFrame, columns: Sequence[str], what: str) -> None:
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise FigureError(f"{what}: no column {', '.join(absent)}; the table has {', '.join(table.columns)}")


def _refuse_self_pairs(pairs: pl.DataFrame) -> None:
    """A source among its own bystanders would be a point at cosine one that no correlation contains."""
    own = pairs.filter(pairs["source"] == pairs["persona"])["source"].to_list()
    if own:
        raise FigureError(f"bystander pairs: {', '.join(own)} is listed as its own bystander; drop the self pairs")


def _values(table: pl.DataFrame, column: str) -> list[str]:
    """The values of a column as text, in order of first appearance."""
    return table[column].cast(str).unique(maintain_order=True).to_list()


def _padded(values: Sequence[float]) -> list[float]:
    """A range with a little room on both sides, also where all values agree."""
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.5
    return [low - room, high + room]
