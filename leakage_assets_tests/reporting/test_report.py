from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import polars as pl
import pytest

from leakage_assets.reporting.inline import fill, inline_html
from leakage_assets.reporting.report import (
    ArtifactFile,
    Bound,
    Caveat,
    CellAddress,
    Column,
    Confidence,
    FigureBlock,
    ReportError,
    SampleBlock,
    Table,
    UnboundPlaceholderError,
    block_labels,
    bound_cell,
    format_value,
    ranked_caveats,
    table_from_frame,
)

FILE = ArtifactFile("artifacts", "a/b.json")
CELL = FILE.at("x")


@pytest.mark.parametrize(
    ("value", "spec", "printed"),
    [
        (0.6016, ".2f", "0.60"),
        (0.94, ".1%", "94.0%"),
        (1234567, ",d", "1,234,567"),
        (2.0e-55, "p", "2.0e-55"),
        (0.0312, "p", "0.031"),
        (0.001, "p", "0.001"),
        (0.3249, "points", "+32.5 points"),
        (-0.0001, "points", "+0.0 points"),
        (-0.812, "points", "-81.2 points"),
        (0.06, "unsigned points", "6 points"),
        (0.125, "unsigned points", "12.5 points"),
        (True, "", "yes"),
        (None, ".2f", "–"),
        ("villain", "", "villain"),
    ],
)
def test_values_print_as_their_format_says(value, spec, printed):
    assert format_value(value, spec) == printed


@pytest.mark.parametrize(
    ("value", "spec"), [(float("nan"), ".2f"), (float("inf"), "p"), ("text", ".2f"), ("text", "points"), (0.5, "d")]
)
def test_a_value_that_cannot_be_printed_is_refused_with_its_cell(value, spec):
    with pytest.raises(ReportError, match=r"artifacts:a/b\.json#/x"):
        Bound(value, spec, CELL)


def test_a_value_that_is_not_json_is_refused():
    with pytest.raises(ReportError, match="list is not a JSON value"):
        Bound([1], "", CELL)


@pytest.mark.parametrize(
    "address",
    [
        FILE.at("pooled", "rho"),
        FILE.at("a/b", 0, "c~d"),
        FILE.row("rate", {"source": "a&b=c #1", "seed": 42, "own": True}),
        ArtifactFile("published", "x y.csv").row("n", {}),
    ],
)
def test_addresses_survive_printing(address):
    assert CellAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "artifacts:a.json", "artifacts:../a.json#/x", "artifacts:/a#/x", "Bad:a#/x", "a:b#"]
)
def test_malformed_addresses_are_refused(text):
    with pytest.raises(ReportError, match="cell address"):
        CellAddress.parse(text)


def test_placeholders_are_filled_outside_code_spans():
    bindings = {"rho": Bound(0.6, ".2f", CELL)}
    filled = fill("ρ = {rho}, not `{rho}` nor ``a ` {b}``", bindings, lambda bound: bound.text)
    assert filled == "ρ = 0.60, not `{rho}` nor ``a ` {b}``"


@pytest.mark.parametrize("text", ["{missing}", "{}", "{rho", "rho}", "{{rho}}"])
def test_an_unbound_placeholder_is_refused(text):
    with pytest.raises(UnboundPlaceholderError, match=r"no binding|stray"):
        fill(text, {"rho": Bound(0.6, ".2f", CELL)}, lambda bound: bound.text)


def test_inline_markup_is_rendered_and_html_is_escaped():
    html = inline_html(
        "**{x}** <b> `a<b` ![i](http://e.x/i.png)", {"x": Bound(1, "d", CELL)}, lambda b: f"<i>{b.text}</i>"
    )
    assert html.startswith("<strong><i>1</i></strong> &lt;b&gt; <code>a&lt;b</code>")
    assert "<img" not in html


def test_a_script_link_is_not_a_link():
    assert "href" not in inline_html("[x](javascript:alert)", {}, str)


def test_a_table_refuses_a_number_nobody_vouches_for():
    with pytest.raises(ReportError, match="row 0, column 'n': expected text or a Bound value, found 3"):
        Table("Counts.", (Column("n", "n"),), ({"n": 3},))


def test_a_table_refuses_a_missing_cell_and_no_rows():
    with pytest.raises(ReportError, match=r"column 'n'.*found None"):
        Table("Counts.", (Column("n", "n"),), ({},))
    with pytest.raises(ReportError, match="no rows"):
        Table("Counts.", (Column("n", "n"),), ())


def test_a_frame_becomes_a_table_with_every_cell_bound():
    frame = pl.DataFrame({"source": ["a", "b"], "rate": [0.5, None]})
    table = table_from_frame("T", [Column("source", "s"), Column("rate", "r", ".0%")], frame, FILE, ["source"])
    assert [row["rate"].text for row in table.rows] == ["50%", "–"]
    assert str(table.rows[1]["rate"].cell) == "artifacts:a/b.json#rate?source=b"


def test_a_frame_whose_keys_repeat_or_are_absent_is_refused():
    frame = pl.DataFrame({"source": ["a", "a"], "rate": [0.5, 0.6]})
    with pytest.raises(ReportError, match="source do not identify a row"):
        table_from_frame("T", [Column("rate", "r", ".0%")], frame, FILE, ["source"])
    with pytest.raises(ReportError, match="no column seed; it has source, rate"):
        table_from_frame("T", [Column("rate", "r", ".0%")], frame, FILE, ["seed"])


def test_a_nan_in_a_frame_is_refused():
    frame = pl.DataFrame({"source": ["a"], "rate": [float("nan")]})
    with pytest.raises(ReportError, match="store null"):
        table_from_frame("T", [Column("rate", "r", ".0%")], frame, FILE, ["source"])


def test_a_bound_cell_is_read_from_exactly_one_row():
    frame = pl.DataFrame({"source": ["a", "b", "b"], "rate": [0.5, 0.6, 0.7]})
    bound = bound_cell(frame, FILE, "rate", ".1f", {"source": "a"})
    assert (bound.text, bound.cell.path) == ("0.5", "rate?source=a")
    with pytest.raises(ReportError, match="2 rows have"):
        bound_cell(frame, FILE, "rate", ".1f", {"source": "b"})


def test_one_seed_caps_the_confidence():
    with pytest.raises(ReportError, match="one seed caps it at MODERATE"):
        Confidence("HIGH", "sure", 1)
    assert Confidence("HIGH", "sure", 2).level == "HIGH"


def test_unknown_levels_and_severities_are_refused():
    with pytest.raises(ReportError, match="expected one of HIGH"):
        Confidence("SURE", "x", 3)
    with pytest.raises(ReportError, match="expected one of critical"):
        Caveat("fatal", "x")


def test_names_are_unique_and_file_safe(bench):
    with pytest.raises(ReportError, match="section anchor used more than once: methodology"):
        replace(bench.report, sections=(bench.report.sections[0], bench.report.sections[0]))
    with pytest.raises(ReportError, match="figure name"):
        FigureBlock("../x", None, "")


def test_segments_find_markers_in_any_case_and_lose_nothing():
    block = SampleBlock("S", ("row",), ("[ZLT]", "b+"))
    text = "a [zlt] B+ bb"
    assert block.segments(text) == [
        ("a ", False),
        ("[zlt]", True),
        (" ", False),
        ("B+", True),
        (" bb", False),
    ]
    assert "".join(piece for piece, _ in block.segments(text)) == text


def test_labels_count_figures_tables_and_samples_apart(bench):
    labels = ["Figure 1", "Table 1", "Table 2", "Samples 1"]
    assert list(block_labels(bench.report).values()) == labels


def test_severe_caveats_come_first(bench):
    assert [caveat.severity for caveat in ranked_caveats(bench.report)] == ["critical", "minor"]


def test_the_report_module_does_not_import_a_renderer():
    heavy = ["plotly", "jinja2", "matplotlib", "polars", "markdown_it", "torch"]
    code = f"import sys, leakage_assets.reporting.report; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
