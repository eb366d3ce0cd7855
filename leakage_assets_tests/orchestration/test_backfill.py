"""Acceptance: backfills launched as the web UI launches them, run by the daemon, over every condition of a seed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from leakage_assets_tests.orchestration.deployment import WebServer, deployment, processes_of, wait_for
from leakage_assets_tests.orchestration.small_location import HOOK
from leakage_assets_tests.orchestration.workshop import Workshop

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("orchestration")]

STAGES = ("adapter", "samples", "scores")
BROKEN = "villain__no_marker"
SECONDS = 150.0
"""Each run starts two interpreters and imports the model libraries: 20 s alone, minutes on a busy machine."""


@pytest.fixture(scope="module")
def place(foundations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the artifacts that exist before any backfill, and the training hook's own folder."""
    folder = tmp_path_factory.mktemp("deployment")
    shutil.copytree(foundations, folder / "artifacts")
    (folder / "hook").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[WebServer]:
    home = place / "home"
    with deployment(home, place / "artifacts", **{HOOK: str(place / "hook")}) as running:
        assert processes_of(home)
        yield running
    wait_for(lambda: None if processes_of(home) else True, 20, "the end of every process")


@pytest.fixture
def workshop(place: Path, server: WebServer) -> Iterator[Workshop]:
    """What Dagster shows of the deployment."""
    with dg.DagsterInstance.from_config(str(place / "home")) as instance:
        yield Workshop(place / "artifacts", instance)


def trained(place: Path) -> list[str]:
    """The cells whose training was begun since the last call."""
    noted = place / "hook" / "trained"
    cells = noted.read_text().split()
    noted.unlink()
    return sorted(cells)


def paths(workshop: Workshop) -> list[list[str]]:
    return [list(workshop.key(stage).path) for stage in STAGES]


def trains(run: dict[str, Any]) -> bool:
    return any(asset["path"][-1] == "adapter" for asset in run["assetSelection"])


def range_of(run: dict[str, Any]) -> tuple[str, str]:
    """First and last partition of a run."""
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    return tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"]


def test_one_seed_over_all_conditions_is_one_run(place: Path, server: WebServer, workshop: Workshop) -> None:
    keys = sorted(workshop.keys(42))
    status, runs = server.finish(server.launch(paths(workshop), keys), SECONDS)
    assert status == "COMPLETED_SUCCESS"
    assert [run["status"] for run in runs] == ["SUCCESS"]
    for stage in STAGES:
        assert workshop.materialised(stage) == set(keys)
    assert trained(place) == keys


def test_a_failed_cell_leaves_the_others_and_a_retry_trains_it_alone(
    place: Path, server: WebServer, workshop: Workshop
) -> None:
    before = {stage: workshop.materialised(stage) for stage in STAGES}
    keys, broken = sorted(workshop.keys(137)), f"{BROKEN}|137"
    (place / "hook" / "fail").write_text(BROKEN)
    backfill = server.launch(paths(workshop), keys)
    status, runs = server.finish(backfill, SECONDS)
    assert status == "COMPLETED_FAILED" and [run["status"] for run in runs] == ["FAILURE"]
    assert workshop.materialised("adapter") - before["adapter"] == set(keys) - {broken}
    assert trained(place) == keys

    (place / "hook" / "fail").unlink()
    status, runs = server.finish(server.retry(backfill), SECONDS)
    assert status == "COMPLETED_SUCCESS"
    # Samples and scores were skipped for every cell of the failed run, so their run spans them all; training does not.
    assert [range_of(run) for run in runs if trains(run)] == [(broken, broken)]
    assert trained(place) == [broken]
    for stage in STAGES:
        assert workshop.materialised(stage) - before[stage] == set(keys)
