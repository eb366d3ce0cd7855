"""The process around one step: waits for its devices, runs it, and leaves nothing behind.

    python -m leakage_assets.executor.step_worker --devices N --name NAME --status FILE -- COMMAND...

It dies with the process that started it (PR_SET_PDEATHSIG), and takes along all that the step started: an inference
engine has processes of its own. The exit code is the step's.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from leakage_assets.exceptions import ExpectedError
from leakage_assets.executor.leases import VISIBLE, Lease, acquire, lease_folder, visible_devices
from leakage_assets.store.files import write_atomically

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 15.0
"""Between SIGTERM and SIGKILL: time for the step to commit its samples."""


class Terminated(BaseException):
    """SIGTERM arrived."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--status", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    parent = os.getppid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the step leaves behind becomes ours to end
    signal.signal(signal.SIGTERM, _terminated)
    if os.getppid() != parent:
        return 1  # it died before the death signal was set
    try:
        lease = _lease(options.devices, options.name, options.status)
        code = _start(options.command, lease).wait()
    except Terminated:
        code = 128 + signal.SIGTERM
    except ExpectedError as error:
        _tell(options.status, str(error))
        code = 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_descendants()  # whatever there is: the signal may have come while the step was being started
    return code if code >= 0 else 128 - code


def _lease(count: int, name: str, status: Path) -> Lease | None:
    """The devices, or None for a step that needs none; the status file tells the executor about a wait."""
    if count == 0:
        return None
    started = time.monotonic()
    lease = acquire(lease_folder(), visible_devices(), count, name, waiting=lambda text: _tell(status, text))
    _tell(status, f"{name} has device {', '.join(lease.devices)} after {time.monotonic() - started:.0f} s")
    return lease


def _tell(status: Path, text: str) -> None:
    write_atomically(status, text.encode())


def _start(command: Sequence[str], lease: Lease | None) -> subprocess.Popen[bytes]:
    """The step in a session of its own. It holds the lease too: devices stay taken while any part of it lives."""
    environment = {**os.environ, VISIBLE: lease.visible if lease else ""}
    descriptors = lease.descriptors if lease else ()
    return subprocess.Popen(
        command,
        env=environment,
        pass_fds=descriptors,
        start_new_session=True,
        preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 - this process has one thread
    )


def _end_descendants() -> None:
    """SIGTERM, then SIGKILL, to whatever the step started: as subreaper this process is the parent of orphans too."""
    left = psutil.Process().children(recursive=True)
    for process in left:
        _signal(process, signal.SIGTERM)
    for process in psutil.wait_procs(left, timeout=GRACE_SECONDS)[1]:
        for part in (*process.children(recursive=True), process):
            _signal(part, signal.SIGKILL)
    psutil.wait_procs(psutil.Process().children(recursive=True), timeout=GRACE_SECONDS)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _terminated(*_: object) -> None:
    raise Terminated


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    sys.exit(main())
