"""Steps and GPUs through real Dagster runs in a Ray cluster on this machine, whose two GPUs exist in name only."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from leakage_assets.paths import REPO
from leakage_assets_tests.executor import jobs
from leakage_assets_tests.executor.runs import PATIENCE, alive, events, messages, overlap, run_workers, seen, wait_for
from leakage_assets_tests.orchestration.ray_cluster import ray_cluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with ray_cluster(tmp_path_factory.mktemp("ray") / "ray.log") as variables:
        yield variables


@pytest.fixture
def home(tmp_path: Path, cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of its own for Dagster's database, the artifact root and what the steps write."""
    for name, folder in (("DAGSTER_HOME", "home"), ("LEAKAGE_ARTIFACTS", "artifacts"), (jobs.FOLDER, "seen")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    for name, value in {**cluster, "LEAKAGE_EXECUTOR": "ray", "PYTHONPATH": str(REPO)}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.get():  # made once, before several processes ask for it
        pass
    return tmp_path


@pytest.fixture
def start(home: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a job in a run worker of its own."""
    with run_workers() as run:
        yield run


def test_four_steps_never_share_two_gpus_and_a_cpu_step_sees_none(home, start):
    assert start("four_steps").wait(PATIENCE) == 0
    found = seen(home)
    steps = [found[name] for name in "abcd"]
    assert {step["devices"] for step in steps} == {"0", "1"}
    for i, one in enumerate(steps):
        for other in steps[i + 1 :]:
            assert one["devices"] != other["devices"] or not overlap(one, other)
    assert found["cpu"]["devices"] == ""


# In a process of its own: Ray reads how it is to identify itself once, when it is first imported.
ELSEWHERE = """
import sys
import dagster as dg, psutil
from pathlib import Path
from leakage_assets.executor.choice import chosen_executor
from leakage_assets_tests.executor import jobs

psutil.net_if_addrs = dict  # a host without the cluster's address
executor = chosen_executor(Path(sys.argv[1]))
with dg.DagsterInstance.get() as instance:
    config = {"ray": {}, "retries": {"enabled": {}}}
    executor.executor_creation_fn(
        dg.InitExecutorContext(dg.reconstructable(jobs.four_steps), executor, config, instance)
    )
"""


def test_a_node_that_is_not_this_host_is_found(home):
    command = [sys.executable, "-c", ELSEWHERE, str(home / "artifacts")]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    refusal = done.stderr.splitlines()[-1]
    assert re.search(r"ExecutorError: .*nodes on other hosts \([0-9.]+\), and Dagster's database is SQLite", refusal)


def test_a_killed_step_is_retried(home, start):
    assert start("killed_step").wait(PATIENCE) == 0
    assert "second" in seen(home)
    (retry,) = [event for event in events() if event.is_step_up_for_retry]
    assert "failed health check: Discovered failed Ray job" in retry.event_specific_data.error.message


def test_a_stopped_step_is_retried(home, start, cluster):
    run = start("stopped_step")
    wait_for((home / "seen" / "deaf").exists, "the step")
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(
        cluster["RAY_ADDRESS"], headers={"Authorization": f"Bearer {cluster['RAY_AUTH_TOKEN']}"}
    )
    running = [job for job in client.list_jobs() if job.status == JobStatus.RUNNING]
    (job,) = [job for job in running if (job.metadata or {}).get("dagster/op") == "hears_nothing_once"]
    client.stop_job(job.submission_id)
    assert run.wait(PATIENCE) == 0
    assert "second" in seen(home)
    (retry,) = [event for event in events() if event.is_step_up_for_retry]
    assert f"Ray job {job.submission_id} was stopped" in retry.event_specific_data.error.message


def test_a_step_that_waits_for_gpus_says_so_and_ends_with_its_run(home, start):
    run = start("too_many")
    wait_for(lambda: any("is waiting: it needs 3 GPU(s)" in text for text in messages()), "the wait")
    run.send_signal(signal.SIGTERM)
    run.wait(PATIENCE)
    assert seen(home) == {}


def test_the_end_of_a_run_worker_ends_its_steps(home, start):
    worker = start("with_children")
    wait_for((home / "seen" / "pids.json").exists, "the step")
    step, _, child = json.loads((home / "seen" / "pids.json").read_text())
    worker.send_signal(signal.SIGTERM)
    worker.wait(PATIENCE)
    wait_for(lambda: not alive(step) and not alive(child), "the end of the step and what it started")
