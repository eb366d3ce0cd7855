"""Many partitions in one run: finished ones are kept, failed ones are named, a retry runs only those."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import dagster as dg

from leakage_assets.exceptions import ExpectedError, PartitionError
from leakage_assets.generation.engine import EngineDied
from leakage_assets.pipeline.laboratory import Outcome

T = TypeVar("T")
READERS = 8


@dataclass
class Tally:
    """What became of each partition of a run, by partition key."""

    done: dict[str, Outcome] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)

    def attempt(self, keys: Iterable[str], work: Callable[[str], Outcome]) -> Tally:
        """Do the work of each key; an error of one cell does not stop the others."""
        for key in keys:
            try:
                self.done[key] = work(key)
            except PartitionError as error:
                self.failed[key] = error
        return self

    def then(self, work: Callable[[str, Outcome], Outcome]) -> Tally:
        """Further work on each key that is done, when the first is over for all; an error is that of its cell."""
        done, self.done = self.done, {}
        return self.attempt(done, lambda key: work(key, done[key]))

    def take(self, results: Mapping[str, Outcome | PartitionError]) -> Tally:
        """Sort the results of work that was done for all keys together."""
        for key, result in results.items():
            if isinstance(result, Outcome):
                self.done[key] = result
            else:
                self.failed[key] = result
        return self

    def select(self, keys: Iterable[str], make: Callable[[str], T]) -> dict[str, T]:
        """What ``make`` gives for each key; keys whose cell is not ready are counted as failed.

        Side by side, as most of it is the digests of what is read; the first alone, as it reads what all share.
        """
        made, waiting = {}, list(keys)
        with ThreadPoolExecutor(READERS) as pool:
            pending = {key: pool.submit(make, key) for key in waiting[:1]}
            wait(pending.values())
            pending |= {key: pool.submit(make, key) for key in waiting[1:]}
        for key, found in pending.items():
            try:
                made[key] = found.result()
            except PartitionError as error:
                self.failed[key] = error
        return made


@contextmanager
def not_retried() -> Iterator[None]:
    """An expected error fails the step at once: its retry policy is for machines, and the error would come again."""
    try:
        yield
    except EngineDied:
        raise
    except ExpectedError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


def conclude(context: dg.AssetExecutionContext, tally: Tally) -> dg.MaterializeResult[Any]:
    """Report every finished partition of the step's asset; raise ``dg.Failure`` naming the others."""
    result = next(report(context, tally, context.asset_key), None)
    if result is None:
        raise failure(context, tally.failed, kept=len(tally.done))
    return result


def report(context: dg.AssetExecutionContext, tally: Tally, key: dg.AssetKey) -> Iterator[dg.MaterializeResult[Any]]:
    """Report every finished partition of an asset; what is yielded speaks for all partitions of the run, and comes only
    where none failed."""
    if not tally.failed:
        for partition, outcome in tally.done.items():
            context.add_asset_metadata(outcome_metadata(outcome), asset_key=key, partition_key=partition)
        yield dg.MaterializeResult(asset_key=key, metadata=run_metadata(tally))
        return
    for partition, outcome in tally.done.items():
        context.log_event(dg.AssetMaterialization(key, partition=partition, metadata=outcome_metadata(outcome)))


def failure(context: dg.AssetExecutionContext, failed: Mapping[str, Exception], *, kept: int) -> dg.Failure:
    """Names the partitions that failed, and why; a retry would meet the same. ``kept``: partitions that did not."""
    lines = [f"{key}: {error}" for key, error in failed.items()]
    for line in lines:
        context.log.error(line)
    others = "; the others are kept, and a re-run does only these" if kept else ""
    return dg.Failure(
        description=f"{len(lines)} of {len(lines) + kept} partitions failed{others}:\n" + "\n".join(lines[:20]),
        allow_retries=False,
    )


def outcome_metadata(outcome: Outcome) -> dict[str, Any]:
    """Metadata of one partition: numbers become plots in the UI."""
    artifact = outcome.artifact
    seconds = artifact.manifest.provenance.get("elapsed_seconds")
    replaced = artifact.manifest.provenance.get("replaces")
    return {
        **outcome.metrics,
        "reused": outcome.reused,
        **({} if replaced is None else {"differs_from_replaced": replaced != artifact.manifest.digest}),
        "fingerprint": artifact.manifest.fingerprint[:16],
        "path": dg.MetadataValue.path(str(artifact.folder)),
        **({"seconds": float(seconds)} if outcome.timed and seconds is not None else {}),
    }


def run_metadata(tally: Tally) -> dict[str, Any]:
    """Metadata of a whole run."""
    reused = sum(outcome.reused for outcome in tally.done.values())
    return {"partitions_done": len(tally.done), "partitions_reused": reused}


def single(outcome: Outcome, **extra: Any) -> dg.MaterializeResult[Any]:
    """The result of an unpartitioned asset."""
    return dg.MaterializeResult(metadata={**outcome_metadata(outcome), **extra})
