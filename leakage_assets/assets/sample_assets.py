"""Samples and scores of each panel: ``samples``/``scores`` for the main panel, prefixed for the others."""

from typing import Any

import dagster as dg

from leakage_assets.assets.common import ONE_GPU, OWNERS, RETRIES, WHEN_INPUTS_CHANGE, asset_key, group
from leakage_assets.cell_runs import Tally, conclude, not_retried
from leakage_assets.partitions import cell_of, cell_partitions
from leakage_assets.pipeline.conclusions import sample_job, score_cell
from leakage_assets.pipeline.sampling import run_sample_jobs
from leakage_assets.profiles import Profile
from leakage_assets.resources import LaboratoryResource
from leakage_assets.studies.study import AnyPanel, Study


def sample_assets(profile: Profile, study: Study) -> list[dg.AssetsDefinition]:
    """Two assets per panel."""
    return [asset for panel in study.every_panel for asset in _panel_assets(profile, study, panel)]


def _panel_assets(profile: Profile, study: Study, panel: AnyPanel) -> list[dg.AssetsDefinition]:
    samples_key = asset_key(profile, study, f"{panel.asset_prefix}samples")
    shared: dict[str, Any] = {
        "partitions_def": cell_partitions(study),
        "backfill_policy": dg.BackfillPolicy.multi_run(profile.cells_per_run),
        "group_name": group(profile, "measurement"),
        "owners": OWNERS,
    }

    @dg.asset(
        key=samples_key,
        deps=[asset_key(profile, study, "adapter"), asset_key(profile, None, "stimuli")],
        kinds={"transformers", "parquet"},
        op_tags=ONE_GPU,
        retry_policy=RETRIES,
        metadata={"dagster/column_schema": SAMPLE_COLUMNS, "panel_size": panel.size},
        description=f"Completions of every cell for the {panel.name} panel: {panel.size:,} samples a cell, appended to "
        "the sample store; only missing ones are generated.",
        **shared,
    )
    @not_retried()
    def samples(context: dg.AssetExecutionContext, laboratory: LaboratoryResource) -> dg.MaterializeResult[Any]:
        lab, tally = laboratory.open(context), Tally()
        jobs = tally.select(context.partition_keys, lambda key: sample_job(lab, study, panel, cell_of(key)))
        return conclude(context, tally.take(run_sample_jobs(lab, jobs)))

    @dg.asset(
        key=asset_key(profile, study, f"{panel.asset_prefix}scores"),
        deps=[samples_key],
        kinds={"polars"},
        automation_condition=WHEN_INPUTS_CHANGE,
        metadata={"dagster/column_schema": _schema(*_IDENTITY, *study.scoring.columns)},
        description=f"{study.scoring.describes} of every sample of the {panel.name} panel.",
        **shared,
    )
    def scores(context: dg.AssetExecutionContext, laboratory: LaboratoryResource) -> dg.MaterializeResult[Any]:
        lab = laboratory.open(context)
        keys = context.partition_keys
        return conclude(context, Tally().attempt(keys, lambda key: score_cell(lab, study, panel, cell_of(key))))

    return [samples, scores]


def _schema(*columns: tuple[str, str, str]) -> dg.TableSchema:
    return dg.TableSchema(columns=[dg.TableColumn(name, kind, description=text) for name, kind, text in columns])


_IDENTITY = (
    ("sample_id", "string", "sha256 of what was asked: adapter, prompt, question, prefix, index, sampling"),
    ("prompt_name", "string", "persona or trigger of the panel"),
    ("question_set", "string", "eval, or an out-of-distribution set"),
    ("question_name", "string", "question within its set"),
    ("index", "int64", "completion number"),
)
SAMPLE_COLUMNS = _schema(
    *_IDENTITY,
    ("adapter", "string", "study/condition/seed"),
    ("system", "string", "system prompt as sent; null lets the template insert its default"),
    ("question", "string", "user turn"),
    ("prefix", "string", "given start of the assistant turn"),
    ("text", "string", "completion"),
    ("n_tokens", "int64", "generated tokens, end-of-turn included"),
    ("finish_reason", "string", "stop or length"),
    ("seed", "int64", "derived from sample_id"),
)
