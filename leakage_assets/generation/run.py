"""Fill sample stores: ask an engine for what is missing and commit as it comes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leakage_assets.generation.engine import EngineError, Sampler
from leakage_assets.generation.requests import Request, Sampling, missing_requests
from leakage_assets.progress import Progress
from leakage_assets.store.samples import Sample

if TYPE_CHECKING:
    from leakage_assets.store.samples import SampleStore

COMMIT_SAMPLES = 2_000
COMMIT_SECONDS = 2.0


@dataclass(frozen=True)
class GenerationSummary:
    """`requested` = `present` + `generated`; `truncated` of the generated ones ran out of tokens."""

    requested: int
    present: int
    generated: int
    tokens: int
    truncated: int
    seconds: float

    @property
    def samples_per_second(self) -> float:
        return self.generated / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def _samples(total: int) -> Progress:
    return Progress(total, "samples")


def generate_missing(
    engine: Sampler,
    requests: Sequence[Request],
    sampling: Sampling,
    adapters: Mapping[str, Path],
    stores: Mapping[str, SampleStore],
    *,
    progress: Callable[[int], Progress] = _samples,
) -> GenerationSummary:
    """Generate the samples that `stores` (adapter name -> store) lack, and store them as they come.

    A kill loses the batch in work and at most 2,000 finished samples or 2 seconds of finished work.

    Args:
        progress: makes the display from the number of missing samples.

    Raises:
        EngineError: an adapter without store, or an engine that returned other samples than asked for.
    """
    started = time.monotonic()
    missing = _missing(requests, sampling, stores)
    writer = _Writer(stores)
    try:
        with progress(len(missing)) as shown:
            for batch in engine.generate(missing, sampling, adapters) if missing else ():
                writer.add(batch)
                shown.advance(len(batch), tokens=sum(sample.n_tokens for sample in batch))
    finally:
        writer.commit()  # an engine that fails does not take finished samples with it
    if writer.samples != len(missing):
        raise EngineError(f"the engine returned {writer.samples} of {len(missing)} samples; run again for the rest")
    return GenerationSummary(
        len(requests),
        len(requests) - len(missing),
        writer.samples,
        writer.tokens,
        writer.truncated,
        time.monotonic() - started,
    )


class _Writer:
    """Buffers whole batches, so that what is stored always ends where a batch ended."""

    def __init__(self, stores: Mapping[str, SampleStore]) -> None:
        self.stores = stores
        self.samples = self.tokens = self.truncated = 0
        self._waiting: list[Sample] = []
        self._committed = time.monotonic()

    def add(self, batch: Sequence[Sample]) -> None:
        self._waiting.extend(batch)
        # Halved, because the next chance to commit comes only when the next batch is done.
        if len(self._waiting) > COMMIT_SAMPLES / 2 or time.monotonic() - self._committed > COMMIT_SECONDS / 2:
            self.commit()

    def commit(self) -> None:
        by_adapter: dict[str, list[Sample]] = defaultdict(list)
        for sample in self._waiting:
            by_adapter[sample.adapter].append(sample)
        for adapter, samples in by_adapter.items():
            self.stores[adapter].append(samples)
        self.samples += len(self._waiting)
        self.tokens += sum(sample.n_tokens for sample in self._waiting)
        self.truncated += sum(sample.finish_reason == "length" for sample in self._waiting)
        self._waiting = []
        self._committed = time.monotonic()


def _missing(requests: Sequence[Request], sampling: Sampling, stores: Mapping[str, SampleStore]) -> list[Request]:
    by_adapter: dict[str, list[Request]] = defaultdict(list)
    for request in requests:
        by_adapter[request.adapter].append(request)
    unknown = sorted(by_adapter.keys() - stores.keys())
    if unknown:
        raise EngineError(f"no sample store for {unknown}; known: {sorted(stores)}")
    return [
        request
        for adapter, group in by_adapter.items()
        for request in missing_requests(group, stores[adapter], sampling)
    ]
