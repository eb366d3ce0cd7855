"""How many GPUs a step needs, said once in a neutral op tag, and in the words of each executor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from leakage_assets.executor.leases import VISIBLE

GPUS_TAG = "leakage/gpus"
RAY_TAG = "dagster-ray/config"
K8S_TAG = "dagster-k8s/config"
K8S_GPU = "nvidia.com/gpu"


def gpus(tags: Mapping[str, str]) -> int:
    """The number of GPUs a step asks for; 0 without the tag."""
    return int(tags.get(GPUS_TAG, "0"))


def ray_tags(tags: Mapping[str, str], variables: Mapping[str, str], runtime_env: Mapping[str, Any]) -> dict[str, str]:
    """The tags with what dagster-ray is to ask of Ray.

    Args:
        variables: environment variables of the step's process.
        runtime_env: of the executor's own configuration; a runtime_env in a tag would hide it.
    """
    told = {**runtime_env, "env_vars": {**runtime_env.get("env_vars", {}), **_environment(tags, variables)}}
    return {**tags, RAY_TAG: json.dumps({"num_gpus": gpus(tags), "runtime_env": told})}


def k8s_tags(tags: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """The tags with what dagster-k8s is to write into the step's pod; it adds this to the pod's other settings."""
    environment = [{"name": name, "value": value} for name, value in _environment(tags, variables).items()]
    container: dict[str, Any] = {"env": environment}
    if count := gpus(tags):
        container["resources"] = {"limits": {K8S_GPU: str(count)}}
    return {**tags, K8S_TAG: json.dumps({"container_config": container})}


def _environment(tags: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """A step without GPU would see those of its host: Ray hides none from it, and CUDA images ask for all."""
    return dict(variables) if gpus(tags) else {**variables, VISIBLE: ""}
