"""Durable writes, and digests that are not computed twice: what artifacts and samples are built on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from leakage_assets.exceptions import ExpectedError

TEMPORARY = ".tmp-"
TIMESTAMP_TICK_NS = 50_000_000
"""Longer than the step of the kernel's file times (4 to 10 ms): a younger file can change unseen."""

SHA256 = re.compile(r"[0-9a-f]{64}")
REMEMBERED_BYTES = 256 << 20
"""From this size on a digest is worth keeping: weights of 15 GB take ten seconds to read."""


class FolderNotWritable(ExpectedError):
    """Nothing can be kept in a folder; the message names it and the remedy."""


class Stamp(NamedTuple):
    """What tells whether a file changed; times in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    status_changed: int


_digests: dict[str, tuple[Stamp, str]] = {}


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


def check_writable(folder: Path) -> None:
    """Create the folder and a file in it, which is removed. Raises ``FolderNotWritable``."""
    try:
        make_folder(folder)
        probe = temporary_path(folder)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FolderNotWritable(f"{folder}: cannot be written ({error.strerror}); name another folder") from error


def fsync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path, *, remembered: bool = False) -> str:
    """sha256 (64 hex digits) of a file's bytes; an unchanged file is read once per process.

    Unchanged means same path, device, inode, size and times of modification and of status change.

    Args:
        remembered: a large file is read once per machine: its digest is kept in `leakage_assets/digests` of the user's
            cache (XDG_CACHE_HOME, or ~/.cache), where that can be written. For naming what others made; what is
            verified against its manifest is read by every process, as bits can rot.
    """
    with path.open("rb") as stream:
        stamp = _stamp(os.fstat(stream.fileno()))
        known = _digests.get(str(path)) or (_remembered(path, stamp) if remembered else None)
        if known is not None and known[0] == stamp:
            _digests[str(path)] = known
            return known[1]
        now = time.time_ns()
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if now - max(stamp.modified, stamp.status_changed) > TIMESTAMP_TICK_NS:
        _digests[str(path)] = (stamp, digest)
        if remembered:
            _remember(path, stamp, digest)
    return digest


def _memory_of(path: Path) -> Path:
    """Where the digest of a large file is kept: a file for each path, so that writers need not wait for each other."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "leakage_assets" / "digests" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}.json"


def _remembered(path: Path, stamp: Stamp) -> tuple[Stamp, str] | None:
    if stamp.size < REMEMBERED_BYTES:
        return None
    try:
        kept = json.loads(_memory_of(path).read_text())
        found = Stamp(*kept["stamp"]), str(kept["sha256"])
        return found if SHA256.fullmatch(found[1]) else None
    except (OSError, RuntimeError, ValueError, LookupError, TypeError):  # nothing readable: the file itself is read
        return None


def _remember(path: Path, stamp: Stamp, digest: str) -> None:
    if stamp.size < REMEMBERED_BYTES:
        return
    with suppress(OSError, RuntimeError):  # no home, or none that can be written
        memory = _memory_of(path)
        memory.parent.mkdir(parents=True, exist_ok=True)
        kept = {"path": str(path.resolve()), "stamp": stamp, "sha256": digest}
        write_atomically(memory, json.dumps(kept, indent=2).encode())


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
