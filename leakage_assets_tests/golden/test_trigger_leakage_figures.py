"""The typed-in figures of trigger_leakage agree with each other; needs no published table, so it always runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leakage_assets.studies.published import ReproductionError
from leakage_assets.studies.trigger_leakage.panel import TRIGGERS
from leakage_assets.studies.trigger_leakage.reproduction import FIGURES, headline_figures

VALUES = {figure.key: figure.value for figure in headline_figures().figures}


def value(block: str, item: str, metric: str) -> float:
    return VALUES[block, item, metric]


def test_counts_follow_from_one_another() -> None:
    prompts, adapters = value("design", "panel", "prompts"), value("design", "all models", "adapters")
    assert value("design", "panel", "pairs") == prompts * (prompts - 1) / 2
    assert value("design", "each model", "completions") == prompts * 20 * 10
    assert value("design", "all models", "completions") == adapters * value("design", "each model", "completions")
    assert value("design", "training", "steps") == 5 * -(-value("design", "training", "rows") // 16)
    assert value("design", "H2", "rows") == 12 * (prompts - 4)


def test_every_figure_is_there_once_and_every_claim_names_its_ambiguity() -> None:
    figures = headline_figures().figures
    assert len({figure.key for figure in figures}) == len(figures)
    claims = [figure for figure in figures if "claim" in figure.where or figure.block == "claims"]
    assert {figure.known.by for figure in claims} == {"B1", "B3", "B7", "B9", "B14"}
    assert all(figure.known is None for figure in figures if figure not in claims)


def test_reported_numbers_are_those_of_the_sheet() -> None:
    assert value("reported", "H1", "matched_rate_pct") / value("reported", "H1", "bystander_rate_pct") == pytest.approx(
        value("reported", "H1", "ratio"), abs=0.05
    )
    full, semantic = (value("reported", "H2", f"{axes}_cv_r2") for axes in ("full", "semantic_only"))
    assert full - semantic == pytest.approx(value("reported", "H2", "cv_r2_gap"), abs=0.011)
    cells = {(f.item, f.metric) for f in headline_figures().figures if f.metric.startswith("cell_")}
    assert len(cells) == 16 and {item for item, _ in cells} == set(TRIGGERS)


def test_a_fault_in_the_file_is_named(tmp_path: Path) -> None:
    content = json.loads(FIGURES.read_text(encoding="utf-8"))
    content["figures"][0]["value"] = "many"
    broken = tmp_path / "trigger_leakage.json"
    broken.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ReproductionError, match=r"figures\.0\.value"):
        headline_figures(broken)
