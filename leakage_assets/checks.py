"""Asset checks: the adapter proof, which blocks everything downstream of an unproven adapter, and a study's own."""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from leakage_assets.cell_runs import Tally
from leakage_assets.partitions import cell_partitions
from leakage_assets.pipeline.adapters import ProofFailed
from leakage_assets.pipeline.prechecks import what_blocks
from leakage_assets.studies.study import Study

PROOF = "adapter_proof"
PRECHECKS = "prechecks_pass"
GATES = "sanity_gates"


def proof_spec(adapter: dg.AssetKey, study: Study) -> dg.AssetCheckSpec:
    """Applied at all, the one asked for, rsLoRA scale right, log-probabilities as PEFT's."""
    return dg.AssetCheckSpec(
        PROOF,
        asset=adapter,
        blocking=True,
        partitions_def=cell_partitions(study),
        description="The adapter is applied, is the one asked for, has the rsLoRA scale, and its log-probabilities "
        "agree with PEFT's within twice the noise floor without adapter.",
    )


def precheck_spec(prechecks: dg.AssetKey) -> dg.AssetCheckSpec:
    """Every check of the study before training; one that blocks stops the run."""
    return dg.AssetCheckSpec(
        PRECHECKS,
        asset=prechecks,
        blocking=True,
        description="What the study asks of its prompts and of the base model before anything is trained.",
    )


def precheck_result(study: Study, checks: pl.DataFrame) -> dg.AssetCheckResult:
    """Passed where all are ok; a warning is shown and stops nothing."""
    reason = what_blocks(study, checks)
    lines = [f"| {c['name']} | {c['outcome']} | {c['detail']} |" for c in checks.iter_rows(named=True)]
    return dg.AssetCheckResult(
        check_name=PRECHECKS,
        passed=bool((checks["outcome"] == "ok").all()),
        severity=dg.AssetCheckSeverity.ERROR if reason else dg.AssetCheckSeverity.WARN,
        description=reason,
        metadata={"checks": dg.MetadataValue.md("\n".join(["| check | outcome | |", "|---|---|---|", *lines]))},
    )


def gates_spec(analysis: dg.AssetKey) -> dg.AssetCheckSpec:
    """The sanity gates of a study that has some: told, and nothing waits for them."""
    return dg.AssetCheckSpec(
        GATES,
        asset=analysis,
        blocking=False,
        description="What must be so for the results to mean what they seem to: reported, never a reason to stop.",
    )


def gates_result(gates: pl.DataFrame) -> dg.AssetCheckResult:
    """Passed where every gate is; a gate without a value has not."""
    verdicts = {True: "passed", False: "**failed**", None: "unknown"}
    lines = [
        f"| {row['source']} | {row['arm']} | {row['gate']} | {row['value']} | {row['direction'].replace('_', ' ')} "
        f"{row['limit']} | {verdicts[row['passed']]} |"
        for row in gates.iter_rows(named=True)
    ]
    passed = gates["passed"].to_list()
    table = "\n".join(["| source | arm | gate | value | rule | |", "|---|---|---|---|---|---|", *lines])
    return dg.AssetCheckResult(
        check_name=GATES,
        passed=bool(passed) and all(passed),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "gates": dg.MetadataValue.md(table),
            "failed": passed.count(False),
            "unknown": passed.count(None),
            "total": len(passed),
        },
    )


def log_proofs(context: dg.AssetExecutionContext, tally: Tally, adapter: dg.AssetKey) -> dg.AssetCheckResult:
    """One evaluation per cell, as partitioned checks are not yet stored by ranged runs; returns the aggregate.

    Call it when the cells are materialised: the UI shows an evaluation only beside the materialisation it is about.
    A cell that failed before its proof (no training set, a diverged training) has no evaluation: nothing was proven,
    and nothing was refuted.
    """
    refuted = {key: error for key, error in tally.failed.items() if isinstance(error, ProofFailed)}
    for key, outcome in tally.done.items():
        _log(context, adapter, key, passed=True, metadata=dict(outcome.metrics))
    for key, error in refuted.items():
        _log(context, adapter, key, passed=False, metadata={"error": str(error)})
    return dg.AssetCheckResult(
        asset_key=adapter,
        check_name=PROOF,
        passed=not tally.failed,
        metadata={"proven": len(tally.done), "failed": len(refuted), "not_run": len(tally.failed) - len(refuted)},
    )


def _log(
    context: dg.AssetExecutionContext, adapter: dg.AssetKey, key: str, *, passed: bool, metadata: dict[str, Any]
) -> None:
    context.log_event(
        dg.AssetCheckEvaluation(
            asset_key=adapter,
            check_name=PROOF,
            passed=passed,
            metadata=metadata,
            partition=key,
            target_materialization_data=_latest(context, adapter, key),
        )
    )


def _latest(
    context: dg.AssetExecutionContext, adapter: dg.AssetKey, key: str
) -> AssetCheckEvaluationTargetMaterializationData | None:
    """The materialisation of a partition that an evaluation made now is about; None if there never was one."""
    wanted = dg.AssetRecordsFilter(adapter, asset_partitions=[key])
    found = context.instance.fetch_materializations(wanted, limit=1).records
    if not found:
        return None
    newest = found[0]
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=newest.storage_id, run_id=newest.run_id, timestamp=newest.timestamp
    )
