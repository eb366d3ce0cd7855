from __future__ import annotations

import io

import polars as pl
import pytest
from PIL import Image

from leakage_assets.reporting.figures import FigureError, MissingRowsError
from leakage_assets.reporting.histograms import share_histogram
from leakage_assets.reporting.preview import png_preview

TABLE = pl.DataFrame(
    {
        "panel": ["<donor>"] * 5 + ["recipient"] * 2,
        "series": ["A", "A", "B", "B", "B", "A", "A"],
        "value": [0.0, 0.04, 0.99, 1.0, 0.5, 0.25, 0.75],
    }
)


def drawn(table: pl.DataFrame = TABLE, **options):
    return share_histogram(table, title="T", x_title="position", **options)


def test_shares_are_of_a_series_in_its_panel() -> None:
    figure = drawn(bins=4)
    assert [trace.name for trace in figure.data] == ["A", "B", "A"]
    assert [list(trace.y)[1:-1:2] for trace in figure.data] == [[1, 0, 0, 0], [0, 0, 1 / 3, 2 / 3], [0, 0.5, 0, 0.5]]
    assert [list(trace.y)[2:-1:2] for trace in figure.data] == [list(trace.y)[1:-1:2] for trace in figure.data]
    assert [trace.showlegend for trace in figure.data] == [True, True, False]
    assert list(figure.data[0].x) == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1]
    assert figure.data[0].fillcolor == figure.data[2].fillcolor != figure.data[1].fillcolor
    assert "&lt;donor&gt;" in {note.text for note in figure.layout.annotations}
    assert "of: 3" in figure.data[1].hovertext[-2] and "n = 2" in figure.data[1].hovertext[-2]
    turned = drawn(series=("B", "A"), bins=4)
    assert [(trace.name, trace.fillcolor) for trace in turned.data[:2]] == [
        ("B", figure.data[0].fillcolor),
        ("A", figure.data[1].fillcolor),
    ]


def test_it_can_be_printed() -> None:
    assert Image.open(io.BytesIO(png_preview(drawn()))).width > 300


def test_faulty_tables_are_refused() -> None:
    with pytest.raises(FigureError, match="no fraction"):
        drawn(TABLE.with_columns(pl.col("value") * 2))
    with pytest.raises(FigureError, match="no column panel"):
        drawn(TABLE.drop("panel"))
    with pytest.raises(FigureError, match="value is empty in 7"):
        drawn(TABLE.with_columns(pl.lit(None, pl.Float64).alias("value")))
    with pytest.raises(MissingRowsError):
        drawn(TABLE[:1])
