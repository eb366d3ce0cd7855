"""Geometry of the base model, and of the tuned models as an extension."""

from typing import Any

import dagster as dg

from leakage_assets.assets.common import ONE_GPU, OWNERS, RETRIES, WHEN_INPUTS_CHANGE, asset_key, group
from leakage_assets.cell_runs import Tally, conclude, not_retried, single
from leakage_assets.partitions import cell_of, cell_partitions
from leakage_assets.pipeline.geometry import (
    compute_prompt_similarity,
    compute_tuned_similarity,
    measure_persona_centroids,
)
from leakage_assets.profiles import Profile
from leakage_assets.resources import LaboratoryResource
from leakage_assets.studies.study import Study


def geometry_assets(profile: Profile, study: Study) -> list[dg.AssetsDefinition]:
    """``persona_centroids``, ``prompt_similarity`` and ``tuned_similarity``."""
    centroids_key = asset_key(profile, study, "persona_centroids")

    @dg.asset(
        key=centroids_key,
        deps=[asset_key(profile, None, "base_model"), asset_key(profile, None, "stimuli")],
        group_name=group(profile, "geometry"),
        kinds={"pytorch", "safetensors"},
        owners=OWNERS,
        op_tags=ONE_GPU,
        retry_policy=RETRIES,
    )
    @not_retried()
    def persona_centroids(
        context: dg.AssetExecutionContext, laboratory: LaboratoryResource
    ) -> dg.MaterializeResult[Any]:
        """Hidden vectors of every prompt and question at the last input token, and next-token divergences."""
        return single(measure_persona_centroids(laboratory.open(context), study))

    @dg.asset(
        key=asset_key(profile, study, "prompt_similarity"),
        deps=[centroids_key],
        group_name=group(profile, "geometry"),
        kinds={"numpy"},
        owners=OWNERS,
        automation_condition=WHEN_INPUTS_CHANGE,
    )
    def prompt_similarity(
        context: dg.AssetExecutionContext, laboratory: LaboratoryResource
    ) -> dg.MaterializeResult[Any]:
        """Centred cosine per layer and Jensen-Shannon divergence of every prompt to every source."""
        return single(compute_prompt_similarity(laboratory.open(context), study))

    @dg.asset(
        key=asset_key(profile, study, "tuned_similarity"),
        deps=[asset_key(profile, study, "adapter"), asset_key(profile, None, "stimuli")],
        partitions_def=cell_partitions(study),
        backfill_policy=dg.BackfillPolicy.multi_run(profile.cells_of_a_run(study)),
        group_name=group(profile, "geometry"),
        kinds={"pytorch"},
        owners=OWNERS,
        op_tags=ONE_GPU,
        retry_policy=RETRIES,
    )
    @not_retried()
    def tuned_similarity(
        context: dg.AssetExecutionContext, laboratory: LaboratoryResource
    ) -> dg.MaterializeResult[Any]:
        """Extension: the same similarities read off each tuned model."""
        lab = laboratory.open(context)
        keys = context.partition_keys
        return conclude(context, Tally().attempt(keys, lambda key: compute_tuned_similarity(lab, study, cell_of(key))))

    return [persona_centroids, prompt_similarity, tuned_similarity]
