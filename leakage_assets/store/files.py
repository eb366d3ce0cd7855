"""Durable writes, and digests that are not computed twice: what artifacts and samples are built on."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from pathlib import Path

TEMPORARY = ".tmp-"
TIMESTAMP_TICK_NS = 50_000_000
"""Longer than the step of the kernel's file times (4 to 10 ms): a younger file can change unseen."""

_digests: dict[str, tuple[tuple[int, ...], str]] = {}


def temporary_path(folder: Path) -> Path:
    """A fresh path `<folder>/.tmp-<pid>-<token>`; nothing is created."""
    return folder / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that after a crash `path` holds all of it, or what it held before.

    A killed writer leaves at most a `.tmp-<pid>-<token>` file beside `path`.
    """
    temporary = temporary_path(path.parent)
    try:
        temporary.write_bytes(content)
        fsync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents durably; an existing folder is left as it is."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync(folder.parent)


def fsync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """sha256 (64 hex digits) of a file's bytes; an unchanged file is read once per process.

    Unchanged means same path, device, inode, size and times of modification and of status change.
    """
    with path.open("rb") as stream:
        stamp = _stamp(os.fstat(stream.fileno()))
        known = _digests.get(str(path))
        if known is not None and known[0] == stamp:
            return known[1]
        now = time.time_ns()
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if now - max(stamp[-2:]) > TIMESTAMP_TICK_NS:
        _digests[str(path)] = (stamp, digest)
    return digest


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
