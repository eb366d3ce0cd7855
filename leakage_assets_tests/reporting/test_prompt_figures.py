from __future__ import annotations

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from leakage_assets.reporting.figures import FigureError, MissingRowsError
from leakage_assets.reporting.preview import png_preview
from leakage_assets.reporting.prompt_figures import MARK, interval_plot, rate_heatmap, signed_bars, trade_off

GRID = pl.DataFrame(
    {
        "row": ["p1", "p1", "<i>p2", "p3", "p3"],
        "column": ["T_a", "T_b", "T_a", "T_a", "T_b"],
        "rate": [1.0, 0.25, 0.0, 0.5, 0.125],
        "found": [8, 2, 0, 4, 1],
        "total": [8] * 5,
        "family": ["one", "one", "one", "two", "two"],
        "own": [True, False, False, False, True],
    }
)
INTERVALS = pl.DataFrame(
    {
        "label": ["semantic", "semantic", "lexical"],
        "series": ["OLS", "mixed", "OLS"],
        "estimate": [-0.5, 0.25, 1.0],
        "ci_low": [-1.0, None, 0.5],
        "ci_high": [0.0, None, 1.5],
        "n": [32, 32, 32],
    }
)
BARS = pl.DataFrame({"label": ["all", "one"], "value": [-0.2, 0.1], "series": ["together", "alone"]})
POINTS = pl.DataFrame({"label": ["all", "all"], "value": [-0.9, 0.3], "name": ["T_a", "T_b"]})
TRADE = pl.DataFrame(
    {
        "series": ["T_a", "T_a", "T_b"],
        "name": ["weak", "strong", "strong"],
        "label": ["weak", "strong", ""],
        "x": [0.1, 0.8, 0.7],
        "y": [0.9, 0.4, 0.5],
        "x_low": [0.05, 0.7, None],
        "x_high": [0.2, 0.9, None],
    }
)


def heatmap(table: pl.DataFrame = GRID, **options):
    return rate_heatmap(table, title="T", x_title="adapter", **options)


def test_a_grid_has_its_cells_in_order_and_gaps_where_nothing_is() -> None:
    figure = heatmap(group="family", marked="own")
    (trace,) = figure.data
    assert (list(trace.x), list(trace.y)) == (["T_a", "T_b"], ["p1", "&lt;i&gt;p2", "p3"])
    assert [list(row) for row in trace.z] == [[1.0, 0.25], [0.0, None], [0.5, 0.125]]
    assert [list(row) for row in trace.text] == [[f"{MARK} 100%", "25%"], ["0%", ""], ["50%", f"{MARK} 12%"]]
    assert (trace.zmin, trace.zmax) == (0, 1)
    assert "2 of 8 completions" in trace.hovertext[0][1]
    assert [shape.y0 for shape in figure.layout.shapes] == [1.5]  # between p2 and p3


def test_a_grid_without_groups_has_no_lines() -> None:
    figure = heatmap()
    assert not figure.layout.shapes
    assert figure.data[0].text[0][0] == "100%"


def test_faulty_grids_are_refused() -> None:
    with pytest.raises(FigureError, match="occurs twice"):
        heatmap(pl.concat([GRID, GRID[:1]]))
    with pytest.raises(FigureError, match="do not stand together"):
        heatmap(GRID.with_columns(family=pl.Series(["one", "one", "two", "one", "one"])), group="family")
    with pytest.raises(FigureError, match="is in 2 groups"):
        heatmap(GRID.with_columns(family=pl.Series(["one", "two", "one", "two", "two"])), group="family")
    with pytest.raises(FigureError, match="no column own"):
        heatmap(GRID.drop("own"), marked="own")
    with pytest.raises(MissingRowsError):
        heatmap(GRID[:1])


def test_intervals_stand_side_by_side_at_their_label() -> None:
    figure = interval_plot(INTERVALS, title="T", x_title="change")
    ols, mixed = figure.data
    assert (ols.name, list(ols.x)) == ("OLS", [-0.5, 1.0])
    assert ols.y[1] - ols.y[0] == 1 and ols.y[0] < 0 < mixed.y[0] < 0.5
    assert list(ols.error_x.array) == [0.5, 0.5] and mixed.error_x.array is None
    assert list(figure.layout.yaxis.ticktext) == ["semantic", "lexical"]
    assert figure.layout.shapes[0].x0 == 0
    with pytest.raises(FigureError, match="more than one row"):
        interval_plot(pl.concat([INTERVALS, INTERVALS]), title="T", x_title="change")


def test_signed_bars_show_both_sides_and_their_points() -> None:
    figure = signed_bars(BARS, title="T", x_title="R2", points=POINTS, points_name="one trigger")
    together, alone, points = figure.data
    assert (list(together.x), list(together.y), list(alone.y)) == ([-0.2], [0], [1])
    assert (list(points.x), list(points.y), points.name) == ([-0.9, 0.3], [0, 0], "one trigger")
    low, high = figure.layout.xaxis.range
    assert low < -0.9 and high > 0.3
    with pytest.raises(FigureError, match="no bar for 'other'"):
        signed_bars(BARS, title="T", x_title="R2", points=POINTS.with_columns(label=pl.lit("other")))
    plain = signed_bars(BARS.drop("series"), title="T", x_title="R2")
    assert len(plain.data) == 1 and plain.data[0].showlegend is False


def test_a_trade_off_joins_the_points_of_a_series() -> None:
    figure = trade_off(TRADE, title="T", x_title="emission", y_title="specificity")
    one, other = figure.data
    assert (one.mode, other.mode) == ("lines+markers+text", "markers+text")
    assert list(one.text) == ["weak", "strong"] and list(other.text) == [""]
    assert "<b>strong</b>" in other.hovertext[0]
    assert list(one.error_x.array) == pytest.approx([0.1, 0.1]) and one.error_y.array is None
    assert figure.layout.yaxis.range[0] == -0.25
    deep = trade_off(TRADE.with_columns(y=pl.Series([0.9, 0.4, -2.0])), title="T", x_title="x", y_title="y")
    assert deep.layout.yaxis.range[0] < -2


@pytest.mark.parametrize(
    "figure",
    [
        heatmap(group="family", marked="own"),
        interval_plot(INTERVALS, title="T", x_title="change"),
        signed_bars(BARS, title="T", x_title="R2", points=POINTS, points_name="one trigger"),
        trade_off(TRADE, title="T", x_title="emission", y_title="specificity"),
    ],
    ids=["heatmap", "intervals", "bars", "trade-off"],
)
def test_every_figure_has_a_preview(figure) -> None:
    picture = Image.open(io.BytesIO(png_preview(figure)))
    assert picture.width == 700 and picture.height >= 450


def test_the_preview_of_a_grid_has_the_colours_of_its_rates() -> None:
    """Two columns: everything on the left is 100%, everything on the right 0%."""
    grid = pl.DataFrame({"row": ["a", "a", "b", "b"], "column": ["x", "y"] * 2, "rate": [1.0, 0.0] * 2})
    pixels = np.asarray(Image.open(io.BytesIO(png_preview(heatmap(grid)))).convert("RGB")).astype(int)
    dark = np.abs(pixels - np.array([0x00, 0x55, 0x8A])).sum(axis=2) < 30
    light = np.abs(pixels - np.array([0xF4, 0xF7, 0xFA])).sum(axis=2) < 6
    assert dark.sum() > 10_000 and light.sum() > 10_000
    assert np.median(np.nonzero(dark)[1]) < np.median(np.nonzero(light)[1])
