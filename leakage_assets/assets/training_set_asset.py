"""From on-policy answers to training sets."""

from typing import Any

import dagster as dg

from leakage_assets.assets.common import OWNERS, asset_key, group
from leakage_assets.cell_runs import Tally, conclude
from leakage_assets.partitions import answers_mapping, condition_partitions
from leakage_assets.pipeline.prechecks import require_prechecks
from leakage_assets.pipeline.training_data import build_training_set
from leakage_assets.profiles import Profile
from leakage_assets.resources import LaboratoryResource
from leakage_assets.studies.study import Condition, Study


def training_set_asset(profile: Profile, study: Study) -> dg.AssetsDefinition:
    """``training_set`` per condition."""
    answers = dg.AssetDep(asset_key(profile, None, "on_policy_completions"), partition_mapping=answers_mapping(study))
    before = [] if study.prechecks is None else [asset_key(profile, study, "prechecks")]

    @dg.asset(
        key=asset_key(profile, study, "training_set"),
        deps=[answers, asset_key(profile, None, "stimuli"), *before],
        partitions_def=condition_partitions(study),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=group(profile, "training_data"),
        kinds={"parquet"},
        owners=OWNERS,
    )
    def training_set(context: dg.AssetExecutionContext, laboratory: LaboratoryResource) -> dg.MaterializeResult[Any]:
        """Rows of a condition, positives and negatives, with the loss mask shown token by token."""
        lab = laboratory.open(context)
        require_prechecks(lab, study)
        tally = Tally().attempt(
            context.partition_keys, lambda key: build_training_set(lab, study, Condition.parse(key))
        )
        return conclude(context, tally)

    return training_set
