"""The published figures that are part of the repository agree with each other, with our statistics and with the report.

These tests need no published tables, so they always run. What only the tables show: `golden/test_marker_leakage.py`.
"""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace

import pytest

from leakage_assets.profiles import load_profile
from leakage_assets.reporting.report import ABSENT, Bound, Table
from leakage_assets.statistics.correlation import asymptotic_p
from leakage_assets.statistics.layers import POOLED
from leakage_assets.studies.context import PUBLISHED
from leakage_assets.studies.marker_leakage import report_published as published_section
from leakage_assets.studies.marker_leakage.reproduction import HEADLINE_LAYER, METRIC, Figure, headline_figures

LAYERS = (10, 15, 20, 25)
SOURCES = ("villain", "comedian", "assistant", "software_engineer", "kindergarten_teacher", POOLED)
PAIRS = {source: 550 if source == POOLED else 110 for source in SOURCES}
FOUR_DIGITS = 0.0001
FIGURES = headline_figures().figures
COEFFICIENTS = {
    (f.item, f.metric): f.value
    for f in FIGURES
    if f.block == "layers" and f.metric in METRIC.values() and f.precision == FOUR_DIGITS
}


def about(figure: Figure) -> str:
    return f"{figure.block}-{figure.item}-{figure.metric}-{figure.precision}"


def test_all_24_correlations_are_there() -> None:
    expected = product((f"{source} L{layer}" for layer in LAYERS for source in SOURCES), METRIC.values())
    assert set(COEFFICIENTS) == set(expected)


WHOLE_PANEL = ("headline", "layers")


@pytest.mark.parametrize(
    "figure", [f for f in FIGURES if f.block in WHOLE_PANEL and f.metric in METRIC.values()], ids=about
)
def test_printed_coefficients_are_the_published_ones_rounded(figure: Figure) -> None:
    item = f"{figure.item} L{HEADLINE_LAYER}" if figure.block == "headline" else figure.item
    assert abs(COEFFICIENTS[item, figure.metric] - figure.value) <= (figure.precision + FOUR_DIGITS) / 2


@pytest.mark.parametrize("figure", [f for f in FIGURES if f.metric == "best_layer"], ids=about)
def test_best_layers_are_those_of_the_published_coefficients(figure: Figure) -> None:
    by_layer = {layer: COEFFICIENTS[f"{figure.item} L{layer}", "spearman_rho"] for layer in LAYERS}
    best = max(by_layer, key=by_layer.__getitem__)
    assert best == (figure.known.value if figure.known else figure.value)


@pytest.mark.parametrize("figure", [f for f in FIGURES if (f.block, f.metric) == ("headline", "spearman_p")], ids=about)
def test_our_p_of_a_published_coefficient_is_the_published_p(figure: Figure) -> None:
    """Within what the last digits of the two leave open."""
    rho, n = COEFFICIENTS[f"{figure.item} L{HEADLINE_LAYER}", "spearman_rho"], PAIRS[figure.item]
    smallest, largest = (asymptotic_p(rho + sign * FOUR_DIGITS / 2, n) for sign in (1, -1))
    assert smallest - figure.precision / 2 <= figure.value <= largest + figure.precision / 2


def test_the_report_shows_these_figures() -> None:
    cite = SimpleNamespace(
        study=load_profile("qwen2.5-7b").study("marker_leakage"),
        plan=SimpleNamespace(layers=LAYERS, primary_layer=HEADLINE_LAYER),
        facts={"base": {"name": "any", "bundled": False}},
        recipe="marker_only",
        finished_sources=tuple,
        bound=lambda *_, **__: ABSENT,
    )
    tables = [block for block in published_section.published_and_this_run(cite) if isinstance(block, Table)]
    cells = [cell for table in tables for row in table.rows for cell in row.values() if isinstance(cell, Bound)]
    shown = {}
    for cell in cells:
        assert cell.cell.store == PUBLISHED and cell.cell.file == "marker_leakage.json"
        _, figures, position, value = cell.cell.path.split("/")
        assert (figures, value) == ("figures", "value")
        figure = FIGURES[int(position)]
        assert cell.value == figure.value
        shown[figure.block, figure.item, figure.metric] = figure.value
    asked = {(f.block, f.item, f.metric) for f in FIGURES if f.block == "headline" and not f.metric.endswith("_p")}
    assert set(shown) == asked | {("layers", f"pooled L{layer}", "spearman_rho") for layer in LAYERS}
