"""Append-only samples of one folder: the source of truth that scores, panels and metrics are queries over.

Each `append` makes one parquet shard `<number>-<sha256 of its bytes>.parquet`, complete or absent after a
kill. Appenders of any thread or process take turns by `<folder>/.lock`.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from leakage_assets.exceptions import PartitionError
from leakage_assets.store.files import TEMPORARY, fsync, sha256_file, write_atomically
from leakage_assets.store.locks import exclusive

FinishReason = Literal["stop", "length"]
SAMPLE_SCHEMA: dict[str, pl.DataType] = {
    "sample_id": pl.String(),
    "adapter": pl.String(),
    "prompt_name": pl.String(),
    "question_set": pl.String(),
    "question_name": pl.String(),
    "index": pl.Int64(),
    "system": pl.String(),
    "question": pl.String(),
    "prefix": pl.String(),
    "text": pl.String(),
    "n_tokens": pl.Int64(),
    "finish_reason": pl.String(),
    "seed": pl.Int64(),
}
"""Columns of every shard and of `SampleStore.frame`; only `system` may be null."""

ORDER = ["prompt_name", "question_set", "question_name", "index", "sample_id"]
SHARD = re.compile(r"\d{6,}-[0-9a-f]{64}\.parquet")


class SampleStoreError(PartitionError):
    """Samples cannot be stored, or a shard is not what was stored; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion with its identity.

    Attributes:
        sample_id: digest of the request and the sampling; unique in a store.
        adapter: "base" or the name of a cell.
        index: 0-based number of this completion among those of one prompt and question.
        system: the system prompt; None for the chat template's default, "" for an explicitly empty one.
        prefix: the start of the assistant turn that was given, not generated.
        text: what was generated, without `prefix`.
        n_tokens: number of generated tokens.
        finish_reason: "stop" at an end-of-turn token, "length" at the token limit.
        seed: the sampler's seed, in [0, 2**63).
    """

    sample_id: str
    adapter: str
    prompt_name: str
    question_set: str
    question_name: str
    index: int
    system: str | None
    question: str
    prefix: str
    text: str
    n_tokens: int
    finish_reason: FinishReason
    seed: int


class SampleStore:
    """The samples in `folder`, which need not exist before the first append."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ids: dict[str, Path] = {}
        self._read: set[Path] = set()
        self._reading = threading.Lock()

    def append(self, samples: Sequence[Sample]) -> Path:
        """Store `samples` durably as one shard; returns its path.

        Raises:
            SampleStoreError: there are none, one does not fit SAMPLE_SCHEMA, a sample_id occurs twice or is
                stored already, or a stored shard is damaged. Nothing is stored then.
        """
        content = _encode(samples, self.folder)
        with exclusive(self.folder), self._reading:
            self._remove_leftovers()
            self._refresh()
            if stored := [sample.sample_id for sample in samples if sample.sample_id in self._ids]:
                raise SampleStoreError(
                    f"{self.folder}: {len(stored)} of {len(samples)} samples are stored already, the first, "
                    f"{stored[0]}, in {self._ids[stored[0]].name}; append only those missing from ids(), or "
                    "archive() first"
                )
            number = max((_number(shard) for shard in self.shards()), default=-1) + 1
            shard = self.folder / f"{number:06d}-{hashlib.sha256(content).hexdigest()}.parquet"
            write_atomically(shard, content)
            self._add(shard, (sample.sample_id for sample in samples))
        return shard

    def ids(self) -> frozenset[str]:
        """The sample_id of every stored sample.

        Raises:
            SampleStoreError: a shard is damaged, or two shards hold the same sample.
        """
        with self._reading:
            self._refresh()
            return frozenset(self._ids)

    def frame(self) -> pl.DataFrame:
        """All samples, one row each, columns SAMPLE_SCHEMA, sorted by ORDER whatever the order of appends.

        Raises:
            SampleStoreError: a shard is damaged, or two shards hold the same sample.
        """
        with self._reading:
            self._refresh()
            shards = sorted(self._read)
        frames = [pl.read_parquet(shard, glob=False) for shard in shards]
        return pl.concat([pl.DataFrame(schema=SAMPLE_SCHEMA), *frames]).sort(ORDER)

    def shards(self) -> list[Path]:
        """The shards in the order of their numbers."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if SHARD.fullmatch(path.name)), key=_number)

    def archive(self) -> Path | None:
        """Rename the folder with its shards to a sibling `superseded-<n>`, returned; None without shards.

        Afterwards the store is empty; an append that waited meanwhile goes to the new folder.
        """
        if not self.folder.is_dir():
            return None
        # The parent's lock: two stores side by side must not choose the same number.
        with exclusive(self.folder.parent), exclusive(self.folder):
            if not self.shards():
                return None
            taken = [
                int(path.name.removeprefix("superseded-"))
                for path in self.folder.parent.iterdir()
                if re.fullmatch(r"superseded-\d+", path.name)
            ]
            archived = self.folder.rename(self.folder.with_name(f"superseded-{max(taken, default=0) + 1}"))
            fsync(self.folder.parent)
        return archived

    def _refresh(self) -> None:
        """Bring the known ids up to date with the folder, every shard verified."""
        present = set(self.shards())
        if gone := self._read - present:
            self._ids = {sample: shard for sample, shard in self._ids.items() if shard not in gone}
            self._read -= gone
        for shard in sorted(present):
            _verify(shard)
            if shard not in self._read:
                self._add(shard, _ids_in(shard))

    def _add(self, shard: Path, ids: Iterable[str]) -> None:
        new = dict.fromkeys(ids, shard)
        if twice := new.keys() & self._ids.keys():
            sample = min(twice)
            raise SampleStoreError(
                f"{shard}: holds {len(twice)} samples that {self._ids[sample].name} holds too, such as "
                f"{sample}; delete the shard that was copied here"
            )
        self._ids |= new
        self._read.add(shard)

    def _remove_leftovers(self) -> None:
        """Remove what killed writers left: live ones write only under the lock that is held here."""
        for path in self.folder.glob(f"{TEMPORARY}*"):
            path.unlink()


def _encode(samples: Sequence[Sample], folder: Path) -> bytes:
    """The bytes of a parquet file of `samples`; equal samples give equal bytes."""
    if not samples:
        raise SampleStoreError(f"{folder}: append of no samples; skip the call when nothing is missing")
    if twice := [sample for sample, n in Counter(s.sample_id for s in samples).items() if n > 1]:
        raise SampleStoreError(f"{folder}: {twice[0]} occurs twice in one batch; nothing was stored")
    columns = []
    for name, dtype in SAMPLE_SCHEMA.items():
        try:  # column by column: rows are coerced, an index of 1.5 to 1, even with strict=True
            columns.append(pl.Series(name, [getattr(s, name) for s in samples], dtype, strict=True))
        except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
            raise SampleStoreError(f"{folder}: {name} of a sample is no {dtype}: {error}") from error
    frame = pl.DataFrame(columns)
    for column in frame.drop("system"):
        if column.null_count():
            raise SampleStoreError(f"{folder}: sample without {column.name}; only system may be None")
    if unknown := set(frame["finish_reason"]) - set(get_args(FinishReason)):
        raise SampleStoreError(f"{folder}: finish_reason {sorted(unknown)}; expected one of {get_args(FinishReason)}")
    stream = io.BytesIO()
    frame.write_parquet(stream)
    return stream.getvalue()


def _verify(shard: Path) -> None:
    expected, found = shard.stem.partition("-")[2], sha256_file(shard)
    if found != expected:
        raise SampleStoreError(
            f"{shard}: expected sha256 {expected}, found {found} ({shard.stat().st_size} bytes); delete "
            f"{shard} and re-run, which generates only its samples"
        )


def _ids_in(shard: Path) -> list[str]:
    schema = dict(pl.read_parquet_schema(shard))
    if schema != SAMPLE_SCHEMA:
        raise SampleStoreError(
            f"{shard}: columns {schema}; expected {SAMPLE_SCHEMA}; another version wrote it: run with the "
            "refresh tag, which archives it"
        )
    return pl.read_parquet(shard, columns=["sample_id"], glob=False)["sample_id"].to_list()


def _number(shard: Path) -> int:
    return int(shard.stem.partition("-")[0])
