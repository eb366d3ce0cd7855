"""The frozen plan, the analysis over all finished cells, figures and report."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from leakage_assets.assets.common import OWNERS, WHEN_INPUTS_CHANGE, asset_key, group
from leakage_assets.cell_runs import single
from leakage_assets.checks import gates_result, gates_spec
from leakage_assets.pipeline.conclusions import analyse_study, analysis_tables, freeze_plan
from leakage_assets.pipeline.publication import (
    draw_figures,
    preview_markdown,
    report_paths,
    stable_report,
    verdicts_markdown,
    write_report,
)
from leakage_assets.profiles import Profile
from leakage_assets.resources import LaboratoryResource
from leakage_assets.studies.study import Study


def conclusion_assets(profile: Profile, study: Study) -> list[dg.AssetsDefinition]:
    """``analysis_plan``, ``analysis``, ``figures`` and ``report``."""

    def key(name: str) -> dg.AssetKey:
        return asset_key(profile, study, name)

    shared: dict[str, Any] = {"group_name": group(profile, "conclusions"), "owners": OWNERS}
    every_cell = dg.AllPartitionMapping()
    scores = [key(f"{panel.asset_prefix}scores") for panel in study.every_panel]
    fan_in = [dg.AssetDep(of_panel, partition_mapping=every_cell) for of_panel in scores]
    tuned = dg.AssetDep(key("tuned_similarity"), partition_mapping=every_cell)

    @dg.asset(key=key("analysis_plan"), kinds={"json"}, deps=[asset_key(profile, None, "stimuli")], **shared)
    def analysis_plan(context: dg.AssetExecutionContext, laboratory: LaboratoryResource) -> dg.MaterializeResult[Any]:
        """What is decided before the data are seen: layers, thresholds, resamples, seeds; hashed."""
        return single(freeze_plan(laboratory.open(context), study))

    @dg.asset(
        key=key("analysis"),
        deps=[key("analysis_plan"), key("prompt_similarity"), tuned, *fan_in],
        check_specs=[] if study.gates is None else [gates_spec(key("analysis"))],
        kinds={"polars", "scipy"},
        automation_condition=WHEN_INPUTS_CHANGE,
        **shared,
    )
    def analysis(
        context: dg.AssetExecutionContext, laboratory: LaboratoryResource
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        """Every planned statistic over the cells that are finished; the extensions marked exploratory."""
        outcome = analyse_study(laboratory.open(context), study)
        yield single(outcome)
        if study.gates is not None:
            yield gates_result(analysis_tables(outcome.artifact)[study.gates])

    @dg.asset(
        key=key("figures"), deps=[key("analysis")], kinds={"plotly"}, automation_condition=WHEN_INPUTS_CHANGE, **shared
    )
    def figures(context: dg.AssetExecutionContext, laboratory: LaboratoryResource) -> dg.MaterializeResult[Any]:
        """Interactive figures as HTML, with a small picture of each here."""
        outcome = draw_figures(laboratory.open(context), study)
        pictures = {name: dg.MetadataValue.md(text) for name, text in preview_markdown(outcome.artifact).items()}
        return single(outcome, **pictures)

    @dg.asset(
        key=key("report"),
        deps=[key("analysis"), key("figures"), key("analysis_plan")],
        kinds={"html", "markdown"},
        automation_condition=WHEN_INPUTS_CHANGE,
        **shared,
    )
    def report(context: dg.AssetExecutionContext, laboratory: LaboratoryResource) -> dg.MaterializeResult[Any]:
        """The write-up, every number bound to the artifact cell it comes from."""
        lab = laboratory.open(context)
        outcome = write_report(lab, study)
        paths = {"newest": stable_report(lab, study), **report_paths(outcome.artifact)}
        shown = {name: dg.MetadataValue.path(str(path)) for name, path in paths.items()}
        return single(outcome, verdicts=dg.MetadataValue.md(verdicts_markdown(lab, study)), **shown)

    return [analysis_plan, analysis, figures, report]
