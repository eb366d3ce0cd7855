"""Leases of devices by file locks: who holds `device-<i>.lock` may use device i; the kernel takes back from the dead.

The lock belongs to the open file, which every process started under the lease inherits: a device is free again only
when all of them are gone. The folder must be on a local disk, one for all runs of a host.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from leakage_assets.exceptions import ExpectedError

CPU = "cpu"
"""Stands in where there is no device: one lease for the whole CPU, so that heavy steps take turns."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
NODES = Path("/dev")


class LeaseError(ExpectedError):
    """More devices asked for than there are; the message says what there is."""


@dataclass(frozen=True)
class Lease:
    """Devices that are held until every process with these descriptors is gone."""

    devices: tuple[str, ...]
    descriptors: tuple[int, ...]

    @property
    def visible(self) -> str:
        """What CUDA_VISIBLE_DEVICES must say under this lease."""
        return "" if self.devices == (CPU,) else ",".join(self.devices)

    def release(self) -> None:
        """Give up this process's share."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def lease_folder() -> Path:
    """LEAKAGE_LEASES, or a folder of this user on the local disk."""
    default = Path(tempfile.gettempdir()) / f"leakage-leases-{os.getuid()}"
    return Path(os.environ.get("LEAKAGE_LEASES", default))


def visible_devices() -> tuple[str, ...]:
    """The devices of this host: LEAKAGE_DEVICES, else CUDA_VISIBLE_DEVICES, else all that the driver shows.

    Without any, the CPU is the one device.
    """
    for name in ("LEAKAGE_DEVICES", VISIBLE):
        if (named := os.environ.get(name)) is not None:
            return tuple(part.strip() for part in named.split(",") if part.strip()) or (CPU,)
    # A container may have /dev/nvidia3 alone: CUDA counts what is there from 0, whatever its number.
    nodes = [path for path in NODES.glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()]
    return tuple(map(str, range(len(nodes)))) or (CPU,)


@dataclass(frozen=True)
class Holder:
    """Who holds a device, as far as its lock file tells: for messages, never for decisions."""

    device: str
    name: str

    def __str__(self) -> str:
        return f"{self.device} by {self.name}"


def acquire(
    folder: Path,
    devices: Sequence[str],
    count: int,
    name: str,
    *,
    waiting: Callable[[str], None] = lambda _: None,
    poll_seconds: float = 0.5,
) -> Lease:
    """Hold `count` of the devices, all or none, waiting for as long as it takes.

    Whoever waits holds the turn: the next one waits behind, so that a request for several devices is not starved by
    requests for one.

    Args:
        name: of the holder, for the messages of those who wait.
        waiting: called once, with a line that names the present holders, if there is a wait.

    Raises:
        LeaseError: there are fewer devices than asked for.
    """
    if not 1 <= count <= len(devices):
        raise LeaseError(f"{name}: {count} devices asked for, this host has {len(devices)} ({', '.join(devices)})")
    folder.mkdir(parents=True, exist_ok=True)
    told = False

    def tell() -> None:
        nonlocal told
        if not told:
            taken = ", ".join(map(str, holders(folder, devices))) or "none, but another is before it"
            what = "the CPU" if tuple(devices) == (CPU,) else "a GPU"
            waiting(f"{name} is waiting for {what}: it needs {count}; held: {taken}")
            told = True

    turn = _open(folder / "turn.lock")
    try:
        while not _take(turn):
            tell()
            time.sleep(poll_seconds)
        while (lease := _take_free(folder, devices, count)) is None:
            tell()
            time.sleep(poll_seconds)
    finally:
        os.close(turn)
    for descriptor in lease.descriptors:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"name": name, "pid": os.getpid(), "since": time.time()}).encode(), 0)
    return lease


@contextmanager
def held(count: int, name: str, waiting: Callable[[str], None]) -> Iterator[Lease]:
    """Hold devices of this host while the block runs in this process, and show CUDA no others.

    To be entered before CUDA is initialised. A process that the block starts does not hold the lease.

    Raises:
        LeaseError: as ``acquire``.
    """
    lease = acquire(lease_folder(), visible_devices(), count, name, waiting=waiting)
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = lease.visible
    try:
        yield lease
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
        lease.release()


def holders(folder: Path, devices: Sequence[str]) -> list[Holder]:
    """The devices that are held now, and by whom."""
    return [Holder(device, _name(folder, device)) for device in devices if not _is_free(folder, device)]


def _take_free(folder: Path, devices: Sequence[str], count: int) -> Lease | None:
    taken: list[tuple[str, int]] = []
    for device in devices:
        descriptor = _open(_lock(folder, device))
        if _take(descriptor):
            taken.append((device, descriptor))
        else:
            os.close(descriptor)
        if len(taken) == count:
            return Lease(tuple(name for name, _ in taken), tuple(number for _, number in taken))
    for _, descriptor in taken:
        os.close(descriptor)
    return None


def _is_free(folder: Path, device: str) -> bool:
    descriptor = _open(_lock(folder, device))
    try:
        return _take(descriptor)
    finally:
        os.close(descriptor)


def _name(folder: Path, device: str) -> str:
    try:
        return str(json.loads(_lock(folder, device).read_text())["name"])
    except (OSError, ValueError, KeyError):
        return "another process"


def _lock(folder: Path, device: str) -> Path:
    return folder / f"device-{device.replace('/', '_')}.lock"


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
