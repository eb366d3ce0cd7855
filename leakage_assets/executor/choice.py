"""LEAKAGE_EXECUTOR says where steps run: on this host (local, the default), in a Ray cluster, or in Kubernetes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from leakage_assets.executor.gpu_executor import gpu_executor
from leakage_assets.executor.remote import ExecutorError

EXECUTOR = "LEAKAGE_EXECUTOR"


def chosen_executor(artifacts: Path) -> dg.ExecutorDefinition:
    """The executor that the environment names, for steps that work on this artifact root.

    Raises:
        ExecutorError: an unknown name, or a package that is missing.
    """
    name = os.environ.get(EXECUTOR, "local")
    if name not in EXECUTORS:
        raise ExecutorError(f"{EXECUTOR}={name}: no such executor; executors: {', '.join(EXECUTORS)}")
    return EXECUTORS[name](artifacts)


def _ray(artifacts: Path) -> dg.ExecutorDefinition:
    try:
        from leakage_assets.executor.on_ray import ray_executor
    except ImportError as error:
        raise _missing("ray", error) from error
    return ray_executor(artifacts)


def _k8s(artifacts: Path) -> dg.ExecutorDefinition:
    try:
        from leakage_assets.executor.on_kubernetes import k8s_executor
    except ImportError as error:
        raise _missing("k8s", error) from error
    return k8s_executor(artifacts)


def _missing(name: str, error: ImportError) -> ExecutorError:
    return ExecutorError(
        f"{EXECUTOR}={name}: {error}; in the repository: "
        f"pip install --constraint constraints.txt --editable '.[{name}]'"
    )


EXECUTORS: dict[str, Callable[[Path], dg.ExecutorDefinition]] = {
    "local": lambda _: gpu_executor,
    "ray": _ray,
    "k8s": _k8s,
}
