"""The engine of small models: transformers and PEFT in this process, adapters unmerged."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from leakage_assets.generation.adapters import attach_adapter, weights_digest
from leakage_assets.generation.conversation import (
    check_adapters_known,
    check_scorable,
    finished_samples,
    place_in_stream,
    prompt_ids,
    prompt_key,
)
from leakage_assets.generation.decoding import decode, score, use_grouped_attention
from leakage_assets.generation.engine import ScoringItem
from leakage_assets.generation.requests import BASE, Request, Sampling, sample_seed
from leakage_assets.models import BaseModel, shared_copy
from leakage_assets.store.samples import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Item = TypeVar("Item")


class TransformersEngine:
    """Samples and scores with one adapter at a time on a shared base, which it never changes.

    Batches are chunks of `batch_size` of one adapter's requests in a fixed order (prompt length first, so
    that little is padded; equal prompts adjacent, so that they are run once). What is left after whole
    batches were stored falls into the same batches again: a killed run that resumes gives the very samples
    of an undisturbed one.
    """

    def __init__(self, base: BaseModel, batch_size: int = 256) -> None:
        self.base = replace(base, model=use_grouped_attention(shared_copy(base.model)))
        self.batch_size = batch_size
        self._attached: tuple[str, PreTrainedModel] | None = None

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, adapters: Mapping[str, Path]
    ) -> Iterator[list[Sample]]:
        """Yields one batch of samples at a time, in the fixed order.

        Raises:
            EngineError: an adapter without folder, or a prompt too long for the model.
            AdapterError: an adapter folder that is damaged or of another base.
        """
        check_adapters_known({request.adapter for request in requests}, adapters)
        prompts = prompt_ids(self.base, requests, sampling)
        ordered = sorted(requests, key=lambda request: place_in_stream(request, prompts[prompt_key(request)]))
        for adapter, group in itertools.groupby(ordered, key=lambda request: request.adapter):
            for batch in _chunks(list(group), self.batch_size):
                yield self._sample(
                    batch,
                    [prompts[prompt_key(request)] for request in batch],
                    sampling,
                    self._model(adapter, adapters),
                )

    def continuation_logprobs(self, items: Sequence[ScoringItem], adapters: Mapping[str, Path]) -> list[list[float]]:
        """Natural-log probability of each continuation token, in the order of `items`.

        Raises:
            EngineError: an adapter without folder, or an empty prompt or continuation.
            AdapterError: an adapter folder that is damaged or of another base.
        """
        check_adapters_known({item.adapter for item in items}, adapters)
        check_scorable(items)
        order = sorted(range(len(items)), key=lambda place: (items[place].adapter, _length(items[place])))
        scores: dict[int, list[float]] = {}
        for adapter, group in itertools.groupby(order, key=lambda place: items[place].adapter):
            for batch in _chunks(list(group), self.batch_size):
                pairs = [(items[place].prompt_ids, items[place].continuation_ids) for place in batch]
                rows = score(self._model(adapter, adapters), pairs, self.base.padding)
                scores.update(zip(batch, rows, strict=True))
        return [scores[place] for place in range(len(items))]

    def close(self) -> None:
        """Forgets the attached adapter."""
        self._attached = None

    def _model(self, adapter: str, adapters: Mapping[str, Path]) -> PreTrainedModel:
        """The model under `adapter`; the one attached last is kept while its weights on disk stay the
        same.
        """
        if adapter == BASE:
            return self.base.model
        digest = weights_digest(adapters[adapter])
        if self._attached is None or self._attached[0] != digest:
            self._attached = None  # frees the previous adapter before the next is read
            self._attached = (digest, attach_adapter(self.base, adapters[adapter]))
        return self._attached[1]

    def _sample(
        self,
        batch: Sequence[Request],
        prompts: Sequence[list[int]],
        sampling: Sampling,
        model: PreTrainedModel,
    ) -> list[Sample]:
        import numpy as np

        seeds = [sample_seed(request, sampling) for request in batch]
        uniforms = np.stack(
            [np.random.Generator(np.random.PCG64(seed)).random(sampling.max_new_tokens) for seed in seeds]
        )
        continuations = decode(
            model, prompts, uniforms, sampling, end_of_turn=self.base.end_of_turn, padding=self.base.padding
        )
        return finished_samples(self.base, batch, sampling, continuations)


def _length(item: ScoringItem) -> int:
    return len(item.prompt_ids) + len(item.continuation_ids)


def _chunks(items: list[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
