from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest

from leakage_assets.paths import DATA
from leakage_assets.pipeline.conclusions import analysis_tables, freeze_plan
from leakage_assets.pipeline.evidence import gather_evidence
from leakage_assets.pipeline.publication import with_stored_confidence
from leakage_assets.reporting.html_page import render_html
from leakage_assets.reporting.lint import lint_html
from leakage_assets.reporting.report import Caveat, Paragraph, Table
from leakage_assets.store.fingerprint import fingerprint
from leakage_assets.studies.drawings import draw_all
from leakage_assets.studies.marker_leakage.figures import drawings
from leakage_assets.studies.marker_leakage.report import report
from leakage_assets.studies.report_parts import confidence_level, threshold_excluded
from leakage_assets_tests.finished_study import EVERYTHING, HEADLINE, SEEDS, finish, unfinished_laboratory
from leakage_assets_tests.small_study import the_study


class Written:
    """A laboratory finished as asked, and the report of it."""

    def __init__(self, root, recipes=(HEADLINE,), seeds=(42,), **kwargs):
        self.lab = unfinished_laboratory(root, third_recipe="marker_only" in recipes)
        self.study = the_study(self.lab)
        self.analysis = finish(self.lab, recipes, seeds, **kwargs)
        self.tables = analysis_tables(self.analysis)
        # Of the figures only the folder is printed.
        self.context = gather_evidence(self.lab, self.study, self.analysis, figures=self.analysis)
        made = report(self.study, self.tables, self.context)
        self.report = with_stored_confidence(self.lab, self.study, made, self.analysis, self.context)

    def findings(self):
        stores = {"artifacts": self.lab.store.root, "published": DATA / "published"}
        return lint_html(render_html(self.report), stores)


def headings(made):
    return [section.heading for section in made.sections]


def section(made, heading):
    return next(s for s in made.sections if s.heading == heading)


def first_table(made, heading) -> Table:
    return next(block for block in section(made, heading).blocks if isinstance(block, Table))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return Written(tmp_path_factory.mktemp("full"), EVERYTHING, SEEDS, extras=True)


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory):
    return Written(tmp_path_factory.mktemp("one_seed"))


def test_full_report_passes_the_lint_with_every_section(full):
    made = full.report
    assert full.findings() == []
    assert "Figures left out" not in headings(made)
    assert [s.heading for s in made.sections if s.exploratory] == [
        "What the correlation rests on",
        "Categories and intended relations",
        "Other predictors",
        "Out-of-distribution questions",
    ]
    assert [f.name for f in made.figures()] == [
        "scatter_by_source", "scatter_pooled", "rates", "top_bystanders", "layer_sensitivity", "rates_by_recipe",
    ]  # fmt: skip


def test_seed_spread_is_given_with_two_seeds(full):
    made, tables = full.report, full.tables
    rows = first_table(made, "Seeds").rows
    assert [(row["statistic"], row["source"]) for row in rows] == [
        ("spearman", "`villain`"), ("spearman", "`comedian`"), ("spearman", "**all pairs**"),
        ("source rate", "`villain`"), ("source rate", "`comedian`"),
    ]  # fmt: skip
    values = tables["seeds"].filter(recipe=HEADLINE, statistic="source_rate", name="source_rate_mean_over_seeds")
    printed = {row["source"]: row["mean"].value for row in rows if row["statistic"] == "source rate"}
    assert printed == {f"`{s}`": v for s, v in values.select("source", "estimate").iter_rows()}


def test_tuned_geometry_has_a_dash_for_a_source_without_it(full):
    made, study = full.report, full.study
    rows = {row["source"]: row["tuned"] for row in first_table(made, "Other predictors").rows}
    assert rows[f"`{study.sources[1]}`"] == "–"
    assert rows[f"`{study.sources[0]}`"].value is not None


def test_published_numbers_stand_beside_those_of_the_run(full):
    made, tables = full.report, full.tables
    row = first_table(made, "Published and this run").rows[0]
    assert (row["source"], row["rho_published"].value) == ("`villain`", 0.7)
    layer = tables["layers"].filter(pl.col("primary"))["layer"][0]
    run = tables["correlations"].filter(recipe=HEADLINE, source="villain", layer=layer, name="spearman")
    assert row["rho"].value == run["estimate"].item()


def test_one_seed_is_a_critical_caveat_and_caps_the_confidence(one_seed):
    made = one_seed.report
    assert one_seed.findings() == []
    assert made.confidence.level == "MODERATE"
    assert any(isinstance(c, Caveat) and c.severity == "critical" and "One seed" in c.text for c in made.caveats)
    assert section(made, "Seeds").blocks == (Paragraph("No spread can be given: `one seed: no spread over seeds`."),)
    assert "`rates_by_recipe` needs finished cells of two recipes." in section(made, "Figures left out").blocks[0].items


@pytest.mark.parametrize("recipes", [("marker_only",), ("no_marker",)])
def test_without_the_headline_recipe_the_report_says_that_nothing_is_known(tmp_path, recipes):
    written = Written(tmp_path, recipes)
    made = written.report
    assert written.findings() == []
    assert made.confidence.level == "LOW"
    assert "it is undecided whether" in made.title
    assert made.tldr[0].startswith("No cell of the headline recipe `full_completion` is finished")
    assert "Geometry and leakage" not in headings(made)
    drawn, left_out = draw_all(drawings, written.study, written.tables)
    assert not drawn
    assert set(left_out) == {
        "scatter_by_source", "scatter_pooled", "layer_sensitivity", "rates", "rates_by_recipe", "top_bystanders",
    }  # fmt: skip


def test_a_plan_stored_after_the_scores_is_confessed(one_seed):
    facts = {**one_seed.context.facts, "plan": {**one_seed.context.facts["plan"], "came_first": False}}
    made = report(one_seed.study, one_seed.tables, replace(one_seed.context, facts=facts))
    assert one_seed.context.facts["plan"]["came_first"]
    assert any("not pre-registered" in caveat.text for caveat in made.caveats)
    assert "**after** the first scores of the study" in section(made, "Verdicts against the frozen plan").blocks[0].text


def evidence(written):
    return gather_evidence(written.lab, written.study, written.analysis, figures=written.analysis)


def test_scores_of_any_version_cell_or_panel_count_as_seen(tmp_path):
    written = Written(tmp_path)
    lab, study = written.lab, written.study
    before = evidence(written).facts["plan"]
    assert (before["came_first"], before["changes"]) == (True, 0)
    # Scores under an older identity, of a recipe that is gone, written before the plan was stored.
    (plan,) = lab.store.history(lab.address(study, "analysis_plan"))
    address = lab.address(study, "ood_scores", "villain__forgotten", "7")
    with lab.store.draft(address, {"stage": "scores", "of": "long ago"}) as draft:
        (draft.folder / "scores.parquet").write_text("old")
    backdate(draft.artifact.folder, "2020-01-01T00:00:00.000000+00:00")
    after = evidence(written).facts["plan"]
    assert after == before | {"first_scores": "2020-01-01T00:00:00", "came_first": False}
    assert after["stored"] == plan.manifest.created_at[:19]


def backdate(folder, moment):
    """Give a finished artifact an earlier time of completion, seal and all."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("manifest_sha256")
    manifest["created_at"] = moment
    sealed = {**manifest, "manifest_sha256": fingerprint(manifest, name="manifest")}
    (folder / "manifest.json").write_text(json.dumps(sealed))


def test_a_changed_plan_is_confessed(tmp_path):
    lab = unfinished_laboratory(tmp_path)
    study = the_study(lab)
    freeze_plan(lab, replace(study, plan=replace(study.plan, resampling_seed=7)))
    freeze_plan(lab, replace(study, plan=replace(study.plan, resampling_seed=8)))
    analysis = finish(lab)
    context = gather_evidence(lab, study, analysis, figures=analysis)
    assert context.facts["plan"]["changes"] == 2
    made = report(study, analysis_tables(analysis), context)
    made = with_stored_confidence(lab, study, made, analysis, context)
    assert lint_html(render_html(made), {"artifacts": lab.store.root, "published": DATA / "published"}) == []
    words = "results seen before the current plan cannot count as confirmation."
    verdicts = section(made, "Verdicts against the frozen plan").blocks
    assert [block.text.endswith(words) for block in verdicts if isinstance(block, Paragraph)] == [False, True]
    assert [caveat.severity for caveat in made.caveats if caveat.text.endswith(words)] == ["major"]
    assert "the plan was changed, which caps it at MODERATE" in made.confidence.reason


def test_headline_table_tells_planned_from_exploratory(full):
    tables = [b for b in section(full.report, "Verdicts against the frozen plan").blocks if isinstance(b, Table)]
    status = {row["label"]: row["status"].value for row in tables[1].rows}
    assert status["Pooled ρ of cosine and marker rate"] == status["Sources that learned the marker"] == "planned"
    assert status["The same, ranks within each source"] == "exploratory"
    assert status["Mean source rate, sources resampled"] == "exploratory"
    adjusted = [row["p_holm"].value for row in first_table(full.report, "Geometry and leakage").rows]
    assert [value is None for value in adjusted] == [False, False, True]


@pytest.mark.parametrize(
    ("verdicts", "sources", "seeds", "level"),
    [
        (("supported", "supported"), 2, 2, "HIGH"),
        (("not supported", "supported"), 2, 2, "MODERATE"),
        (("supported", "not supported"), 2, 2, "HIGH"),
        (("supported", "undecided"), 2, 2, "MODERATE"),
        (("supported", "supported"), 2, 1, "MODERATE"),
        (("supported", "supported"), 1, 2, "LOW"),
        (("undecided", "supported"), 2, 2, "LOW"),
    ],
)
def test_confidence_rule(verdicts, sources, seeds, level):
    table = pl.DataFrame({"verdict": verdicts})
    assert confidence_level(table, sources=sources, sources_planned=2, seeds=seeds) == level


def test_a_claim_that_its_interval_excludes_may_be_denied_for_sure():
    table = pl.DataFrame({"verdict": ["not supported", "supported"]})
    assert confidence_level(table, sources=2, sources_planned=2, seeds=2, excluded=True) == "HIGH"
    assert threshold_excluded("at_least", 3.0, 1.5, 2.9) and not threshold_excluded("at_least", 3.0, 1.5, 3.0)
    assert threshold_excluded("less", 0.0, 0.1, 0.4) and not threshold_excluded("less", 0.0, -0.1, 0.4)
    assert not threshold_excluded("at_least", 3.0, None, None)
