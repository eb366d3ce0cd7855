"""Digests of large files outlive the process that computed them, and never the file they are of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from leakage_assets.store import files

OLD = 1_600_000_000 * 10**9


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's cache; every file of four bytes is large, and this process is a new one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "REMEMBERED_BYTES", 4)
    # A file just written is younger than the clock's step, and so not remembered.
    monkeypatch.setattr(files, "TIMESTAMP_TICK_NS", -1)
    monkeypatch.setattr(files, "_digests", {})
    yield tmp_path / "cache"


def weights(folder: Path, content: bytes = b"weights") -> Path:
    path = folder / "weights.safetensors"
    path.write_bytes(content)
    os.utime(path, ns=(OLD, OLD))
    return path


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_digests", {})


def reading_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the file was read")

    monkeypatch.setattr(files.hashlib, "file_digest", refuse)


def test_a_large_file_is_read_once_whatever_the_number_of_processes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = weights(tmp_path)
    found = files.sha256_file(path, remembered=True)
    assert found == hashlib.sha256(b"weights").hexdigest()
    new_process(monkeypatch)
    reading_forbidden(monkeypatch)
    assert files.sha256_file(path, remembered=True) == found
    assert len(list(cache.rglob("*.json"))) == 1


def test_what_is_verified_is_read_by_every_process(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = weights(tmp_path)
    found = files.sha256_file(path, remembered=True)
    (memory,) = cache.rglob("*.json")
    memory.write_text(memory.read_text().replace(found, "0" * 64))
    new_process(monkeypatch)
    assert files.sha256_file(path) == found


@pytest.mark.parametrize("digest", ["x", "", "F" * 64])
def test_what_is_no_digest_is_not_believed(
    digest: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = weights(tmp_path)
    found = files.sha256_file(path, remembered=True)
    (memory,) = cache.rglob("*.json")
    memory.write_text(memory.read_text().replace(found, digest))
    new_process(monkeypatch)
    assert files.sha256_file(path, remembered=True) == found


def test_a_small_file_is_not_remembered(cache: Path, tmp_path: Path) -> None:
    files.sha256_file(weights(tmp_path, b"abc"), remembered=True)
    assert not cache.exists()


@pytest.mark.parametrize("restored", [False, True], ids=["changed", "changed, and its time put back"])
def test_a_changed_file_is_read_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restored: bool
) -> None:
    path = weights(tmp_path)
    files.sha256_file(path, remembered=True)
    new_process(monkeypatch)
    path.write_bytes(b"Weights")
    if restored:
        os.utime(path, ns=(OLD, OLD))
    assert files.sha256_file(path, remembered=True) == hashlib.sha256(b"Weights").hexdigest()
    new_process(monkeypatch)
    reading_forbidden(monkeypatch)
    assert files.sha256_file(path, remembered=True) == hashlib.sha256(b"Weights").hexdigest()


def test_another_file_in_its_place_is_read(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = weights(tmp_path)
    files.sha256_file(path, remembered=True)
    new_process(monkeypatch)
    (tmp_path / "other").mkdir()
    weights(tmp_path / "other", b"another").replace(path)
    assert files.sha256_file(path, remembered=True) == hashlib.sha256(b"another").hexdigest()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"stamp": 3, "sha256": "x"}', '{"stamp": [1], "sha256": "x"}']
)
def test_a_damaged_memory_is_written_anew(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    path = weights(tmp_path)
    found = files.sha256_file(path, remembered=True)
    (memory,) = cache.rglob("*.json")
    memory.write_text(content)
    new_process(monkeypatch)
    assert files.sha256_file(path, remembered=True) == found
    assert json.loads(memory.read_text())["sha256"] == found


def test_without_a_cache_that_can_be_written_the_file_is_read(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder should be")
    path = weights(tmp_path)
    for _ in range(2):
        new_process(monkeypatch)
        assert files.sha256_file(path, remembered=True) == hashlib.sha256(b"weights").hexdigest()
    assert cache.read_text() == "a file where the folder should be"


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/leakage"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(files.FolderNotWritable, match=f"{place}: cannot be written .*; name another folder"):
        files.check_writable(tmp_path / place)
    files.check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
