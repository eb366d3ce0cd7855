from __future__ import annotations

from functools import partial

import polars as pl
import pytest

from leakage_assets.reporting.figures import (
    PALETTE,
    FigureError,
    MissingRowsError,
    bystander_bars,
    layer_sensitivity,
    line_with_band,
    rate_bars,
    scatter_by_source,
    scatter_pooled,
)
from leakage_assets.statistics.result import Estimate, undefined


def estimate(n: int = 3) -> Estimate:
    return Estimate("spearman", 0.6016, 0.5, 0.7, 0.95, 2.0e-55, n, "bystander", "Spearman")


PAIRS = pl.DataFrame(
    {
        "source": ["villain", "villain", "villain", "comedian", "comedian"],
        "persona": ["joker", "<b>monk", "comedian", "actor", "clown"],
        "cosine": [0.8, -0.2, 0.1, 0.4, 0.6],
        "rate": [1.0, 0.0, 0.1, 0.2, 0.5],
        "found": [200, 0, 20, 40, 100],
        "total": [200] * 5,
        "ci_low": [0.981, 0.0, 0.07, 0.15, 0.43],
        "ci_high": [1.0 - 1e-16, 0.019, 0.15, 0.26, 0.57],
        "kind": ["intended", "other", "other", "other", "intended"],
    }
)
RATES = pl.DataFrame(
    {
        "condition": ["villain", "villain", "comedian", "comedian"],
        "role": ["source", "mean bystander"] * 2,
        "rate": [0.94, 0.07, 0.73, 0.03],
    }
)


def by_source(pairs: pl.DataFrame = PAIRS, **options):
    return scatter_by_source(pairs, title="T", x_title="cosine", **options)


def test_one_panel_per_source_with_its_points():
    figure = by_source()
    assert [note.text for note in figure.layout.annotations[:2]] == ["villain", "comedian"]
    assert [list(trace.x) for trace in figure.data] == [[0.8, -0.2, 0.1], [0.4, 0.6]]
    assert [list(trace.y) for trace in figure.data] == [[1.0, 0.0, 0.1], [0.2, 0.5]]


def test_groups_keep_their_colour_and_have_one_legend_entry():
    figure = by_source(group="kind")
    colours = {(trace.name, trace.marker.color) for trace in figure.data}
    assert colours == {("intended", PALETTE[0]), ("other", PALETTE[1])}
    assert sorted(trace.name for trace in figure.data if trace.showlegend) == ["intended", "other"]


def test_a_group_absent_from_the_first_panel_is_in_the_legend():
    pairs = PAIRS.with_columns(kind=pl.Series(["other", "other", "other", "other", "intended"]))
    shown = [trace.name for trace in by_source(pairs, group="kind").data if trace.showlegend]
    assert sorted(shown) == ["intended", "other"]


def test_intervals_become_bars_that_never_point_backwards():
    bars = by_source().data[0].error_y
    assert bars.array[0] == 0.0
    assert list(bars.arrayminus) == pytest.approx([0.019, 0.0, 0.03])
    assert by_source(PAIRS.drop("ci_low", "ci_high")).data[0].error_y.array is None


def test_hover_text_names_the_persona_escaped_with_counts():
    hover = by_source().data[0].hovertext
    assert "200 of 200 completions" in hover[0]
    assert "&lt;b&gt;monk" in hover[1]


def test_the_estimate_is_written_from_the_estimate():
    texts = [
        note.text
        for note in by_source(estimates=dict.fromkeys(["villain", "comedian"], estimate(110))).layout.annotations
    ]
    assert texts.count("ρ = 0.60, p = 2.0e-55, n = 110") == 2
    nothing = undefined("spearman", "rate is constant", n=5, unit="pair", method="Spearman")
    pooled = scatter_pooled(PAIRS, title="T", x_title="cosine", estimate=nothing)
    assert "ρ undefined (rate is constant), n = 5" in [note.text for note in pooled.layout.annotations]


def test_a_source_without_estimate_is_refused():
    with pytest.raises(FigureError, match="no estimate for source comedian"):
        by_source(estimates={"villain": estimate()})


def test_pooled_points_are_coloured_by_source():
    figure = scatter_pooled(PAIRS, title="T", x_title="cosine", estimate=estimate())
    assert [(trace.name, len(trace.x), trace.marker.color) for trace in figure.data] == [
        ("villain", 3, PALETTE[0]),
        ("comedian", 2, PALETTE[1]),
    ]


def test_a_sixth_series_changes_the_symbol_not_the_palette():
    pairs = pl.DataFrame(
        {
            "source": [f"s{i}" for i in range(7)],
            "persona": ["p"] * 7,
            "cosine": [i / 7 for i in range(7)],
            "rate": [0.1] * 7,
        }
    )
    markers = [trace.marker for trace in scatter_pooled(pairs, title="T", x_title="c").data]
    assert len({marker.color for marker in markers}) == 5
    assert len({(marker.color, marker.symbol) for marker in markers}) == 7
    many = pl.concat([pairs.with_columns(source=pl.lit(f"t{i}")) for i in range(21)])
    with pytest.raises(FigureError, match="more than 20 series"):
        scatter_pooled(many, title="T", x_title="c")


POINTS = pl.DataFrame(
    {
        "name": ["librarian", "<b>villain", "comedian", "assistant"],
        "x": [0.39, -0.41, -0.31, 1.0],
        "y": [0.67, 0.57, 0.63, 0.23],
        "role": ["fitted", "fitted", "fitted", "new"],
        "ci_low": [0.57, 0.47, 0.53, 0.16],
        "ci_high": [0.75, 0.66, 0.72, 0.32],
    }
)
BAND = pl.DataFrame({"x": [-0.5, 1.0], "predicted": [0.6, 0.3], "ci_low": [0.2, -0.1], "ci_high": [1.0, 0.7]})


def test_a_band_encloses_its_line_and_points_are_labelled():
    figure = line_with_band(POINTS, BAND, title="T", x_title="cosine", estimate=estimate(4))
    area, line, fitted, new = figure.data
    assert (list(area.x), list(area.y), area.fill) == ([-0.5, 1.0, 1.0, -0.5], [1.0, 0.7, -0.1, 0.2], "toself")
    assert (list(line.x), list(line.y)) == ([-0.5, 1.0], [0.6, 0.3])
    assert list(fitted.text) == ["librarian", "&lt;b&gt;villain", "comedian"] and list(new.text) == ["assistant"]
    assert list(new.error_y.arrayminus) == pytest.approx([0.07])
    assert "ρ = 0.60, p = 2.0e-55, n = 4" in [note.text for note in figure.layout.annotations]
    assert new.textposition[0].endswith("left")  # at the right edge of the panel


def test_labels_of_close_points_stand_apart():
    close = POINTS.with_columns(x=pl.Series([0.30, 0.31, 0.32, 0.9]), y=pl.lit(0.3))
    figure = line_with_band(close.drop("ci_low", "ci_high"), BAND.clear(), title="T", x_title="cosine")
    assert [trace.name for trace in figure.data] == ["fitted", "new"]
    assert len(set(figure.data[0].textposition)) == 3


def test_labelled_points_with_one_name_are_refused():
    with pytest.raises(FigureError, match="a name occurs twice"):
        line_with_band(POINTS.with_columns(name=pl.lit("a")), BAND, title="T", x_title="c")
    with pytest.raises(FigureError, match="no column predicted"):
        line_with_band(POINTS, BAND.drop("predicted"), title="T", x_title="c")
    with pytest.raises(MissingRowsError, match="labelled points"):
        line_with_band(POINTS.head(1), BAND, title="T", x_title="c")


def test_layers_are_ordered_and_the_pooled_line_is_bold():
    table = pl.DataFrame(
        {
            "layer": [20, 10, 20, 10],
            "source": ["pooled", "pooled", "villain", "villain"],
            "estimate": [0.6, 0.4, 0.7, None],
            "ci_low": [None, None, 0.6, None],
            "ci_high": [None, None, 0.8, None],
            "n": [550, 550, 110, 110],
        }
    )
    villain, pooled = layer_sensitivity(table, title="T").data
    assert (pooled.name, list(pooled.x), list(pooled.y)) == ("pooled", [10, 20], [0.4, 0.6])
    assert list(villain.y) == [None, 0.7]
    assert pooled.line.width > villain.line.width
    assert pooled.error_y.array is None
    assert list(villain.error_y.array) == [None, pytest.approx(0.1)]
    with pytest.raises(FigureError, match="select one coefficient"):
        layer_sensitivity(pl.concat([table, table]), title="T")
    with pytest.raises(MissingRowsError, match=r"defined correlations by layer: 0 row\(s\)"):
        layer_sensitivity(table.with_columns(estimate=pl.lit(None, pl.Float64)), title="T")


@pytest.mark.parametrize("orientation", ["h", "v"])
def test_rate_bars_group_roles_by_condition(orientation):
    figure = rate_bars(RATES, title="T", orientation=orientation)
    rates = [list(trace.x if orientation == "h" else trace.y) for trace in figure.data]
    assert [trace.name for trace in figure.data] == ["source", "mean bystander"]
    assert rates == [[0.94, 0.73], [0.07, 0.03]]


def test_rate_bars_refuse_two_rows_for_one_bar():
    with pytest.raises(FigureError, match="use bystander_bars"):
        rate_bars(pl.concat([RATES, RATES]), title="T")


def test_bystander_bars_have_a_panel_per_condition_in_the_given_order():
    table = RATES.with_columns(persona=pl.Series(["villain", "joker", "comedian", "actor"]))
    figure = bystander_bars(table, title="T")
    assert [note.text for note in figure.layout.annotations[:2]] == ["villain", "comedian"]
    assert list(figure.layout.yaxis.categoryarray) == ["villain", "joker"]
    assert [trace.name for trace in figure.data if trace.showlegend] == ["source", "mean bystander"]
    with pytest.raises(FigureError, match="more than one row for a \\(condition, persona\\)"):
        bystander_bars(pl.concat([table, table]), title="T")


BUILDERS = [
    ("bystander pairs", by_source, PAIRS),
    ("bystander pairs", partial(scatter_pooled, title="T", x_title="c"), PAIRS),
    ("rates by condition", partial(rate_bars, title="T"), RATES),
    ("rates by persona", partial(bystander_bars, title="T"), RATES.with_columns(persona=pl.lit("x"))),
    (
        "defined correlations by layer",
        partial(layer_sensitivity, title="T"),
        pl.DataFrame({"layer": [1], "source": ["pooled"], "estimate": [0.5]}),
    ),
]


@pytest.mark.parametrize(("what", "build", "table"), BUILDERS)
@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_are_named(what, build, table, rows):
    with pytest.raises(MissingRowsError, match=rf"{what}: {rows} row\(s\), a figure needs at least 2"):
        build(table.head(rows))


def test_a_source_with_one_bystander_is_named():
    with pytest.raises(MissingRowsError, match="bystander pairs of source 'comedian': 1 row"):
        by_source(PAIRS.head(4))


def test_missing_columns_empty_cells_and_self_pairs_are_refused():
    with pytest.raises(FigureError, match="no column cosine"):
        by_source(PAIRS.drop("cosine"))
    with pytest.raises(FigureError, match="column rate is empty in 1 of 5 rows"):
        by_source(PAIRS.with_columns(rate=pl.Series([1.0, None, 0.1, 0.2, 0.5])))
    with pytest.raises(FigureError, match="column cosine is empty in 5 of 5 rows"):
        by_source(PAIRS.with_columns(cosine=pl.lit(float("nan"))))
    with pytest.raises(FigureError, match="villain is listed as its own bystander"):
        by_source(PAIRS.with_columns(persona=pl.lit("villain")))


def test_equal_values_still_have_an_axis():
    figure = by_source(PAIRS.with_columns(cosine=pl.lit(0.5)))
    low, high = figure.layout.xaxis.range
    assert low < 0.5 < high
