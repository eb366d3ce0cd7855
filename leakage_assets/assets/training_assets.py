"""From on-policy answers to proven adapters."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from leakage_assets.assets.common import ONE_GPU, OWNERS, RETRIES, asset_key, group
from leakage_assets.cell_runs import Tally, conclude, not_retried
from leakage_assets.checks import log_proofs, proof_spec
from leakage_assets.partitions import answers_mapping, cell_of, cell_partitions, condition_partitions
from leakage_assets.pipeline.adapters import prove_cell, train_cell
from leakage_assets.pipeline.prechecks import require_prechecks
from leakage_assets.pipeline.training_data import build_training_set
from leakage_assets.profiles import Profile
from leakage_assets.resources import LaboratoryResource
from leakage_assets.studies.study import Condition, Study


def training_assets(profile: Profile, study: Study) -> list[dg.AssetsDefinition]:
    """``training_set`` per condition and ``adapter`` per cell."""
    training_key, adapter_key = asset_key(profile, study, "training_set"), asset_key(profile, study, "adapter")
    answers = dg.AssetDep(asset_key(profile, None, "on_policy_completions"), partition_mapping=answers_mapping(study))
    before = [] if study.prechecks is None else [asset_key(profile, study, "prechecks")]

    @dg.asset(
        key=training_key,
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

    @dg.asset(
        key=adapter_key,
        deps=[training_key, asset_key(profile, None, "base_model")],
        partitions_def=cell_partitions(study),
        backfill_policy=dg.BackfillPolicy.multi_run(profile.cells_of_a_run(study)),
        check_specs=[proof_spec(adapter_key, study)],
        group_name=group(profile, "training"),
        kinds={"pytorch", "huggingface"},
        owners=OWNERS,
        op_tags=ONE_GPU,
        retry_policy=RETRIES,
    )
    def adapter(
        context: dg.AssetExecutionContext, laboratory: LaboratoryResource
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        """A LoRA adapter per cell, trained on the shared base model and proven on the engine that will serve it."""
        with not_retried():
            lab = laboratory.open(context)
            tally = Tally().attempt(context.partition_keys, lambda key: train_cell(lab, study, cell_of(key)))
            # When all are trained: the engine takes the memory that training needs.
            tally.then(lambda key, trained: prove_cell(lab, study, cell_of(key), trained))
        try:
            yield conclude(context, tally)
        finally:  # after the materialisations, which the proofs are about
            proven = log_proofs(context, tally)
        yield proven

    return [training_set, adapter]
