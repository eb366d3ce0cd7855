from __future__ import annotations

import base64
import io
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from PIL import Image

from leakage_assets.reporting import preview
from leakage_assets.reporting.figures import (
    FigureError,
    bystander_bars,
    layer_sensitivity,
    line_with_band,
    rate_bars,
    scatter_by_source,
)
from leakage_assets.reporting.preview import (
    MAX_BYTES,
    MIN_HEIGHT,
    WIDTH,
    markdown_image,
    png_preview,
    write_figures,
)
from leakage_assets.statistics.correlation import spearman

CONDITIONS = ["villain", "comedian", "assistant", "software_engineer", "kindergarten_teacher"]


def many_pairs() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {
            "source": s,
            "persona": f"p{i}",
            "cosine": rng.uniform(-1, 1),
            "rate": rng.uniform(0, 1),
            "kind": f"k{i % 5}",
        }
        for s in CONDITIONS
        for i in range(110)
    ]
    return pl.DataFrame(rows).with_columns(ci_low=pl.col("rate") * 0.9, ci_high=pl.col("rate") * 0.9 + 0.1)


def bars() -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "condition": c,
                "persona": f"{c}_{i}",
                "role": "source" if i == 0 else "bystander",
                "rate": i / 9,
            }
            for c in CONDITIONS
            for i in range(9)
        ]
    ).with_columns(ci_low=pl.col("rate") * 0.9, ci_high=pl.col("rate") * 0.9 + 0.1)


def layers() -> pl.DataFrame:
    names = [*CONDITIONS, "pooled"]
    rows = [
        {"layer": layer, "source": name, "estimate": layer / 50 + 0.1 * position}
        for layer in (10, 15, 20)
        for position, name in enumerate(names)
    ]
    return pl.DataFrame(rows)


def labelled() -> go.Figure:
    points = pl.DataFrame({"name": ["a<b", "c"], "x": [0.0, 1.0], "y": [0.5, 0.2], "role": ["fitted", "new"]})
    band = pl.DataFrame({"x": [0.0, 1.0], "predicted": [0.5, 0.3], "ci_low": [0.1, 0.0], "ci_high": [0.9, 0.6]})
    return line_with_band(points, band, title="T", x_title="cosine")


FIGURES = {
    "scatter": lambda: scatter_by_source(many_pairs(), title="T", x_title="cosine", group="kind"),
    "layers": lambda: layer_sensitivity(layers(), title="T"),
    "bars": lambda: rate_bars(bars().group_by("condition", "role", maintain_order=True).first(), title="T"),
    "upright": lambda: rate_bars(
        bars().group_by("condition", "role", maintain_order=True).first(), title="T", orientation="v"
    ),
    "top": lambda: bystander_bars(bars(), title="T"),
    "labelled": labelled,
}


@pytest.mark.parametrize("name", FIGURES)
def test_previews_are_small_valid_and_not_blank(name):
    png = png_preview(FIGURES[name]())
    with Image.open(io.BytesIO(png)) as image:
        image.verify()
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        assert image.width == WIDTH
        assert image.height >= MIN_HEIGHT
        pixels = np.asarray(image.convert("RGB"))
    assert len(png) < MAX_BYTES
    blue = (np.abs(pixels.astype(int) - [0x00, 0x72, 0xB2]).max(axis=-1) < 24).sum()
    assert blue > 50  # the first series was drawn, in its colour


def drawn(figure: go.Figure) -> Figure:
    canvas = Figure()
    preview._draw(figure, canvas)
    return canvas


def test_the_preview_draws_the_figures_own_numbers():
    pairs = many_pairs()
    axes = drawn(scatter_by_source(pairs, title="T", x_title="cosine")).axes
    assert len(axes) == len(CONDITIONS)
    for ax, source in zip(axes, CONDITIONS, strict=True):
        np.testing.assert_array_equal(ax.lines[0].get_xdata(), pairs.filter(source=source)["cosine"])
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), pairs.filter(source=source)["rate"])


def test_grouped_bars_stand_side_by_side_with_their_lengths():
    table = bars().group_by("condition", "role", maintain_order=True).first()
    (ax,) = drawn(rate_bars(table, title="T")).axes
    widths = [patch.get_width() for patch in ax.patches]
    assert widths == table.filter(role="source")["rate"].to_list() + table.filter(role="bystander")["rate"].to_list()
    spans = sorted((patch.get_y(), patch.get_y() + patch.get_height()) for patch in ax.patches)
    assert all(upper <= lower + 1e-9 for (_, upper), (lower, _) in pairwise(spans))
    assert [label.get_text() for label in ax.get_yticklabels()] == CONDITIONS


def test_labels_and_the_area_of_a_band_are_drawn():
    (ax,) = drawn(labelled()).axes
    assert {text.get_text() for text in ax.texts} == {"a<b", "c"}
    (area,) = ax.patches
    assert {tuple(corner) for corner in area.get_xy()} == {(0, 0.9), (1, 0.6), (1, 0), (0, 0.1)}


def rendered(figure: go.Figure) -> tuple[Figure, RendererAgg]:
    """A preview of the width that it is written with, and what measures its texts."""
    canvas = FigureCanvasAgg(Figure(figsize=(WIDTH / 100, 5), dpi=100))
    with mpl.rc_context(preview._STYLE):
        preview._draw(figure, canvas.figure)
        canvas.draw()
    return canvas.figure, canvas.get_renderer()


def test_the_estimate_of_a_panel_covers_no_point():
    rho = spearman("rho", [1, 2, 3, 5], [1, 3, 2, 4], unit="pair")
    estimates = dict.fromkeys(CONDITIONS, rho)
    figure, renderer = rendered(scatter_by_source(many_pairs(), title="T", x_title="cosine", estimates=estimates))
    for axes in figure.axes:
        (label,) = axes.texts
        assert label.get_text().startswith("ρ = ")
        _, bottom = axes.transData.inverted().transform(label.get_window_extent(renderer).min)
        assert bottom > 1.03  # a rate is at most 1, and a point has a size
        assert max(axes.get_yticks()[axes.get_yticks() <= axes.get_ylim()[1]]) == pytest.approx(1)


def test_names_of_bars_are_not_cut():
    table = bars().group_by("condition", "role", maintain_order=True).first()
    long = table.with_columns(condition=pl.col("condition") + " · marker_only_im_end")
    figure, renderer = rendered(rate_bars(long, title="T"))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"{c} · marker_only_im_end" for c in CONDITIONS]
    assert min(text.get_window_extent(renderer).x0 for text in axes.get_yticklabels()) > 0


def test_titles_and_axis_titles_are_drawn_as_plain_text():
    figure = scatter_by_source(many_pairs(), title="A <b>$x$", x_title="cosine", y_title="rate")
    texts = [text.get_text() for text in drawn(figure).texts]
    assert {"A <b>$x$", "villain", "cosine", "rate"} <= set(texts)


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        (go.Figure(go.Scatter(x=[1], y=[1], fill="tozeroy", fillcolor="red")), "filled 'tozeroy'"),
        (go.Figure(go.Contour(z=[[1]])), "cannot draw a 'contour' trace"),
        (go.Figure(go.Heatmap(z=[[1]])), "the colour scale of a heatmap"),
        (go.Figure(go.Scatter(x=[1], y=[1], mode="markers", marker={"color": [1]})), "one named colour"),
        (
            go.Figure(go.Scatter(x=[1], y=[1], line={"color": "red"})).add_shape(type="rect", x0=0, x1=1, y0=0, y1=1),
            "rect",
        ),
        (
            go.Figure(go.Scatter(x=[1], y=[1], line={"color": "red"})).add_annotation(text="here", x=1, y=1),
            "'here'",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(figure, message):
    with pytest.raises(FigureError, match=message):
        png_preview(figure)


def test_markdown_image_holds_the_picture():
    markdown = markdown_image(b"\x89PNG")
    assert markdown.startswith("![preview](data:image/png;base64,")
    assert base64.b64decode(markdown.split(",")[1].removesuffix(")")) == b"\x89PNG"


def test_figures_are_written_with_one_shared_plotly(bench, tmp_path):
    folder = tmp_path / "figures"
    folder.mkdir()
    files = write_figures({block.name: block.figure for block in bench.report.figures()}, folder)
    assert (files["pooled_20"].html, files["pooled_20"].png) == ("pooled_20.html", "pooled_20.png")
    assert sorted(path.name for path in folder.iterdir()) == [
        "plotly.min.js",
        "pooled_20.html",
        "pooled_20.png",
    ]
    page = (folder / "pooled_20.html").read_text()
    assert 'src="plotly.min.js"' in page
    assert "http" not in page.replace("http://www.w3.org", "")
