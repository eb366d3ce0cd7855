from __future__ import annotations

import json

import pytest
from markdown_it import MarkdownIt

from leakage_assets.reporting.markdown_page import FigureFiles, escape_markdown, render_markdown
from leakage_assets.reporting.report import ReportError, UnboundPlaceholderError

from .conftest import PAYLOAD

PATHS = {"pooled_20": FigureFiles("figures/pooled_20.html", "figures/pooled_20.png")}


@pytest.fixture
def text(bench) -> str:
    return render_markdown(bench.report, PATHS)


def tokens(text: str) -> list:
    return MarkdownIt("commonmark").enable("table").parse(text)


def test_headings_have_the_summary_and_details_shape(text):
    lines = [line for line in text.splitlines() if line.startswith("#")]
    assert lines == [
        "# Closer bystanders leak more (ρ = 0.60) (MODERATE confidence)",
        "## TL;DR",
        "## Summary",
        "## Details",
        "### Methodology",
        "### Result: it does (exploratory)",
        "### Samples",
        "## Caveats",
        "## Bindings",
    ]
    assert "- **Confidence: MODERATE** — one seed, 550 pairs" in text


def test_every_table_is_there_with_its_rows(text):
    assert "| software\\_engineer | 86.5% | – | no |" in text
    assert "| pooled \\| ρ | 0.602 | 0.602 | rounded at `4` decimals |" in text
    assert "| Libraries | `torch 2.13.0 \\| peft 0.21` |" in text
    assert sum(token.type == "table_open" for token in tokens(text)) == 3
    assert [token.content for token in tokens(text) if token.type == "inline" and "pooled |" in token.content] == [
        "pooled | ρ"
    ]


def test_figures_are_linked_and_must_have_files(bench, text):
    assert "![pooled_20](figures/pooled_20.png)" in text
    assert "**Figure 1.** **All pairs.** n = 550. ([interactive](figures/pooled_20.html))" in text
    with pytest.raises(ReportError, match="'pooled_20' has no files"):
        render_markdown(bench.report, {})


def test_samples_are_verbatim_and_cannot_leave_their_fence(text):
    samples = [token for token in tokens(text) if token.type == "fence" and token.info.startswith("sample ")]
    assert PAYLOAD + "\n" in [token.content for token in samples]
    assert samples[0].info == "sample artifacts:samples/4567cdef#text?sample_id=a"
    assert not any("alert" in token.content for token in tokens(text) if token.type != "fence")


def test_bindings_are_listed_in_order_of_appearance(text):
    (fence,) = [token for token in tokens(text) if token.type == "fence" and token.info == "bindings"]
    rows = [json.loads(line) for line in fence.content.splitlines()]
    assert rows[0] == ["0.60", 0.6016, ".2f", "artifacts:analysis/0123abcd/results.json#/pooled/rho"]
    assert [row[0] for row in rows[:5]] == ["0.60", "MODERATE", "Qwen2.5 [7B]", "0.60", "2.0e-55"]


def test_an_unbound_number_is_not_rendered(bench):
    with pytest.raises(UnboundPlaceholderError):
        render_markdown(bench.with_paragraph("{rate}"), PATHS)


@pytest.mark.parametrize("value", ["a_b", "*x*", "[l](u)", "<b>", "a|b", "`c`", "# h", "a\nb", "&amp;", "~~s~~", "\\"])
def test_text_from_an_artifact_is_literal(value):
    (inline,) = [
        t
        for t in MarkdownIt("commonmark").enable("strikethrough").parse(f"x {escape_markdown(value)}")
        if t.type == "inline"
    ]
    assert [child.type for child in inline.children] == ["text"]
    assert inline.children[0].content == "x " + " ".join(value.split())
