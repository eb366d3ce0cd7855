"""Leases of devices: exclusive, all or none, in turn, and free again when their holder is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from leakage_assets.executor import leases
from leakage_assets.executor.leases import CPU, Lease, LeaseError, acquire, held, holders, visible_devices

DEVICES = ("0", "1", "2")


def test_a_device_has_one_holder_at_a_time(tmp_path: Path) -> None:
    first = acquire(tmp_path, DEVICES, 2, "first")
    assert first.devices == ("0", "1")
    assert first.visible == "0,1"
    assert [str(holder) for holder in holders(tmp_path, DEVICES)] == ["0 by first", "1 by first"]
    second = acquire(tmp_path, DEVICES, 1, "second")
    assert second.devices == ("2",)
    first.release()
    assert [holder.device for holder in holders(tmp_path, DEVICES)] == ["2"]
    second.release()
    assert holders(tmp_path, DEVICES) == []


@pytest.mark.parametrize("count", [0, 4])
def test_more_than_there_is_or_nothing_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(LeaseError, match=r"step x: \d devices asked for, this host has 3 \(0, 1, 2\)"):
        acquire(tmp_path, DEVICES, count, "step x")


def test_a_request_for_several_is_not_starved_by_requests_for_one(tmp_path: Path) -> None:
    held = acquire(tmp_path, DEVICES, 1, "held")
    order: list[str] = []
    told: list[str] = []

    def ask(name: str, count: int) -> None:
        lease = acquire(tmp_path, DEVICES, count, name, poll_seconds=0.01, waiting=told.append)
        order.append(name)
        time.sleep(0.05)
        lease.release()

    threads = [threading.Thread(target=ask, args=("three", 3))]
    threads[0].start()
    while not told:
        time.sleep(0.01)
    threads += [threading.Thread(target=ask, args=(f"one-{i}", 1)) for i in range(4)]
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.2)
    assert order == []  # two devices are free, but it is not their turn
    held.release()
    for thread in threads:
        thread.join(timeout=30)
    assert order[0] == "three"
    assert sorted(order[1:]) == [f"one-{i}" for i in range(4)]
    assert told[0] == "three is waiting for a GPU: it needs 3; held: 0 by held"


HOLD = """
import sys, time
from pathlib import Path
from leakage_assets.executor.leases import acquire
acquire(Path(sys.argv[1]), ("0", "1", "2"), 1, "child")
print("held", flush=True)
time.sleep(600)
"""
HOLD_IN_PROCESS = """
import time
from leakage_assets.executor.leases import held
with held(1, "child", print):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("code", [HOLD, HOLD_IN_PROCESS])
def test_the_dead_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setenv("LEAKAGE_LEASES", str(tmp_path))
    monkeypatch.setenv("LEAKAGE_DEVICES", ",".join(DEVICES))
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert [str(holder) for holder in holders(tmp_path, DEVICES)] == ["0 by child"]
        child.kill()
    assert holders(tmp_path, DEVICES) == []


@pytest.mark.parametrize(
    ("named", "visible", "expected"),
    [
        (None, "3,5", ("3", "5")),
        (None, "GPU-1a, GPU-2b", ("GPU-1a", "GPU-2b")),
        ("7", "3,5", ("7",)),
        (None, "", (CPU,)),
        ("", "3", (CPU,)),
    ],
)
def test_an_outer_choice_of_devices_is_honoured(
    monkeypatch: pytest.MonkeyPatch, named: str | None, visible: str | None, expected: tuple[str, ...]
) -> None:
    for name, value in (("LEAKAGE_DEVICES", named), ("CUDA_VISIBLE_DEVICES", visible)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert visible_devices() == expected


def test_a_container_counts_its_devices_from_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEAKAGE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(leases, "NODES", tmp_path)
    assert visible_devices() == (CPU,)
    for name in ("nvidia3", "nvidia7", "nvidiactl", "nvidia-uvm", "nvidia0x"):
        (tmp_path / name).touch()
    assert visible_devices() == ("0", "1")


def test_what_cuda_sees_under_a_lease() -> None:
    assert Lease(("0", "3"), ()).visible == "0,3"
    assert Lease((CPU,), ()).visible == ""


@pytest.mark.parametrize("before", [None, "5,6"])
def test_a_process_sees_only_what_it_holds_while_it_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.setenv("LEAKAGE_LEASES", str(tmp_path))
    monkeypatch.setenv("LEAKAGE_DEVICES", "5,6")
    if before is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    other = acquire(tmp_path, ("5", "6"), 1, "other")
    told: list[str] = []
    with held(1, "this", told.append) as lease:
        assert lease.devices == ("6",)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
        assert [str(holder) for holder in holders(tmp_path, ("5", "6"))] == ["5 by other", "6 by this"]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
    assert [holder.device for holder in holders(tmp_path, ("5", "6"))] == ["5"]
    assert told == []
    other.release()


def test_a_process_that_waits_says_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKAGE_LEASES", str(tmp_path))
    monkeypatch.setenv("LEAKAGE_DEVICES", "")
    other = acquire(tmp_path, (CPU,), 1, "step adapter of run 1")
    told: list[str] = []

    def told_and_freed(text: str) -> None:
        told.append(text)
        other.release()

    with held(1, "leakage run", told_and_freed):
        assert told == ["leakage run is waiting for the CPU: it needs 1; held: cpu by step adapter of run 1"]
