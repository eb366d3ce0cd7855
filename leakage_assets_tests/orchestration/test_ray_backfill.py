"""Acceptance: a backfill of real assets whose steps run in a Ray cluster with two GPUs that exist in name only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from leakage_assets.assets.cell_assets import STEP
from leakage_assets.store.shared_root import MARKER
from leakage_assets_tests.orchestration.deployment import WebServer, deployment
from leakage_assets_tests.orchestration.ray_cluster import ray_cluster
from leakage_assets_tests.orchestration.small_location import HOOK, SEEDS
from leakage_assets_tests.orchestration.workshop import Workshop

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("orchestration")]

STAGES = ("adapter", "samples", "scores")
ON_GPU = STEP
"""The step of adapters and samples; scores need none."""
CONDITIONS = 2
"""Of each seed: enough that a run is over a range. ``test_backfill`` takes them all."""

SECONDS = 600.0


@pytest.fixture
def place(foundations: Path, tmp_path: Path) -> Path:
    """The artifacts that exist before the backfill, and the hook's folder, where trainings wait for each other."""
    shutil.copytree(foundations, tmp_path / "artifacts")
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "meet").touch()
    return tmp_path


@pytest.fixture
def server(place: Path) -> Iterator[WebServer]:
    with ray_cluster(place / "ray.log") as cluster:
        environment = {HOOK: str(place / "hook"), "LEAKAGE_EXECUTOR": "ray", **cluster}
        with deployment(place / "home", place / "artifacts", **environment) as running:
            yield running


def steps(place: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (place / "hook" / "steps").read_text().splitlines()]


def test_two_runs_of_a_backfill_train_on_different_gpus_at_the_same_time(place: Path, server: WebServer) -> None:
    with dg.DagsterInstance.from_config(str(place / "home")) as instance:
        workshop = Workshop(place / "artifacts", instance)
        keys = {str(key) for seed in SEEDS for key in workshop.keys(seed)[:CONDITIONS]}
        paths = [list(workshop.key(stage).path) for stage in STAGES]
        status, runs = server.finish(server.launch(paths, sorted(keys)), SECONDS)
        assert status == "COMPLETED_SUCCESS" and [run["status"] for run in runs] == ["SUCCESS", "SUCCESS"]
        for stage in STAGES:
            assert workshop.materialised(stage) == keys
    seen = [(told["step"].rpartition("__")[2], told["devices"]) for told in steps(place)]
    assert {step for step, _ in seen} == {ON_GPU, "scores"} and len(seen) == 2 * len(SEEDS)
    assert sorted(devices for step, devices in seen if step == ON_GPU) == ["0", "1"]  # they waited for each other
    assert {devices for step, devices in seen if step != ON_GPU} == {""}
    assert (place / "artifacts" / MARKER).exists()
