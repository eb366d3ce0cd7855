"""Adapter and samples of cells, made in one step: the base is loaded and the engine started once for all of it."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from leakage_assets.assets.common import ONE_GPU, OWNERS, RETRIES, asset_key, group
from leakage_assets.assets.sample_columns import SAMPLE_COLUMNS
from leakage_assets.cell_runs import Tally, failure, not_retried, report
from leakage_assets.checks import PROOF, log_proofs, proof_spec
from leakage_assets.partitions import cell_of, cell_partitions
from leakage_assets.pipeline.adapters import prove_cell, train_cell
from leakage_assets.pipeline.conclusions import sample_job
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.sampling import run_sample_jobs
from leakage_assets.profiles import Profile
from leakage_assets.resources import LaboratoryResource
from leakage_assets.studies.study import AnyPanel, Study

STEP = "adapter_and_samples"
Events = Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]


def cell_assets(profile: Profile, study: Study) -> dg.AssetsDefinition:
    """``adapter`` and the samples of every panel; any of them can be materialised alone."""
    adapter_key = asset_key(profile, study, "adapter")
    panels = {_samples_key(profile, study, panel): panel for panel in in_order(study)}

    @dg.multi_asset(
        name=f"{group(profile, study.name)}__{STEP}",
        specs=[_adapter_spec(profile, study), *(_samples_spec(profile, study, panel) for panel in panels.values())],
        check_specs=[proof_spec(adapter_key, study)],
        partitions_def=cell_partitions(study),
        backfill_policy=dg.BackfillPolicy.multi_run(profile.cells_of_a_run(study)),
        op_tags=ONE_GPU,
        retry_policy=RETRIES,
        can_subset=True,
    )
    def adapter_and_samples(context: dg.AssetExecutionContext, laboratory: LaboratoryResource) -> Events:
        """Train, prove on the engine that serves, and sample: what fails in one cell does not stop the others."""
        with not_retried():
            lab = laboratory.open(context)
        failed: dict[str, Exception] = {}
        if adapter_key in context.selected_asset_keys:
            yield from _adapters(context, lab, study, adapter_key, failed)
        for key in (key for key in panels if key in context.selected_asset_keys):
            yield from _samples(context, lab, study, panels[key], key, failed)
        if failed:
            raise failure(context, failed, kept=len(context.partition_keys) - len(failed))

    return adapter_and_samples


def in_order(study: Study) -> list[AnyPanel]:
    """Its panels, each after the one that it goes on from: in this order Dagster wants what a step makes."""

    def before(panel: AnyPanel) -> int:
        followed = study.followed(panel)
        return 0 if followed is None else 1 + before(followed)

    return sorted(study.every_panel, key=before)


def _adapters(
    context: dg.AssetExecutionContext, lab: Laboratory, study: Study, key: dg.AssetKey, failed: dict[str, Exception]
) -> Events:
    with not_retried():
        tally = Tally(failed=failed).attempt(context.partition_keys, lambda one: train_cell(lab, study, cell_of(one)))
        # When all are trained: the engine takes the memory that training needs.
        tally.then(lambda one, trained: prove_cell(lab, study, cell_of(one), trained))
    yield from report(context, tally, key)
    # After the materialisations, which the proofs are about.
    proven = log_proofs(context, tally, key)
    # A refuted aggregate would block what is sampled of the cells that are proven.
    if not failed and dg.AssetCheckKey(key, PROOF) in context.selected_asset_check_keys:
        yield proven


def _samples(
    context: dg.AssetExecutionContext,
    lab: Laboratory,
    study: Study,
    panel: AnyPanel,
    key: dg.AssetKey,
    failed: dict[str, Exception],
) -> Events:
    with not_retried():
        tally, left = Tally(failed=failed), [one for one in context.partition_keys if one not in failed]
        jobs = tally.select(left, lambda one: sample_job(lab, study, panel, cell_of(one)))
        tally.take(run_sample_jobs(lab, jobs))
    yield from report(context, tally, key)


def _adapter_spec(profile: Profile, study: Study) -> dg.AssetSpec:
    return dg.AssetSpec(
        asset_key(profile, study, "adapter"),
        deps=[asset_key(profile, study, "training_set"), asset_key(profile, None, "base_model")],
        description="A LoRA adapter per cell, trained on the shared base model, proven on the engine that serves it.",
        group_name=group(profile, "training"),
        kinds={"pytorch", "huggingface"},
        owners=OWNERS,
    )


def _samples_spec(profile: Profile, study: Study, panel: AnyPanel) -> dg.AssetSpec:
    followed = study.followed(panel)
    before = [] if followed is None else [_samples_key(profile, study, followed)]
    return dg.AssetSpec(
        _samples_key(profile, study, panel),
        deps=[asset_key(profile, study, "adapter"), asset_key(profile, None, "stimuli"), *before],
        description=f"Completions of every cell for the {panel.name} panel: {panel.size:,} samples a cell, appended to "
        "the sample store; only missing ones are generated.",
        metadata={"dagster/column_schema": SAMPLE_COLUMNS, "panel_size": panel.size},
        group_name=group(profile, "measurement"),
        kinds={"transformers", "parquet"},
        owners=OWNERS,
    )


def _samples_key(profile: Profile, study: Study, panel: AnyPanel) -> dg.AssetKey:
    return asset_key(profile, study, f"{panel.asset_prefix}samples")
