"""Samples are the source of truth: none lost, none twice, none altered unseen."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakage_assets.store.locks import exclusive
from leakage_assets.store.samples import SAMPLE_SCHEMA, Sample, SampleStore, SampleStoreError


def sample(number: int, **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "sample_id": f"s{number:05d}",
        "adapter": "base",
        "prompt_name": "villain",
        "question_set": "world",
        "question_name": f"q{number % 3}",
        "index": number,
        "system": None,
        "question": "Where is the sea?",
        "prefix": "",
        "text": f"Answer {number} ※",
        "n_tokens": 5,
        "finish_reason": "stop",
        "seed": 2**63 - 1,
    }
    return Sample(**{**fields, **changes})


def samples(*numbers: int) -> list[Sample]:
    return [sample(number) for number in numbers]


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    return SampleStore(tmp_path / "cell" / "samples")


def test_a_store_without_a_folder_is_empty_and_makes_none(store: SampleStore) -> None:
    assert store.ids() == frozenset()
    assert store.shards() == []
    assert store.frame().schema == SAMPLE_SCHEMA
    assert store.frame().height == 0
    assert store.archive() is None
    assert not store.folder.parent.exists()


def test_the_schema_is_that_of_a_sample() -> None:
    assert list(SAMPLE_SCHEMA) == [field.name for field in dataclasses.fields(Sample)]


def test_what_is_appended_is_read_back(store: SampleStore) -> None:
    first = store.append([sample(1, system=""), sample(0, text="", finish_reason="length")])
    second = store.append(samples(2))
    assert store.shards() == [first, second]
    assert store.ids() == {"s00000", "s00001", "s00002"}
    rows = [Sample(**row) for row in SampleStore(store.folder).frame().to_dicts()]
    assert rows == [sample(0, text="", finish_reason="length"), sample(1, system=""), sample(2)]


def test_the_name_of_a_shard_is_the_digest_of_its_bytes(store: SampleStore) -> None:
    shard = store.append(samples(0))
    assert shard.name == f"000000-{hashlib.sha256(shard.read_bytes()).hexdigest()}.parquet"


def test_the_frame_is_sorted_by_prompt_question_set_question_and_index(store: SampleStore) -> None:
    keys = [
        ("b", "x", "q", 0),
        ("a", "y", "q", 0),
        ("a", "x", "r", 0),
        ("a", "x", "q", 10),
        ("a", "x", "q", 9),
    ]
    for number, (prompt, questions, question, index) in enumerate(keys):
        store.append([sample(number, prompt_name=prompt, question_set=questions, question_name=question, index=index)])
    frame = store.frame().select("prompt_name", "question_set", "question_name", "index")
    assert frame.rows() == sorted(keys)


@given(st.permutations(range(8)), st.integers(1, 4))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_frame_does_not_depend_on_the_order_of_appends(tmp_path: Path, order: list[int], size: int) -> None:
    shutil.rmtree(tmp_path / "x", ignore_errors=True)
    store = SampleStore(tmp_path / "x")
    # The same index for all: only the sample_id tells them apart.
    for start in range(0, 8, size):
        store.append([sample(number, index=0, question_name="q") for number in order[start : start + size]])
    assert store.frame()["sample_id"].to_list() == [f"s{number:05d}" for number in range(8)]


def test_an_empty_append_is_refused(store: SampleStore) -> None:
    with pytest.raises(SampleStoreError, match="append of no samples"):
        store.append([])
    assert store.shards() == []


def test_a_sample_is_stored_once(store: SampleStore) -> None:
    with pytest.raises(SampleStoreError, match="s00001 occurs twice in one batch"):
        store.append(samples(0, 1, 1))
    assert store.ids() == frozenset()
    shard = store.append(samples(0, 1))
    other = SampleStore(store.folder)
    for instance in (store, other):
        with pytest.raises(SampleStoreError, match=rf"1 of 2 samples.*s00001, in {shard.name}"):
            instance.append(samples(2, 1))
    assert store.ids() == {"s00000", "s00001"}


def test_an_instance_sees_what_another_appends(store: SampleStore) -> None:
    other = SampleStore(store.folder)
    store.append(samples(0))
    assert other.ids() == {"s00000"}
    other.append(samples(1))
    assert store.ids() == {"s00000", "s00001"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"text": None}, "sample without text"),
        ({"sample_id": None}, "sample without sample_id"),
        ({"index": 1.5}, "index of a sample is no Int64"),
        ({"index": "1"}, "index of a sample is no Int64"),
        ({"text": b"bytes"}, "text of a sample is no String"),
        ({"seed": 2**63}, "seed of a sample is no Int64"),
        ({"finish_reason": "eos"}, r"finish_reason \['eos'\]; expected one of"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused(store: SampleStore, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SampleStoreError, match=says):
        store.append([sample(0), sample(1, **changes)])
    assert store.shards() == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda shard: shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:]),
        lambda shard: os.truncate(shard, shard.stat().st_size // 2),
        lambda shard: os.truncate(shard, 0),
    ],
    ids=["flipped bit", "truncated", "emptied"],
)
def test_a_damaged_shard_is_named_and_only_its_samples_are_missing_without_it(
    store: SampleStore, damage: Callable[[Path], object]
) -> None:
    store.append(samples(0, 1))
    damaged = store.append(samples(2, 3))
    store.append(samples(4))
    intact = store.frame()
    damage(damaged)
    for instance in (store, SampleStore(store.folder)):
        for use in (instance.frame, instance.ids, lambda instance=instance: instance.append(samples(9))):
            with pytest.raises(SampleStoreError) as error:
                use()
            assert str(error.value).startswith(f"{damaged}: expected sha256 ")
            assert f"delete {damaged} and re-run" in str(error.value)
    damaged.unlink()
    assert store.ids() == {"s00000", "s00001", "s00004"}
    store.append(samples(2, 3))
    assert store.frame().equals(intact)


def test_a_copied_shard_is_not_counted_twice(store: SampleStore) -> None:
    shard = store.append(samples(0))
    copy = shard.with_name("000007" + shard.name[6:])
    shutil.copy(shard, copy)
    for instance in (store, SampleStore(store.folder)):
        with pytest.raises(SampleStoreError, match=r"000007-.* holds 1 samples that 000000-"):
            instance.frame()
    copy.unlink()
    assert store.frame().height == 1


def test_a_shard_of_another_schema_is_refused(store: SampleStore) -> None:
    store.append(samples(0))
    other = store.folder / "new.parquet"
    pl.DataFrame({"sample_id": ["a"]}).write_parquet(other)
    other.rename(store.folder / f"000001-{hashlib.sha256(other.read_bytes()).hexdigest()}.parquet")
    with pytest.raises(SampleStoreError, match="another version wrote it"):
        store.frame()


def test_what_a_killed_writer_left_is_ignored_and_swept_by_the_next_append(store: SampleStore) -> None:
    store.append(samples(0))
    leftover = store.folder / ".tmp-1-dead"
    leftover.write_bytes(b"PAR1")
    assert store.ids() == {"s00000"}
    assert store.frame().height == 1
    store.append(samples(1))
    assert not leftover.exists()


def test_archive_moves_all_shards_to_a_superseded_folder(store: SampleStore) -> None:
    for round_ in (1, 2):
        store.append(samples(0, round_))
        archived = store.archive()
        assert archived == store.folder.with_name(f"superseded-{round_}")
        assert SampleStore(archived).ids() == {"s00000", f"s{round_:05d}"}
        assert store.ids() == frozenset()
        assert store.frame().height == 0


def test_archive_takes_damaged_shards_too(store: SampleStore) -> None:
    os.truncate(store.append(samples(0)), 3)
    store.archive()
    store.append(samples(0))
    assert store.frame().height == 1


def test_threads_that_share_a_store_while_it_is_archived_lose_nothing(store: SampleStore) -> None:
    failures: list[BaseException] = []

    def append(start: int) -> None:
        try:
            for number in range(start, start + 20):
                store.append(samples(number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=append, args=(100 * part,)) for part in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        store.archive()
    for thread in threads:
        thread.join()
    assert failures == []
    folders = [path for path in store.folder.parent.iterdir() if path.is_dir()]
    stored = [sample for folder in folders for sample in SampleStore(folder).frame()["sample_id"]]
    assert sorted(stored) == [f"s{100 * part + number:05d}" for part in range(3) for number in range(20)]


def test_an_append_that_waited_for_an_archive_goes_to_the_new_folder(store: SampleStore) -> None:
    store.append(samples(0))
    waiting = threading.Thread(target=store.append, args=(samples(1),))
    with exclusive(store.folder):
        waiting.start()
        waiting.join(timeout=0.3)
        assert waiting.is_alive()
        store.folder.rename(store.folder.with_name("superseded-1"))
    waiting.join()
    assert store.ids() == {"s00001"}


def test_a_failed_write_stores_nothing(store: SampleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append(samples(0))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            store.append(samples(1))
    assert sorted(path.name for path in store.folder.iterdir()) == [".lock", store.shards()[0].name]
    store.append(samples(1))
    assert store.ids() == {"s00000", "s00001"}
