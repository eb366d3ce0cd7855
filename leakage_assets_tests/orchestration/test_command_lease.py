"""`leakage run` works in its own process, and takes its turn with the steps of other runs on the host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from leakage_assets import materialise
from leakage_assets.executor.leases import CPU, acquire, holders, lease_folder
from leakage_assets.materialise import StudyRuns
from leakage_assets.profiles import load_profile

DEVICES = ("0", "1")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[StudyRuns]:
    """Runs of the tiny profile whose stages do nothing but say who holds which device."""

    def stage(*_: Any) -> Iterator[str]:
        yield ", ".join(map(str, holders(lease_folder(), DEVICES)))

    for name in ("foundations", "cells", "conclusions"):
        monkeypatch.setattr(StudyRuns, name, stage)
    monkeypatch.setenv("LEAKAGE_DEVICES", ",".join(DEVICES))
    profile = load_profile("tiny")
    with dg.DagsterInstance.ephemeral() as instance:
        yield StudyRuns(profile, profile.study("marker_leakage"), instance=instance)


def test_it_holds_what_its_assets_ask_for_from_the_first_stage_to_the_last(runs: StudyRuns) -> None:
    assert runs.gpus == 1
    assert list(runs.all_stages([], extras=False)) == ["0 by leakage run marker_leakage"] * 3
    assert holders(lease_folder(), DEVICES) == []


def test_it_waits_and_says_for_whom(
    runs: StudyRuns, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = acquire(lease_folder(), DEVICES, 2, "step samples of run 12345678")
    say = materialise._say

    def say_and_free(text: str) -> None:
        say(text)
        other.release()

    monkeypatch.setattr(materialise, "_say", say_and_free)
    assert len(list(runs.all_stages([], extras=False))) == 3
    held = "0 by step samples of run 12345678, 1 by step samples of run 12345678"
    expected = f"leakage run marker_leakage is waiting for a GPU: it needs 1; held: {held}\n"
    assert capsys.readouterr().err == expected


def test_what_is_not_finished_gives_the_device_back(runs: StudyRuns) -> None:
    stages = runs.all_stages([], extras=False)
    next(stages)
    assert [holder.device for holder in holders(lease_folder(), DEVICES)] == ["0"]
    stages.close()  # type: ignore[attr-defined]
    assert holders(lease_folder(), DEVICES) == []


def test_without_a_device_it_holds_the_cpu(runs: StudyRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKAGE_DEVICES", "")
    stages = runs.all_stages([], extras=False)
    next(stages)
    assert [str(holder) for holder in holders(lease_folder(), (CPU,))] == ["cpu by leakage run marker_leakage"]
    assert len(list(stages)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_while_it_waits_it_says_that_finished_work_is_kept(number: signal.Signals, tmp_path: Path) -> None:
    """No step runs, so Dagster does not catch the signal."""
    folder = tmp_path / "leases"
    other = acquire(folder, (CPU,), 1, "another run")
    command = [sys.executable, "-m", "leakage_assets.cli", "run", "marker_leakage", "--artifacts", str(tmp_path / "a")]
    places = {"DAGSTER_HOME": str(tmp_path / "home"), "LEAKAGE_LEASES": str(folder), "LEAKAGE_DEVICES": ""}
    with subprocess.Popen(command, env=os.environ | places, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None and "is waiting for the CPU" in process.stderr.readline()
            process.send_signal(number)
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
            other.release()
    assert process.returncode == 130
    assert said == "stopped; finished work is kept: run the same command again to go on\n"
