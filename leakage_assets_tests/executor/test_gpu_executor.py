"""Steps and devices through real Dagster runs, with devices that exist in name only."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from leakage_assets.executor.leases import CPU, acquire, holders
from leakage_assets_tests.executor import jobs
from leakage_assets_tests.executor.runs import PATIENCE, alive, events, messages, overlap, run_workers, seen, wait_for

pytestmark = pytest.mark.slow

DEVICES = ("0", "1")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of its own for Dagster's database, for the leases and for what the steps write."""
    for name, folder in (("DAGSTER_HOME", "home"), ("LEAKAGE_LEASES", "leases"), (jobs.FOLDER, "seen")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("LEAKAGE_DEVICES", ",".join(DEVICES))
    (tmp_path / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.get():  # made once, before several processes ask for it
        pass
    return tmp_path


@pytest.fixture
def start(home: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts a job in a run worker of its own."""
    with run_workers() as run:
        yield run


ENDING = 15.0
"""Seconds in which the process of a step that has reported its end is to be gone, and its lease with it."""


def test_four_steps_never_share_two_devices(home, start):
    assert start("four_steps").wait(PATIENCE) == 0
    steps = [seen(home)[name] for name in "abcd"]
    assert {step["devices"] for step in steps} == set(DEVICES)
    for i, one in enumerate(steps):
        for other in steps[i + 1 :]:
            assert one["devices"] != other["devices"] or not overlap(one, other)
    wait_for(lambda: holders(home / "leases", DEVICES) == [], "the end of the last step's process", ENDING)


def test_a_cpu_step_does_not_wait_while_every_device_is_held(home, start):
    lease = acquire(home / "leases", DEVICES, len(DEVICES), "the test")
    run = start("four_steps")
    wait_for(
        lambda: len([text for text in messages() if "waiting for a GPU" in text]) == 4, "the waiting of four steps"
    )
    wait_for(lambda: "cpu" in seen(home), "the step without device")
    assert set(seen(home)) == {"cpu"}
    assert seen(home)["cpu"]["devices"] == ""
    lease.release()
    assert run.wait(PATIENCE) == 0
    assert set(seen(home)) == {"cpu", *"abcd"}


def test_a_step_that_needs_two_devices_gets_both_or_none(home, start):
    assert start("both_devices").wait(PATIENCE) == 0
    found = seen(home)
    assert found["pair"]["devices"] == "0,1"
    assert not overlap(found["pair"], found["single"])


def test_more_devices_than_the_host_has_is_said_in_the_run(home, start):
    assert start("too_many").wait(PATIENCE) == 1
    assert any("3 devices asked for, this host has 2 (0, 1)" in text for text in messages())
    assert seen(home) == {}


def test_a_killed_step_is_retried(home, start):
    assert start("killed_step").wait(PATIENCE) == 0
    assert "second" in seen(home)
    (retry,) = [event for event in events() if event.is_step_up_for_retry]
    assert "its process was ended by SIGKILL" in retry.event_specific_data.error.message


def test_a_step_whose_worker_process_is_killed_ends_and_is_retried(home, start):
    assert start("killed_worker").wait(PATIENCE) == 0
    assert "second" in seen(home)
    assert not alive(int((home / "seen" / "orphan").read_text()))
    (retry,) = [event for event in events() if event.is_step_up_for_retry]
    assert "its process was ended by SIGKILL" in retry.event_specific_data.error.message
    wait_for(lambda: holders(home / "leases", DEVICES) == [], "the end of the last step's process", ENDING)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_step_that_waits_for_a_device_ends_with_its_run(home, start, number):
    lease = acquire(home / "leases", DEVICES, len(DEVICES), "the test")
    run = start("one_step")
    wait_for(lambda: any("waiting for a GPU" in text for text in messages()), "the wait")
    begun = psutil.Process(run.pid).children(recursive=True)
    assert any("leakage_assets.executor.step_worker" in process.cmdline() for process in begun)
    run.send_signal(number)
    run.wait(PATIENCE)
    wait_for(lambda: not any(alive(process.pid) for process in begun), "the end of every process")
    lease.release()
    assert seen(home) == {}
    # Nobody keeps the turn: the next one gets the devices at once.
    acquire(home / "leases", DEVICES, len(DEVICES), "the next", waiting=pytest.fail).release()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_a_run_worker_leaves_no_process_and_no_lease(home, start, number):
    worker = start("with_children")
    wait_for((home / "seen" / "pids.json").exists, "the step")
    pids = json.loads((home / "seen" / "pids.json").read_text())
    assert [str(holder.device) for holder in holders(home / "leases", DEVICES)] == ["0"]
    worker.send_signal(number)
    worker.wait(PATIENCE)
    wait_for(lambda: not any(alive(pid) for pid in pids), "the end of every process")
    wait_for(lambda: holders(home / "leases", DEVICES) == [], "the end of the lease")


def test_two_runs_work_on_two_devices_at_the_same_time(home, start):
    runs = [start("meeting"), start("meeting")]
    assert [run.wait(PATIENCE + jobs.MEETING_SECONDS) for run in runs] == [0, 0]
    assert {path.name for path in (home / "seen").glob("here-*")} == {"here-0", "here-1"}


def test_two_runs_share_the_devices_and_say_that_they_wait(home, start, monkeypatch):
    monkeypatch.setenv("LEAKAGE_DEVICES", "0")
    (home / "other").mkdir()
    first = start("one_step")
    wait_for(lambda: holders(home / "leases", ("0",)), "the first lease")
    monkeypatch.setenv(jobs.FOLDER, str(home / "other"))
    second = start("one_step")
    assert (first.wait(PATIENCE), second.wait(PATIENCE)) == (0, 0)
    one = seen(home)["only"]
    other = json.loads((home / "other" / "only.json").read_text())
    assert one["devices"] == other["devices"] == "0"
    assert not overlap(one, other)
    (wait,) = [text for text in messages() if "waiting for a GPU" in text]
    assert "held: 0 by step only of run" in wait


def test_a_host_without_devices_has_one_lease_for_its_cpu(home, start, monkeypatch):
    monkeypatch.setenv("LEAKAGE_DEVICES", "")
    lease = acquire(home / "leases", (CPU,), 1, "the test")
    run = start("four_steps")
    wait_for(
        lambda: any("waiting for the CPU: it needs 1; held: cpu by the test" in text for text in messages()), "a wait"
    )
    lease.release()
    assert run.wait(PATIENCE) == 0
    steps = [seen(home)[name] for name in "abcd"]
    assert {step["devices"] for step in steps} == {""}
    assert not any(overlap(one, other) for i, one in enumerate(steps) for other in steps[i + 1 :])
