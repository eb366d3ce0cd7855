"""Steps as jobs of a Ray cluster: dagster-ray starts them, Ray says which GPUs each one has."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dagster as dg
import dagster_ray.core.executor as dagster_ray
import psutil  # type: ignore[import-untyped]
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.executor.step_delegating import (
    CheckStepHealthResult,
    StepDelegatingExecutor,
    StepHandler,
    StepHandlerContext,
)
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage, SqliteEventLogStorage
from ray.job_submission import JobStatus
from ray.util.state import list_nodes

from leakage_assets.executor.remote import ExecutorError, RemoteSteps, Tags
from leakage_assets.executor.tags import gpus, ray_tags

PASSED = ("DAGSTER_HOME", "PYTHONPATH", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "WANDB_MODE")
"""Variables of the run that its steps get too, besides LEAKAGE_*. No secrets: the Ray dashboard shows them."""


def ray_executor(artifacts: Path) -> dg.ExecutorDefinition:
    """dagster-ray's executor with its configuration, where steps ask for GPUs by the neutral tag.

    The run fails with an ``ExecutorError`` where there is no cluster, or one whose steps could not report.
    """
    library = dagster_ray.ray_executor

    @dg.executor(
        name="ray", config_schema=library.config_schema, requirements=dg.multiple_process_executor_requirements()
    )
    def executor(init_context: dg.InitExecutorContext) -> StepDelegatingExecutor:
        runtime_env = init_context.executor_config["ray"].get("runtime_env") or {}  # type: ignore[attr-defined]

        def translate(tags: Tags, variables: Tags) -> Tags:
            return ray_tags(tags, {**_passed_on(artifacts), **variables}, runtime_env)

        try:
            made: StepDelegatingExecutor = library.executor_creation_fn(init_context)
        except ConnectionError as error:
            raise ExecutorError(
                f"LEAKAGE_EXECUTOR=ray: {error} Start Ray, or say in RAY_ADDRESS where it is: see docs/machines.md"
            ) from error
        handler: Any = made._step_handler
        nodes = list_nodes(
            handler.client.get_address(), filters=[("state", "=", "ALIVE")], raise_on_missing_output=False
        )
        require_shared_events(init_context.instance, [node.node_ip for node in nodes])
        made._step_handler = RaySteps(handler, artifacts, translate)
        return made

    return executor


def require_shared_events(instance: dg.DagsterInstance, addresses: Iterable[str]) -> None:
    """Do nothing if steps at these IP addresses can write their events into this instance's database.

    Raises:
        ExecutorError: some are on other hosts, and the database is SQLite, which is for the processes of one host.
    """
    own = {address.address for interface in psutil.net_if_addrs().values() for address in interface}
    others = sorted(set(addresses) - own)
    sqlite = isinstance(instance.event_log_storage, SqliteEventLogStorage | ConsolidatedSqliteEventLogStorage)
    if sqlite and others:
        raise ExecutorError(
            f"LEAKAGE_EXECUTOR=ray: the cluster has nodes on other hosts ({', '.join(others)}), and Dagster's database "
            "is SQLite on this one, where their steps cannot report: use PostgreSQL, see docs/machines.md"
        )


class RaySteps(RemoteSteps):
    """Tells what dagster-ray does not: that a job waits, and that a job which somebody stopped is no healthy one."""

    def __init__(self, handler: StepHandler, artifacts: Path, translate: Callable[[Tags, Tags], Tags]) -> None:
        super().__init__(handler, artifacts, translate)
        self._waiting: set[str] = set()

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        health = super().check_step_health(step_handler_context)
        if not health.is_healthy:
            return health
        handler: Any = self._handler
        job = handler._get_ray_job_submission_id(step_handler_context)
        info = handler.client.get_job_info(job)
        if info.status == JobStatus.STOPPED:
            return CheckStepHealthResult.unhealthy(f"Ray job {job} was stopped")
        if info.status == JobStatus.PENDING and job not in self._waiting:
            self._waiting.add(job)
            step = step_handler_context.get_step_context(handler._get_step_key(step_handler_context))
            needed = gpus(step_handler_context.step_tags[step.step.key])
            DagsterEvent.engine_event(
                step, f"Ray job {job} is waiting: it needs {needed} GPU(s). {info.message}", EngineEventData()
            )
        return health


def _passed_on(artifacts: Path) -> dict[str, str]:
    """What of this process's environment a step needs, wherever it runs."""
    passed = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith("LEAKAGE_")}
    # Ray fills in ${PATH} on the step's host. `dagster` is beside this interpreter, which need not be on the PATH.
    path = f"{Path(sys.executable).parent}:${{PATH}}"
    return {**passed, "PATH": path, "LEAKAGE_ARTIFACTS": str(artifacts.absolute())}
