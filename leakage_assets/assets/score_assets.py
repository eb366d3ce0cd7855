"""Scores of each panel: ``scores`` for the main panel, prefixed for the others."""

from typing import Any

import dagster as dg

from leakage_assets.assets.common import OWNERS, WHEN_INPUTS_CHANGE, asset_key, group
from leakage_assets.assets.sample_columns import IDENTITY_COLUMNS, column_schema
from leakage_assets.cell_runs import Tally, conclude
from leakage_assets.partitions import cell_of, cell_partitions
from leakage_assets.pipeline.conclusions import score_cell
from leakage_assets.profiles import Profile
from leakage_assets.resources import LaboratoryResource
from leakage_assets.studies.study import AnyPanel, Study


def score_assets(profile: Profile, study: Study) -> list[dg.AssetsDefinition]:
    """One asset per panel."""
    return [_score_asset(profile, study, panel) for panel in study.every_panel]


def _score_asset(profile: Profile, study: Study, panel: AnyPanel) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(profile, study, f"{panel.asset_prefix}scores"),
        deps=[asset_key(profile, study, f"{panel.asset_prefix}samples")],
        partitions_def=cell_partitions(study),
        backfill_policy=dg.BackfillPolicy.multi_run(profile.cells_of_a_run(study)),
        automation_condition=WHEN_INPUTS_CHANGE,
        metadata={"dagster/column_schema": column_schema(*IDENTITY_COLUMNS, *study.scoring.columns)},
        description=f"{study.scoring.describes} of every sample of the {panel.name} panel.",
        group_name=group(profile, "measurement"),
        kinds={"polars"},
        owners=OWNERS,
    )
    def scores(context: dg.AssetExecutionContext, laboratory: LaboratoryResource) -> dg.MaterializeResult[Any]:
        lab = laboratory.open(context)
        keys = context.partition_keys
        return conclude(context, Tally().attempt(keys, lambda key: score_cell(lab, study, panel, cell_of(key))))

    return scores
