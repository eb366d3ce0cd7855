"""kill -9 at any moment leaves a complete artifact and complete shards, or what was there before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from leakage_assets.store.artifacts import ArtifactStore
from leakage_assets.store.samples import SampleStore
from leakage_assets_tests.store.crashing import ADDRESS, batch, read_version, write_version

SCRIPT = Path(__file__).with_name("crashing.py")


def crash(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def killed_at_each_point(scenario: str, folder: Path) -> list[Path]:
    """The folders left by kills at each point in order; the last process was not killed."""
    finish(crash("each", scenario, folder))
    folders = sorted(folder.iterdir(), key=lambda path: int(path.name))
    assert len(folders) > 5  # else the kill points were not met
    return folders


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name != ".lock"]


@pytest.mark.slow
def test_a_killed_first_draft_is_complete_or_absent(tmp_path: Path) -> None:
    found = []
    for folder in killed_at_each_point("first_draft", tmp_path):
        found.append(read_version(folder))
        ArtifactStore(folder).sweep()
        assert read_version(folder) == found[-1]
        assert leftovers(folder) == []
        write_version(folder, "later")
        assert read_version(folder) == "later"
    assert found == sorted(found, key=lambda content: content is not None)
    assert set(found) == {None, "new"}


def test_a_killed_replacement_leaves_the_old_or_the_new_version(tmp_path: Path) -> None:
    found = []
    for folder in killed_at_each_point("replacement", tmp_path):
        found.append(read_version(folder))
        ArtifactStore(folder).sweep()
        assert read_version(folder) == found[-1]
        assert leftovers(folder) == []
    assert found == sorted(found, key=("old", "new").index)
    assert set(found) == {"old", "new"}


@pytest.mark.slow
def test_the_next_draft_cleans_up_after_a_killed_one(tmp_path: Path) -> None:
    for folder in killed_at_each_point("replacement", tmp_path):
        write_version(folder, "later")
        assert read_version(folder) == "later"
        assert leftovers(folder) == []


@pytest.mark.slow
def test_a_killed_recovery_is_recovered(tmp_path: Path) -> None:
    for folder in killed_at_each_point("recovery", tmp_path):
        assert len(ArtifactStore(folder).history(ADDRESS)) == 1
        assert read_version(folder) == "old"
        ArtifactStore(folder).sweep()
        assert leftovers(folder) == []


def test_a_killed_append_stores_all_of_its_batch_or_nothing(tmp_path: Path) -> None:
    sizes = []
    for folder in killed_at_each_point("append", tmp_path):
        store = SampleStore(folder / "samples")
        sizes.append(len(store.ids()))
        assert store.frame()["sample_id"].sort().to_list() == sorted(store.ids())
        store.append([sample for sample in batch(0, 9) if sample.sample_id not in store.ids()])
        assert store.frame()["index"].to_list() == [0, 3, 6, 1, 4, 7, 2, 5, 8]
        assert leftovers(folder) == []
    assert sizes == sorted(sizes)
    assert set(sizes) == {3, 6}


def test_a_killed_archive_loses_nothing(tmp_path: Path) -> None:
    finish(crash("each", "archive", tmp_path))
    archived = []
    for folder in sorted(tmp_path.iterdir(), key=lambda path: int(path.name)):
        current, old = SampleStore(folder / "samples"), SampleStore(folder / "superseded-1")
        archived.append(len(old.ids()))
        assert len(current.ids()) + len(old.ids()) == 3
        current.append(batch(10))
        assert len(current.ids()) + len(old.ids()) == 6
    assert set(archived) == {0, 3}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_random_kills_lose_no_acknowledged_sample_and_store_none_twice(tmp_path: Path, seed: int) -> None:
    finish(crash("random", "append", tmp_path, 20, seed))
    store = SampleStore(tmp_path / "samples")
    stored = store.frame()["sample_id"].to_list()
    acknowledged = (tmp_path / "acknowledged").read_text().split()
    assert len(acknowledged) >= 10
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)
    # A kill between the rename and the acknowledgement may store one more batch of five per round.
    assert len(stored) - len(acknowledged) <= 5 * 20
    store.append(batch(90_000))
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_random_kills_never_lose_an_acknowledged_version(tmp_path: Path) -> None:
    finish(crash("random", "replacement", tmp_path, 20, 3))
    acknowledged = (tmp_path / "acknowledged").read_text().split()
    assert len(acknowledged) >= 10
    assert [int(number) for number in acknowledged] == sorted({int(number) for number in acknowledged})
    assert int(read_version(tmp_path) or 0) >= int(acknowledged[-1])
    ArtifactStore(tmp_path).sweep()
    assert leftovers(tmp_path) == []


def test_two_processes_append_to_one_store(tmp_path: Path) -> None:
    writers = [crash("append", tmp_path, start, start + 60) for start in (0, 60)]
    for writer in writers:
        finish(writer)
    store = SampleStore(tmp_path)
    assert store.ids() == {sample.sample_id for sample in batch(0, 120)}
    assert len(store.shards()) == 40
    assert store.frame().height == 120


def test_of_two_processes_that_append_the_same_samples_one_wins_each(tmp_path: Path) -> None:
    writers = [crash("contend", tmp_path, 20) for _ in range(2)]
    assert sum(int(finish(writer)) for writer in writers) == 20
    assert SampleStore(tmp_path).frame().height == 60
