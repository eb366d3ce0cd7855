"""Assets that all studies of a profile share: the base model, the stimuli and the on-policy completions."""

from typing import Any

import dagster as dg

from leakage_assets.assets.common import ONE_GPU, OWNERS, RETRIES, asset_key, group
from leakage_assets.cell_runs import Tally, conclude, not_retried, single
from leakage_assets.partitions import pool_partitions
from leakage_assets.pipeline.foundations import record_base_model, record_stimuli
from leakage_assets.pipeline.training_data import write_on_policy
from leakage_assets.profiles import Profile
from leakage_assets.resources import LaboratoryResource


def shared_assets(profile: Profile) -> list[dg.AssetsDefinition]:
    """The assets under ``[profile]``."""
    base_key, stimuli_key = asset_key(profile, None, "base_model"), asset_key(profile, None, "stimuli")

    @dg.asset(key=base_key, group_name=group(profile, "foundations"), kinds={"transformers"}, owners=OWNERS)
    def base_model(context: dg.AssetExecutionContext, laboratory: LaboratoryResource) -> dg.MaterializeResult[Any]:
        """The base model's files, verified: a local folder's, or a hub commit's, fetched if need be."""
        return single(record_base_model(laboratory.open(context)))

    @dg.asset(key=stimuli_key, group_name=group(profile, "foundations"), kinds={"yaml"}, owners=OWNERS)
    def stimuli(context: dg.AssetExecutionContext, laboratory: LaboratoryResource) -> dg.MaterializeResult[Any]:
        """Personas, triggers, questions and markers: validated, and stored as one snapshot."""
        return single(record_stimuli(laboratory.open(context)))

    @dg.asset(
        key=asset_key(profile, None, "on_policy_completions"),
        deps=[base_key, stimuli_key],
        partitions_def=pool_partitions(profile),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=group(profile, "training_data"),
        kinds={"transformers", "parquet"},
        owners=OWNERS,
        op_tags=ONE_GPU,
        retry_policy=RETRIES,
    )
    @not_retried()
    def on_policy_completions(
        context: dg.AssetExecutionContext, laboratory: LaboratoryResource
    ) -> dg.MaterializeResult[Any]:
        """The base model's own answers to the training questions: a pool per persona, or one that all sources share."""
        lab = laboratory.open(context)
        results = write_on_policy(lab, profile, list(context.partition_keys))
        return conclude(context, Tally().take(results))

    return [base_model, stimuli, on_policy_completions]
