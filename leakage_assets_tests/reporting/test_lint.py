from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest

from leakage_assets.reporting import html_page
from leakage_assets.reporting.html_page import render_html
from leakage_assets.reporting.lint import CellError, Cells, lint_html, lint_markdown
from leakage_assets.reporting.markdown_page import FigureFiles, render_markdown
from leakage_assets.reporting.report import CellAddress, ProvenanceRow

from .conftest import RATES, RESULTS, SHARDS

PATHS = {"pooled_20": FigureFiles("pooled_20.html", "pooled_20.png")}


@pytest.fixture(autouse=True)
def short_plotly(monkeypatch):
    """Parsing all of plotly.js in each test takes time; test_html_page lints a whole page."""
    monkeypatch.setattr(html_page, "get_plotlyjs", lambda: "const version = 7;")


@pytest.fixture(params=["html", "markdown"])
def form(request):
    """Render and lint in either form: every rule holds in both."""
    if request.param == "html":
        return render_html, lint_html
    return (lambda report: render_markdown(report, PATHS)), lint_markdown


def messages(findings) -> str:
    return "\n".join(str(finding) for finding in findings)


def test_a_true_report_passes(bench, form):
    render, lint = form
    assert lint(render(bench.report), bench.stores) == []


@pytest.mark.parametrize("prose", ["It was 0.61.", "block 20", "H1 holds", "n=551", "**9**", "[see](x) 7", "٣"])
def test_a_typed_number_is_found(bench, form, prose):
    render, lint = form
    findings = lint(render(bench.with_paragraph(prose)), bench.stores)
    assert len(findings) == 1
    assert "is not bound to an artifact cell" in messages(findings)
    assert findings[0].where == "Added"


def test_a_typed_number_that_happens_to_be_true_is_found(bench, form):
    render, lint = form
    findings = lint(render(bench.with_paragraph("n = 550")), bench.stores)
    assert len(findings) == 1
    assert "'550' is not bound" in messages(findings)


@pytest.mark.parametrize("prose", ["`block 20`", "five of them", "n = {n}", "from {rho} to {villain}", "{model}"])
def test_code_words_and_bound_numbers_pass(bench, form, prose):
    render, lint = form
    assert lint(render(bench.with_paragraph(prose)), bench.stores) == []


@pytest.mark.parametrize("place", ["title", "question"])
def test_headings_are_prose(bench, form, place):
    render, lint = form
    findings = lint(render(replace(bench.report, **{place: "All 5 sources"})), bench.stores)
    assert "'5' is not bound" in messages(findings)


def test_labels_of_the_set_up_are_prose_and_its_values_are_not(bench, form):
    render, lint = form
    rows = (ProvenanceRow("Seed 1", "42"),)
    findings = lint(render(replace(bench.report, provenance=rows)), bench.stores)
    assert len(findings) == 1
    assert "'1' is not bound" in messages(findings)


def test_a_number_changed_in_the_page_is_found(bench):
    html = render_html(bench.report).replace(">94.0%</data>", ">95.0%</data>", 1)
    (finding,) = lint_html(html, bench.stores)
    cell = RATES.row("rate", {"source": "villain", "seed": 42})
    assert str(finding) == f"Summary: prints '95.0%', but {cell} holds '94.0%'"


def test_a_value_that_does_not_print_as_its_number_is_found(bench):
    html = render_html(bench.report).replace('value="0.94"', 'value="0.5"', 1)
    assert "prints '94.0%', but notes the value 0.5" in messages(lint_html(html, bench.stores))


def test_findings_name_a_heading_that_holds_numbers(bench):
    html = render_html(bench.report).replace("Plain words only.", "Plain words, 3 of them.")
    html = html.replace("<h2>TL;DR</h2>", "")
    assert lint_html(html, bench.stores)[0].where == "Closer bystanders leak more (ρ = 0.60)"


def test_a_number_and_its_value_changed_together_are_found(bench):
    html = render_html(bench.report).replace('value="0.94"', 'value="0.95"').replace(">94.0%</data>", ">95.0%</data>")
    found = messages(lint_html(html, bench.stores))
    cell = RATES.row("rate", {"source": "villain", "seed": 42})
    assert f"prints '95.0%', but {cell} holds '94.0%'" in found


def test_a_number_stripped_of_its_cell_is_found(bench):
    html = render_html(bench.report).replace('data-cell="', 'data-was="', 1)
    assert "names no cell" in messages(lint_html(html, bench.stores))


def test_a_number_after_a_label_is_found(bench):
    html = render_html(bench.report)
    assert "'9' is not bound" in messages(lint_html(html.replace("Table 1.", "Table 1. 9", 1), bench.stores))


def test_a_number_changed_in_markdown_is_found_and_nothing_else(bench):
    text = render_markdown(bench.report, PATHS).replace("ρ = 0.60", "ρ = 0.61", 1)
    found = [str(finding) for finding in lint_markdown(text, bench.stores)]
    assert len(found) == 2
    assert "'0.61' is not bound" in found[0]
    assert "binding 1: '0.60' is listed but not in the text" in found[1]


@pytest.mark.parametrize(
    ("old", "new"), [("94.0%", "94.0"), ("2.0e-55", "2.0e-5"), ("550", "5 50"), ("86.5%", "-86.5%")]
)
def test_signs_exponents_and_percents_are_part_of_a_number(bench, old, new):
    text = render_markdown(bench.report, PATHS).replace(old, new, 1)
    assert lint_markdown(text, bench.stores) != []


def test_a_list_changed_to_agree_with_an_edited_text_is_found(bench):
    text = render_markdown(bench.report, PATHS).replace("94.0%", "95.0%").replace("0.94,", "0.95,")
    assert "holds '94.0%'" in messages(lint_markdown(text, bench.stores))


def test_a_lost_list_of_bindings_is_found(bench):
    text = render_markdown(bench.report, PATHS)
    assert "'0.60' is not bound" in messages(lint_markdown(text[: text.index("## Bindings")], bench.stores))


def test_a_changed_artifact_is_found(bench, form):
    render, lint = form
    rendered = render(bench.report)
    path = bench.path(RESULTS)
    values = json.loads(path.read_text())
    values["pooled"]["n"] = 549
    path.write_text(json.dumps(values))
    assert "prints '550', but artifacts:analysis/0123abcd/results.json#/pooled/n holds '549'" in messages(
        lint(rendered, bench.stores)
    )


def test_values_are_compared_as_printed(bench, form):
    render, lint = form
    rendered = render(bench.report)
    rates = pl.read_parquet(bench.path(RATES))
    rates.with_columns(rate=pl.col("rate") + 1e-5).write_parquet(bench.path(RATES))
    assert lint(rendered, bench.stores) == []
    rates.with_columns(rate=pl.col("rate") + 1e-3).write_parquet(bench.path(RATES))
    assert "holds '94.1%'" in messages(lint(rendered, bench.stores))


def test_a_missing_artifact_fails(bench, form):
    render, lint = form
    rendered = render(bench.report)
    bench.path(RESULTS).unlink()
    assert "results.json does not exist" in messages(lint(rendered, bench.stores))


def test_an_unknown_store_fails(bench, form):
    render, lint = form
    found = messages(lint(render(bench.report), {"artifacts": bench.stores["artifacts"]}))
    assert "no store 'published'; known are artifacts" in found


def test_a_sample_that_differs_from_the_store_is_found(bench, form):
    render, lint = form
    rendered = render(bench.report).replace("No mark here", "No mark there")
    found = lint(rendered, bench.stores)
    assert [finding.message for finding in found] == [
        f"the sample differs from {SHARDS.row('text', {'sample_id': 'c'})}"
    ]


def test_a_sample_that_is_not_in_the_store_is_found(bench, form):
    render, lint = form
    rendered = render(bench.report)
    (bench.path(SHARDS) / "two.parquet").unlink()
    assert "0 rows match 'sample_id=c'" in messages(lint(rendered, bench.stores))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("artifacts:analysis/0123abcd/results.json#/pooled/x", "has nothing at /pooled/x"),
        ("artifacts:analysis/0123abcd/results.json#/pooled/n/deeper", "has nothing at"),
        ("artifacts:analysis/0123abcd/rates.parquet#nothing?seed=42", "has no column nothing"),
        ("artifacts:analysis/0123abcd/rates.parquet#rate?sed=42", "has no column sed"),
        ("artifacts:analysis/0123abcd/rates.parquet#rate?seed=42", "2 rows match"),
        ("artifacts:analysis/0123abcd/rates.parquet#rate?source=monk", "0 rows match"),
        ("artifacts:broken.parquet#rate?source=monk", "cannot be read"),
        ("artifacts:empty#text?sample_id=a", "cannot be read"),
    ],
)
def test_addresses_that_lead_nowhere_say_why(bench, address, message):
    (bench.stores["artifacts"] / "broken.parquet").write_bytes(b"PAR1")
    (bench.stores["artifacts"] / "empty").mkdir()
    with pytest.raises(CellError, match=message):
        Cells(bench.stores).read(CellAddress.parse(address))


@pytest.mark.parametrize(
    ("address", "value"),
    [
        (RESULTS.at("pooled", "n"), 550),
        (RATES.row("rate", {"source": "villain", "seed": 42}), 0.94),
        (RATES.row("source", {"trained": False}), "software_engineer"),
        (RATES.row("p", {"source": "software_engineer"}), None),
        (SHARDS.row("index", {"sample_id": "c"}), 1),
    ],
)
def test_cells_are_read_from_every_kind_of_file(bench, address, value):
    assert Cells(bench.stores).read(address) == value


@pytest.mark.parametrize(
    ("old", "new"), [("not supported", "supported"), ("not supported", "undecided"), ("MODERATE", "HIGH")]
)
def test_a_swapped_word_of_the_conclusion_is_found(bench, form, old, new):
    render, lint = form
    page = render(bench.report)
    head, mark, bindings = page.partition("## Bindings")
    for edited in (head.replace(old, new), head.replace(old, new, 1)):
        found = messages(lint(edited + mark + bindings, bench.stores))
        assert new in found


def test_verdicts_that_change_places_in_markdown_are_found(bench):
    swapped = {"no": bench.report.bindings["yes"], "yes": bench.report.bindings["no"]}
    page = render_markdown(bench.report, PATHS)
    other = render_markdown(replace(bench.report, bindings={**bench.report.bindings, **swapped}), PATHS)
    edited = other.partition("## Bindings")[0] + "## Bindings" + page.partition("## Bindings")[2]
    assert "is not bound" in messages(lint_markdown(edited, bench.stores))


def test_a_conclusion_that_is_bound_to_nothing_is_found(bench, form):
    render, lint = form
    unbound = replace(bench.report, confidence=replace(bench.report.confidence, cell=None))
    assert "'MODERATE' is not bound" in messages(lint(render(unbound), bench.stores))
    assert "'undecided' is not bound" in messages(lint(render(bench.with_paragraph("H: **undecided**")), bench.stores))


@pytest.mark.parametrize(
    "prose", ["It is undecided whether.", "One seed, which caps it at LOW.", "**not supported by it**"]
)
def test_words_of_a_sentence_are_prose(bench, form, prose):
    render, lint = form
    assert lint(render(bench.with_paragraph(prose)), bench.stores) == []


def test_a_level_that_its_artifact_no_longer_holds_is_found(bench, form):
    render, lint = form
    rendered = render(bench.report)
    path = bench.path(RESULTS)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"level": "LOW"}))
    assert "prints 'MODERATE', but artifacts:analysis/0123abcd/results.json#/level holds 'LOW'" in messages(
        lint(rendered, bench.stores)
    )
