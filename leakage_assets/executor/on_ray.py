"""Steps as jobs of a Ray cluster: dagster-ray starts them, Ray says which GPUs each one has."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import dagster_ray.core.executor as dagster_ray
from dagster._core.executor.step_delegating import CheckStepHealthResult, StepDelegatingExecutor, StepHandlerContext
from ray.job_submission import JobStatus

from leakage_assets.executor.remote import RemoteSteps, Tags
from leakage_assets.executor.tags import ray_tags

PASSED = ("DAGSTER_HOME", "PYTHONPATH", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "WANDB_MODE")
"""Variables of the run that its steps get too, besides LEAKAGE_*. No secrets: the Ray dashboard shows them."""


def ray_executor(artifacts: Path) -> dg.ExecutorDefinition:
    """dagster-ray's executor with its configuration, where steps ask for GPUs by the neutral tag."""
    library = dagster_ray.ray_executor

    @dg.executor(
        name="ray", config_schema=library.config_schema, requirements=dg.multiple_process_executor_requirements()
    )
    def executor(init_context: dg.InitExecutorContext) -> StepDelegatingExecutor:
        runtime_env = init_context.executor_config["ray"].get("runtime_env") or {}  # type: ignore[attr-defined]

        def translate(tags: Tags, variables: Tags) -> Tags:
            return ray_tags(tags, {**_passed_on(artifacts), **variables}, runtime_env)

        made: StepDelegatingExecutor = library.executor_creation_fn(init_context)
        made._step_handler = RaySteps(made._step_handler, artifacts, translate)
        return made

    return executor


class RaySteps(RemoteSteps):
    """dagster-ray takes a job that somebody stopped for a healthy one, and would wait for it for ever."""

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        health = super().check_step_health(step_handler_context)
        handler: Any = self._handler
        job = handler._get_ray_job_submission_id(step_handler_context)
        if health.is_healthy and handler.client.get_job_status(job) == JobStatus.STOPPED:
            return CheckStepHealthResult.unhealthy(f"Ray job {job} was stopped")
        return health


def _passed_on(artifacts: Path) -> dict[str, str]:
    """What of this process's environment a step needs, wherever it runs."""
    passed = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith("LEAKAGE_")}
    # Ray fills in ${PATH} on the step's host. `dagster` is beside this interpreter, which need not be on the PATH.
    path = f"{Path(sys.executable).parent}:${{PATH}}"
    return {**passed, "PATH": path, "LEAKAGE_ARTIFACTS": str(artifacts.absolute())}
