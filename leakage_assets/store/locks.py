"""One writer at a time per folder, released by the kernel when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leakage_assets.store.files import make_folder

LOCK = ".lock"


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold `<folder>/.lock`, waiting for other threads and processes; creates a missing folder."""
    while True:
        make_folder(folder)
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the folder was moved away after it was made
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # While this call waited, the folder may have been moved away with the lock file in it.
            if _is_at(descriptor, folder / LOCK):
                yield
                return
        finally:
            os.close(descriptor)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that no other process knows yet, so that `is_held` tells it is in use."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a live process holds the lock of `folder`; process ids would not tell across containers."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
