"""Small static previews of plotly figures, drawn without a browser.

Plotly's own static export needs Chrome, which a bare laptop does not have. Here matplotlib draws the plotly
figure's own traces, axes and annotations, so that preview and figure cannot say different things; a trace or
shape that it cannot draw is refused rather than left out.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import plotly.graph_objects as go
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from leakage_assets.reporting.figures import CONFIG, FigureError
from leakage_assets.reporting.markdown_page import FigureFiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, MIN_HEIGHT = 700, 450
HEIGHT_SCALE = 0.75  # of the figure's own height, which is meant for a page of about 1000 pixels
# Dagster keeps metadata in its database and larger texts slow the UI down: as base64 this is just below 100 kB.
MAX_BYTES = 74_000
_DPI = 100
_TRACES = ("scatter", "bar", "heatmap")
_MARKERS = {"circle": "o", "diamond": "D", "square": "s", "triangle-up": "^"}
_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": 8.5,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
}


def png_preview(figure: go.Figure) -> bytes:
    """A figure's scatter, line, bar and heatmap traces as a PNG below 74 kB, 700 pixels wide and at least 450 high.

    Raises:
        FigureError: a trace, shape or colour the preview cannot draw, or a picture that stays too large.
    """
    with mpl.rc_context(_STYLE):
        height = max(MIN_HEIGHT, HEIGHT_SCALE * (figure.layout.height or 0))
        canvas = FigureCanvasAgg(Figure(figsize=(WIDTH / _DPI, height / _DPI), dpi=_DPI, facecolor="white"))
        _draw(figure, canvas.figure)
        buffer = io.BytesIO()
        canvas.print_png(buffer, pil_kwargs={"optimize": True})
    png = _with_palette(buffer.getvalue())
    if len(png) > MAX_BYTES:
        raise FigureError(f"the preview has {len(png):,} bytes, more than {MAX_BYTES:,}: draw fewer points or panels")
    return png


def markdown_image(png: bytes, alt: str = "preview") -> str:
    """The picture as markdown with a `data:` address, the only image Dagster's markdown metadata shows."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})"


def write_figures(figures: Mapping[str, go.Figure], folder: Path) -> dict[str, FigureFiles]:
    """Write figures by name to `folder`, each as an interactive page and as a preview.

    Returns the file names by figure name, relative to `folder`, as `render_markdown` takes them.
    """
    files = {}
    for name, figure in figures.items():
        names = FigureFiles(html=f"{name}.html", png=f"{name}.png")
        # "directory" writes plotly.min.js next to the page unless it is there already; a fixed id instead of a random
        # one, so that the same figure gives the same bytes.
        figure.write_html(folder / names.html, config=CONFIG, include_plotlyjs="directory", div_id=name)
        (folder / names.png).write_bytes(png_preview(figure))
        files[name] = names
    return files


# ------------------------------------------------------------------ drawing


@dataclass
class _Panel:
    """One subplot: its plotly axes, and the positions of its categories if it has a category axis."""

    axes: Axes
    x: Any
    y: Any
    categories: dict[str, list[str]]

    def positions(self, values: Sequence[Any], axis: str) -> list[Any]:
        """Values as numbers, text as its position on the category axis."""
        names = self.categories.get(axis)
        return [names.index(value) for value in values] if names else list(values)


@dataclass(frozen=True)
class _Paper:
    """Where plotly's paper (the area of all panels, 0 to 1 in x and y) lies on the canvas."""

    canvas: Figure
    left: float
    right: float
    bottom: float
    top: float

    @classmethod
    def of(cls, figure: go.Figure, canvas: Figure) -> _Paper:
        width, height = canvas.get_size_inches() * _DPI
        ticks = [text for axis in figure.select_yaxes() for text in axis.ticktext or ()]
        labels = max((len(name) for trace in figure.data for name in [*_texts(trace.y), *ticks]), default=0)
        return cls(
            canvas,
            left=max(64, 30 + 5.2 * labels) / width,
            right=1 - 20 / width,
            bottom=80 / height,
            top=1 - 60 / height,
        )

    def box(self, x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float, float]:
        """A panel's domains as (left, bottom, width, height) of the canvas."""
        width, height = self.right - self.left, self.top - self.bottom
        return (
            self.left + x[0] * width,
            self.bottom + y[0] * height,
            (x[1] - x[0]) * width,
            (y[1] - y[0]) * height,
        )

    def text(self, note: Any) -> None:
        """An annotation in paper coordinates: the title of a panel, or one that all panels share."""
        width, height = self.canvas.get_size_inches() * _DPI
        x, y, _, _ = self.box((note.x, note.x), (note.y, note.y))
        self.canvas.text(
            x + (note.xshift or 0) / width,
            y + (note.yshift or 2) / height,
            _plain(note.text),
            size=9,
            rotation=-(note.textangle or 0),
            **_anchors(note),
        )


def _draw(figure: go.Figure, canvas: Figure) -> None:
    layout, paper = figure.layout, _Paper.of(figure, canvas)
    panels: dict[tuple[str, str], _Panel] = {}
    legend: dict[str, Any] = {}
    for trace in figure.data:
        if trace.type not in _TRACES:
            raise FigureError(f"the preview cannot draw a {trace.type!r} trace; it draws {', '.join(_TRACES)}")
        key = _axes_of(trace)
        if key not in panels:
            panels[key] = _panel(figure, paper, key)
        if trace.type == "heatmap":
            _heatmap(trace, panels[key], canvas)
            continue
        handle = _scatter(trace, panels[key]) if trace.type == "scatter" else _bar(trace, panels[key], figure)
        if trace.name and trace.showlegend is not False:
            legend.setdefault(_plain(trace.name), handle)
    for panel in panels.values():
        _finish_axes(panel)
    for shape in layout.shapes:
        _rule(shape, panels)
    for note in layout.annotations:
        _note(note, panels, paper)
    if layout.title.text:
        canvas.text(
            0.02,
            1 - 0.1 / canvas.get_figheight(),
            _plain(layout.title.text),
            size=10.5,
            weight="bold",
            va="top",
        )
    if len(legend) > 1 and layout.showlegend is not False:
        canvas.legend(
            list(legend.values()),
            list(legend),
            loc="lower center",
            ncols=min(len(legend), 5),
            frameon=False,
            fontsize=8,
        )


def _axes_of(trace: Any) -> tuple[str, str]:
    return trace.xaxis or "x", trace.yaxis or "y"


def _texts(values: Sequence[Any] | None) -> list[str]:
    return [value for value in (values if values is not None else ()) if isinstance(value, str)]


def _panel(figure: go.Figure, paper: _Paper, key: tuple[str, str]) -> _Panel:
    x, y = (figure.layout[name[0] + "axis" + name[1:]] for name in key)
    categories = {}
    for axis, spec in (("x", x), ("y", y)):
        used = [value for trace in figure.data if _axes_of(trace) == key for value in _texts(trace[axis])]
        if used:
            categories[axis] = list(dict.fromkeys([*_texts(spec.categoryarray), *used]))
    return _Panel(paper.canvas.add_axes(paper.box(x.domain or (0, 1), y.domain or (0, 1))), x, y, categories)


def _scatter(trace: go.Scatter, panel: _Panel) -> Any:
    x, y = panel.positions(trace.x, "x"), _numbers(panel.positions(trace.y, "y"))
    mode = trace.mode or "lines"
    if trace.fill is not None:
        return _area(trace, x, y, panel.axes)
    colour = trace.line.color if "lines" in mode and trace.line.color else trace.marker.color
    if not isinstance(colour, str):
        raise FigureError(f"the preview needs one named colour per trace; {trace.name!r} has {type(colour).__name__}")
    (handle,) = panel.axes.plot(
        x,
        y,
        color=colour,
        linestyle=_DASHES[trace.line.dash or "solid"] if "lines" in mode else "none",
        linewidth=0.7 * (trace.line.width or 2),
        marker=_MARKERS[trace.marker.symbol or "circle"] if "markers" in mode else "none",
        markersize=0.55 * (trace.marker.size or 6),
        markeredgewidth=0,
        alpha=trace.marker.opacity or 1,
        zorder=3,
    )
    _error_bars(trace.error_y, x, y, panel.axes, "y")
    _error_bars(trace.error_x, x, y, panel.axes, "x")
    if "text" in mode:
        _labels(trace, x, y, panel.axes)
    return handle


def _area(trace: go.Scatter, x: Sequence[float], y: Sequence[float], axes: Axes) -> Any:
    if trace.fill != "toself":
        raise FigureError(f"the preview fills a trace within itself; {trace.name!r} is filled {trace.fill!r}")
    (handle,) = axes.fill(x, y, color=trace.fillcolor, alpha=trace.opacity or 1, linewidth=0, zorder=1.5)
    return handle


def _labels(trace: go.Scatter, x: Sequence[float], y: Sequence[float], axes: Axes) -> None:
    places = trace.textposition if not isinstance(trace.textposition, str) else [trace.textposition] * len(x)
    for at_x, at_y, text, place in zip(x, y, trace.text, places, strict=True):
        vertical, horizontal = place.split()
        sideways, upwards = (
            {"left": -1, "center": 0, "right": 1}[horizontal],
            {"top": 1, "middle": 0, "bottom": -1}[vertical],
        )
        axes.annotate(
            _plain(text),
            (at_x, at_y),
            xytext=(4 * sideways, 2 * upwards),
            textcoords="offset points",
            ha={-1: "right", 0: "center", 1: "left"}[sideways],
            va={-1: "top", 0: "center", 1: "bottom"}[upwards],
            size=6,
            zorder=4,
        )


def _heatmap(trace: go.Heatmap, panel: _Panel, canvas: Figure) -> None:
    """Coloured cells with their texts, white gaps between them, and the scale beside the panel."""
    rates = np.array([_numbers(row) for row in trace.z])
    if trace.colorscale is None or trace.zmin is None or trace.zmax is None:
        raise FigureError("the preview needs the colour scale of a heatmap and its ends")
    scale = LinearSegmentedColormap.from_list("scale", [(at, colour) for at, colour in trace.colorscale])
    colours = scale.with_extremes(bad="white")
    axes = panel.axes
    edges = [np.arange(size + 1) - 0.5 for size in rates.T.shape]
    mesh = axes.pcolormesh(
        *edges, np.ma.masked_invalid(rates), cmap=colours, vmin=trace.zmin, vmax=trace.zmax, edgecolor="white"
    )
    axes.grid(visible=False)
    for (row, column), rate in np.ndenumerate(rates):
        if np.isfinite(rate):
            shade = (rate - trace.zmin) / (trace.zmax - trace.zmin)
            axes.text(
                column,
                row,
                _plain(trace.text[row][column]),
                ha="center",
                va="center",
                size=6.5,
                color="white" if shade > 0.55 else "black",
            )
    box = axes.get_position()
    axes.set_position((box.x0, box.y0, box.width * 0.92, box.height))
    bar = canvas.colorbar(mesh, cax=canvas.add_axes((box.x0 + box.width * 0.94, box.y0, 0.012, box.height)))
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.ax.tick_params(labelsize=6.5, length=2)


def _bar(trace: go.Bar, panel: _Panel, figure: go.Figure) -> Any:
    across = trace.orientation == "h"
    names, rates = (trace.y, trace.x) if across else (trace.x, trace.y)
    centres = panel.positions(names, "y" if across else "x")
    width = 1 - (figure.layout.bargap or 0.25)
    if figure.layout.barmode != "overlay":
        # Plotly groups the bars of a subplot by default.
        beside = [t for t in figure.data if t.type == "bar" and (t.xaxis, t.yaxis) == (trace.xaxis, trace.yaxis)]
        width /= len(beside)
        position = [t.name for t in beside].index(trace.name)
        shift = (position - (len(beside) - 1) / 2) * width
        centres = [centre + shift for centre in centres]
    values = _numbers(rates)
    if across:
        handle = panel.axes.barh(centres, values, height=width, color=trace.marker.color, zorder=2)
        _error_bars(trace.error_x, values, centres, panel.axes, "x")
    else:
        handle = panel.axes.bar(centres, values, width=width, color=trace.marker.color, zorder=2)
        _error_bars(trace.error_y, centres, values, panel.axes, "y")
    return handle


def _error_bars(bars: Any, x: Sequence[float], y: Sequence[float], axes: Axes, axis: str) -> None:
    if bars.array is None:
        return
    above = _numbers(bars.array)
    below = _numbers(bars.arrayminus) if bars.arrayminus is not None else above
    lengths: Any = {"xerr" if axis == "x" else "yerr": [below, above]}
    axes.errorbar(
        x,
        y,
        **lengths,
        fmt="none",
        ecolor=bars.color,
        elinewidth=0.6,
        capsize=1.2,
        capthick=0.6,
        alpha=0.65,
        zorder=2.5,
    )


def _finish_axes(panel: _Panel) -> None:
    axes = panel.axes
    axes.tick_params(length=2.5, width=0.6)
    for axis, spec, grid in (("x", panel.x, axes.xaxis), ("y", panel.y, axes.yaxis)):
        names = panel.categories.get(axis)
        if names:
            getattr(axes, f"set_{axis}ticks")(range(len(names)), [_plain(name) for name in names])
            getattr(axes, f"set_{axis}lim")(-0.6, len(names) - 0.4)
        elif spec.tickvals is not None:
            labels = [_plain(text) for text in spec.ticktext] if spec.ticktext is not None else None
            getattr(axes, f"set_{axis}ticks")(list(spec.tickvals), labels)
        if spec.range is not None:
            getattr(axes, f"set_{axis}lim")(*spec.range)
        if spec.autorange == "reversed":
            getattr(axes, f"invert_{axis}axis")()
        if (spec.tickformat or "").endswith("%"):
            grid.set_major_formatter(PercentFormatter(1, decimals=int(re.sub(r"\D", "", spec.tickformat) or 0)))
        if spec.showticklabels is False:
            grid.set_tick_params(labelleft=False, labelbottom=False)
        if spec.title.text:
            getattr(axes, f"set_{axis}label")(_plain(spec.title.text))
        if spec.showgrid is False:
            grid.grid(visible=False)
        else:
            grid.grid(color="#e4e7eb", linewidth=0.6)


def _rule(shape: Any, panels: dict[tuple[str, str], _Panel]) -> None:
    """A line through the whole panel, as plotly's add_hline and add_vline make it."""
    for (x, y), panel in panels.items():
        if shape.type == "line" and shape.yref == y and shape.xref == f"{x} domain" and shape.y0 == shape.y1:
            panel.axes.axhline(shape.y0, color=shape.line.color, linewidth=0.8, zorder=1)
            return
        if shape.type == "line" and shape.xref == x and shape.yref == f"{y} domain" and shape.x0 == shape.x1:
            panel.axes.axvline(shape.x0, color=shape.line.color, linewidth=0.8, zorder=1)
            return
    raise FigureError(
        f"the preview draws only lines across a panel; found a {shape.type!r} in {shape.xref!r}, {shape.yref!r}"
    )


def _note(note: Any, panels: dict[tuple[str, str], _Panel], paper: _Paper) -> None:
    if note.xref == "paper" and note.yref == "paper":
        paper.text(note)
        return
    for (x, y), panel in panels.items():
        if (note.xref, note.yref) == (f"{x} domain", f"{y} domain"):
            backdrop = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1}
            where = panel.axes.transAxes
            panel.axes.text(
                note.x, note.y, _plain(note.text), transform=where, size=7.5, bbox=backdrop, **_anchors(note)
            )
            return
    raise FigureError(f"the preview cannot place the annotation {note.text!r} at {note.xref!r}, {note.yref!r}")


def _anchors(note: Any) -> Any:
    return {
        "ha": note.xanchor if note.xanchor in {"left", "right"} else "center",
        "va": note.yanchor if note.yanchor in {"top", "bottom"} else "center",
        "zorder": 5,
    }


def _numbers(values: Sequence[Any]) -> list[float]:
    """Gaps as NaN, which matplotlib leaves out as plotly does."""
    return [float("nan") if value is None else float(value) for value in values]


def _plain(text: str) -> str:
    """Plotly's pseudo-HTML as plain text."""
    return unescape(re.sub(r"<[^>]*>", "", text.replace("<br>", "\n")))


def _with_palette(png: bytes) -> bytes:
    """The picture in 256 colours: a third of the size.

    Maximum coverage keeps thin coloured lines true; the usual median cut spends its colours on the white
    paper and moves the colour of a line by up to a quarter of the scale.
    """
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE)
    few.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
