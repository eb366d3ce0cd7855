from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import polars as pl
import pytest

from leakage_assets.paths import DATA
from leakage_assets.pipeline.conclusions import NothingToAnalyse, freeze_plan
from leakage_assets.pipeline.evidence import masked_text
from leakage_assets.pipeline.publication import (
    LintFailed,
    draw_figures,
    preview_markdown,
    report_paths,
    stable_report,
    write_report,
)
from leakage_assets.reporting.lint import lint_html, lint_markdown
from leakage_assets.store.artifacts import ArtifactMissing, ArtifactStore
from leakage_assets_tests.finished_study import HEADLINE, finish, finish_cell, unfinished_laboratory
from leakage_assets_tests.small_study import the_study


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A laboratory with one recipe and one seed finished and published; the tests that use it change nothing."""
    lab = unfinished_laboratory(tmp_path_factory.mktemp("artifacts"))
    finish(lab)
    publish(lab)
    return lab


@pytest.fixture
def own(shared, tmp_path):
    """A copy of the shared laboratory without its reports, to change."""
    root = tmp_path / "artifacts"
    shutil.copytree(shared.store.root, root)
    for path in (root / "tiny" / "marker_leakage").glob("report*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return replace(shared, store=ArtifactStore(root))


def publish(lab):
    study = the_study(lab)
    return draw_figures(lab, study), write_report(lab, study)


def findings(lab, html, markdown):
    stores = {"artifacts": lab.store.root, "published": DATA / "published"}
    return lint_html(html.read_text(), stores) + lint_markdown(markdown.read_text(), stores)


def test_report_and_its_copy_pass_the_lint(shared):
    figures, report = publish(shared)
    paths = report_paths(report.artifact)
    assert findings(shared, paths["html"], paths["markdown"]) == []
    copy = stable_report(shared, the_study(shared))
    assert copy == shared.store.root / "tiny" / "marker_leakage" / "report.html"
    assert copy.read_bytes() == paths["html"].read_bytes()
    assert findings(shared, copy, copy.with_suffix(".md")) == []
    assert report.metrics == {"confidence": "MODERATE", "cells": 2, "cells_planned": 8}
    assert figures.metrics == {"figures": 5}


def test_links_of_both_markdown_files_lead_to_the_drawn_figures(shared):
    figures, report = publish(shared)
    for page in (
        report_paths(report.artifact)["markdown"],
        stable_report(shared, the_study(shared)).with_suffix(".md"),
    ):
        targets = [line.split("](")[1].rstrip(")") for line in page.read_text().splitlines() if line.startswith("![")]
        assert len(targets) == 5
        assert {(page.parent / target).resolve().parent for target in targets} == {figures.artifact.folder.resolve()}
        assert all((page.parent / target).exists() for target in targets)


def test_finished_work_is_reused_and_a_lost_copy_comes_back(shared):
    publish(shared)
    copy = stable_report(shared, the_study(shared))
    copy.unlink()
    figures, report = publish(shared)
    assert (figures.reused, report.reused) == (True, True)
    assert copy.exists()


def test_previews_are_small_markdown_images(shared):
    figures, _ = publish(shared)
    pictures = preview_markdown(figures.artifact)
    assert {path.stem for path in figures.artifact.folder.glob("*.html")} == set(pictures)
    assert all(text.startswith(f"![{name}](data:image/png;base64,") for name, text in pictures.items())
    assert max(map(len, pictures.values())) < 100_000
    assert (figures.artifact.folder / "plotly.min.js").exists()


def test_same_analysis_gives_the_same_figures(own):
    before = draw_figures(own, the_study(own))
    again = draw_figures(replace(own, refresh="again"), the_study(own))
    assert (before.reused, again.reused) == (True, False)
    assert again.artifact.manifest.digest == before.artifact.manifest.digest


def test_samples_show_both_kinds_of_prompt_with_and_without_the_marker(shared):
    _, report = publish(shared)
    text = report_paths(report.artifact)["html"].read_text()
    rows = json.loads(text.split('class="sample-data">')[1].split("</script>")[0])
    kinds = Counter((row["prompt"] == row["source"], any(marked for _, marked in row["segments"])) for row in rows)
    assert set(kinds) == {(True, True), (True, False), (False, True), (False, False)}
    assert max(kinds.values()) == 5
    assert {row["source"] for row in rows} == {"villain", "comedian"}
    assert "<b>of</b>" not in text  # model text is escaped


def test_figures_before_analysis_name_the_remedy(tmp_path):
    lab = unfinished_laboratory(tmp_path)
    with pytest.raises(NothingToAnalyse, match="materialise scores of at least one cell"):
        draw_figures(lab, the_study(lab))


def test_report_before_figures_names_the_remedy(own):
    shutil.rmtree(own.store.root / "tiny" / "marker_leakage" / "figures")
    with pytest.raises(ArtifactMissing, match="materialise figures first"):
        write_report(own, the_study(own))


@pytest.mark.parametrize("publish", [draw_figures, write_report])
def test_cells_scored_since_the_analysis_are_not_left_out_in_silence(own, publish):
    study = the_study(own)
    finish_cell(own, study.cell("villain", HEADLINE, 137), study.panels[:1])
    with pytest.raises(ArtifactMissing, match="changed since: materialise analysis first"):
        publish(own, study)


def test_analysis_of_a_recipe_that_has_changed_is_refused(own):
    study = the_study(own)
    recipes = tuple(replace(r, epochs=9) if r.name == HEADLINE else r for r in study.recipes)
    changed = replace(study, recipes=recipes)
    with pytest.raises(ArtifactMissing, match="materialise"):
        write_report(own, changed)


def test_analysis_under_another_plan_is_refused(own):
    study = the_study(own)
    changed = replace(study, plan=replace(study.plan, resampling_seed=7))
    freeze_plan(own, changed)
    with pytest.raises(ArtifactMissing, match="changed since: materialise analysis first"):
        write_report(own, changed)


def test_a_typed_number_stops_the_publication(own):
    study = the_study(own)
    forged = replace(study, report=lambda *a: replace(study.report(*a), tldr=("The rate is 97%.",)))
    with pytest.raises(LintFailed, match="'97%' is not bound"):
        write_report(own, forged)
    assert not stable_report(own, study).exists()
    assert own.store.history(own.address(study, "report")) == []


def test_masked_text_sets_trained_tokens_apart():
    row = pl.DataFrame({"token": ["Why", "?", "\n", "So", ".", "\n"], "loss": [False] * 3 + [True] * 3})
    assert masked_text(row) == "      Why?↵\nloss  So|.|↵"


def test_import_stays_light():
    code = (
        "import sys, leakage_assets.pipeline.publication; print({'torch', 'plotly', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
