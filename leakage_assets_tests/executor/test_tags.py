"""One tag in the words of each executor."""

from __future__ import annotations

import json

import pytest
from dagster_k8s.job import get_user_defined_k8s_config
from dagster_ray.configs import RayExecutionConfig
from hypothesis import given
from hypothesis import strategies as st

from leakage_assets.executor.tags import GPUS_TAG, K8S_TAG, RAY_TAG, gpus, k8s_tags, ray_tags

HIDDEN = "CUDA_VISIBLE_DEVICES"
NAMES = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1)
VARIABLES = st.dictionaries(NAMES.filter(lambda name: name != HIDDEN), st.text())


@given(st.integers(1, 64), VARIABLES)
def test_a_step_with_gpus(count: int, variables: dict[str, str]) -> None:
    tags = {GPUS_TAG: str(count), "other": "kept"}
    assert gpus(tags) == count
    asked = RayExecutionConfig.from_tags(ray_tags(tags, variables, {}))
    assert (asked.num_gpus, asked.runtime_env) == (count, {"env_vars": variables})
    container = get_user_defined_k8s_config(k8s_tags(tags, variables)).container_config
    assert container["resources"] == {"limits": {"nvidia.com/gpu": str(count)}}
    assert {entry["name"]: entry["value"] for entry in container["env"]} == variables
    assert k8s_tags(tags, variables).keys() - {K8S_TAG} == ray_tags(tags, variables, {}).keys() - {RAY_TAG} == set(tags)


@given(VARIABLES)
def test_a_step_without_gpu_asks_for_none_and_sees_none(variables: dict[str, str]) -> None:
    assert gpus({}) == 0
    asked = RayExecutionConfig.from_tags(ray_tags({}, variables, {}))
    assert (asked.num_gpus, asked.runtime_env) == (0, {"env_vars": {**variables, HIDDEN: ""}})
    container = get_user_defined_k8s_config(k8s_tags({}, variables)).container_config
    assert "resources" not in container
    assert {entry["name"]: entry["value"] for entry in container["env"]} == {**variables, HIDDEN: ""}


@pytest.mark.parametrize("tags", [{}, {GPUS_TAG: "1"}])
def test_the_runtime_environment_of_the_configuration_is_kept(tags: dict[str, str]) -> None:
    configured = {"working_dir": "/code", "env_vars": {"A": "theirs", "B": "theirs"}}
    told = json.loads(ray_tags(tags, {"B": "ours"}, configured)[RAY_TAG])["runtime_env"]
    assert told["working_dir"] == "/code"
    assert (told["env_vars"]["A"], told["env_vars"]["B"]) == ("theirs", "ours")
    assert configured == {"working_dir": "/code", "env_vars": {"A": "theirs", "B": "theirs"}}
