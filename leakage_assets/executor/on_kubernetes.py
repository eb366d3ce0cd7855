"""Steps as Kubernetes jobs: dagster-k8s starts them, the cluster gives each one its GPUs."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import dagster_k8s
from dagster._core.executor.step_delegating import StepDelegatingExecutor

from leakage_assets.executor.remote import ExecutorError, RemoteSteps
from leakage_assets.executor.tags import k8s_tags


def k8s_executor(artifacts: Path) -> dg.ExecutorDefinition:
    """dagster-k8s's executor with its configuration, where steps ask for GPUs by the neutral tag."""
    library = dagster_k8s.k8s_job_executor

    @dg.executor(
        name="k8s", config_schema=library.config_schema, requirements=dg.multiple_process_executor_requirements()
    )
    def executor(init_context: dg.InitExecutorContext) -> StepDelegatingExecutor:
        launcher = init_context.instance.run_launcher
        if not isinstance(launcher, dagster_k8s.K8sRunLauncher):
            raise ExecutorError(
                f"LEAKAGE_EXECUTOR=k8s: this instance starts runs with {type(launcher).__name__}, but steps in "
                "Kubernetes need runs in Kubernetes (K8sRunLauncher): see docs/kubernetes/README.md"
            )
        made: StepDelegatingExecutor = library.executor_creation_fn(init_context)
        made._step_handler = RemoteSteps(made._step_handler, artifacts, k8s_tags)
        return made

    return executor
