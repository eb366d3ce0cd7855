"""Runs of the jobs in ``jobs``, each in a run worker of its own, and what they left."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil

from leakage_assets.paths import REPO

PATIENCE = 240.0
"""Seconds after which a run hangs. Far more than it takes: a machine that is busy with other work is no error."""


@contextmanager
def run_workers() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts jobs; what still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def run(job: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "leakage_assets_tests.executor.jobs", job]
        process = subprocess.Popen(command, cwd=REPO)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def seen(home: Path) -> dict[str, dict[str, object]]:
    """What each step wrote down."""
    return {path.stem: json.loads(path.read_text()) for path in (home / "seen").glob("*.json")}


def overlap(one: dict[str, object], other: dict[str, object]) -> bool:
    return one["started"] < other["ended"] and other["started"] < one["ended"]  # type: ignore[operator]


def wait_for(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {patience} s"
        time.sleep(0.05)


def events() -> list[dg.DagsterEvent]:
    """Of all runs of this DAGSTER_HOME."""
    with dg.DagsterInstance.get() as instance:
        return [
            record.event_log_entry.dagster_event
            for run in instance.get_runs()
            for record in instance.get_records_for_run(run.run_id).records
            if record.event_log_entry.dagster_event is not None
        ]


def messages() -> list[str]:
    return [event.message or "" for event in events()]


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
