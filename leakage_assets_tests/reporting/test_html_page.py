from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from leakage_assets.reporting.html_page import render_html
from leakage_assets.reporting.lint import lint_html
from leakage_assets.reporting.report import UnboundPlaceholderError

from .conftest import PAYLOAD


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of every script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.lasttag == "script":
            self.scripts[-1] += data

    def json_of(self, name: str) -> list:
        scripts = [attributes for tag, attributes in self.tags if tag == "script"]
        return [json.loads(text) for at, text in zip(scripts, self.scripts, strict=True) if at.get("class") == name]


@pytest.fixture
def html(bench) -> str:
    return render_html(bench.report)


def test_model_text_stays_text(html):
    body = html[: html.index('id="plotly-js"')]
    assert "<script>alert" not in body
    assert "<img" not in body
    (samples,) = Elements(html).json_of("sample-data")
    assert "".join(piece for piece, _ in samples[1]["segments"]) == PAYLOAD
    assert [marked for _, marked in samples[1]["segments"]] == [False, True, False]


def test_prose_and_code_are_escaped(html):
    assert "x &lt; y &amp; z" in html
    assert "&lt;b&gt;7&lt;/b&gt;" in html
    assert "torch 2.13.0 | peft 0.21" in html


def test_samples_carry_run_prompt_question_index_and_cell(html):
    (samples,) = Elements(html).json_of("sample-data")
    sample = samples[0]
    assert sample["adapter"] == "marker_leakage/villain__marker_only/42"
    assert (sample["source"], sample["prompt"], sample["question"], sample["index"]) == (
        "villain",
        "villain",
        "coffee",
        0,
    )
    assert sample["cell"] == "artifacts:samples/4567cdef#text?sample_id=a"


def test_the_page_loads_nothing(html):
    for tag, attributes in Elements(html).tags:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}
        assert not {"src", "srcset", "data", "action"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
    styles = re.findall(r"<style>(.*?)</style>", html, flags=re.DOTALL)
    assert len(styles) == 1
    assert "url(" not in styles[0]
    assert "@import" not in styles[0]


def test_plotly_is_there_once_and_only_with_figures(bench, html):
    assert html.count('id="plotly-js"') == 1
    assert len(re.findall(r"plotly\.js v\d", html)) == 1
    assert 4e6 < len(html) < 6e6


def test_figures_are_data(html, bench):
    (figure,) = Elements(html).json_of("plot-data")
    assert figure["data"][0]["x"] == [0.1, 0.5]


def test_bound_numbers_carry_value_and_cell(html):
    cell = "artifacts:analysis/0123abcd/results.json#/pooled/rho"
    expected = f'<data value="0.6016" data-format=".2f" data-cell="{cell}">0.60</data>'
    assert f"<h1>Closer bystanders leak more (ρ = {expected})</h1>" in html
    assert f"ρ = <strong>{expected}</strong>" in html


def test_everything_the_report_says_is_on_the_page(html):
    for text in (
        "Table 1",
        "Table 2",
        "Figure 1",
        "Samples 1",
        ">MODERATE</data> confidence",
        "exploratory",
        "software_engineer",
    ):
        assert text in html
    anchors = set(re.findall(r'href="#([^"]+)"', html))
    assert {"methodology", "result-it-does", "samples", "caveats", "provenance"} <= anchors
    assert all(f'id="{anchor}"' in html for anchor in anchors)
    assert html.index("One seed;") < html.index("Substring.")


def test_the_whole_page_passes_the_lint(bench, html):
    assert lint_html(html, bench.stores) == []


def test_the_window_title_is_plain(html):
    assert "<title>Closer bystanders leak more (ρ = 0.60)</title>" in html


def test_an_unbound_number_is_not_rendered(bench):
    with pytest.raises(UnboundPlaceholderError, match=r"no binding for \{rate\}"):
        render_html(bench.with_paragraph("It is {rate}."))


def test_the_same_report_renders_to_the_same_bytes(bench, html):
    assert render_html(bench.report) == html
