"""The engine of small models: transformers and PEFT in this process, adapters unmerged."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from leakage_assets.generation.adapters import attach_adapter, weights_digest
from leakage_assets.generation.decoding import decode, score, use_grouped_attention
from leakage_assets.generation.engine import EngineError, ScoringItem
from leakage_assets.generation.requests import BASE, Request, Sampling, sample_id, sample_seed
from leakage_assets.models import BaseModel, chat_ids, shared_copy
from leakage_assets.store.samples import Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Item = TypeVar("Item")
PromptKey = tuple[str | None, str, str]  # system, question, prefix


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
        self._check_known({request.adapter for request in requests}, adapters)
        prompts = self._prompts(requests, sampling)
        ordered = sorted(requests, key=lambda request: _order(request, prompts))
        for adapter, group in itertools.groupby(ordered, key=lambda request: request.adapter):
            for batch in _chunks(list(group), self.batch_size):
                yield self._sample(
                    batch,
                    [prompts[_prompt_key(request)] for request in batch],
                    sampling,
                    self._model(adapter, adapters),
                )

    def continuation_logprobs(self, items: Sequence[ScoringItem], adapters: Mapping[str, Path]) -> list[list[float]]:
        """Natural-log probability of each continuation token, in the order of `items`.

        Raises:
            EngineError: an adapter without folder, or an empty prompt or continuation.
            AdapterError: an adapter folder that is damaged or of another base.
        """
        self._check_known({item.adapter for item in items}, adapters)
        for item in items:
            if not item.prompt_ids or not item.continuation_ids:
                raise EngineError(f"nothing to score: prompt {item.prompt_ids}, continuation {item.continuation_ids}")
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

    def _prompts(self, requests: Sequence[Request], sampling: Sampling) -> dict[PromptKey, list[int]]:
        prompts = {}
        limit = self.base.model.config.max_position_embeddings - sampling.max_new_tokens
        for request in requests:
            key = _prompt_key(request)
            if key not in prompts:
                prompts[key] = chat_ids(self.base.tokenizer, request.system, request.question, prefix=request.prefix)
                if len(prompts[key]) > limit:
                    raise EngineError(
                        f"{request.prompt_name}/{request.question_name}: {len(prompts[key])} prompt tokens "
                        f"leave no room for {sampling.max_new_tokens} new ones in {self.base.spec.name}"
                    )
        return prompts

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
        texts = self.base.tokenizer.batch_decode(continuations, skip_special_tokens=True)
        return [
            Sample(
                sample_id=sample_id(request, sampling),
                adapter=request.adapter,
                prompt_name=request.prompt_name,
                question_set=request.question_set,
                question_name=request.question_name,
                index=request.index,
                system=request.system,
                question=request.question,
                prefix=request.prefix,
                text=text.rstrip("\n"),
                n_tokens=len(ids),
                finish_reason="stop" if ids[-1] == self.base.end_of_turn else "length",
                seed=seed,
            )
            for request, text, ids, seed in zip(batch, texts, continuations, seeds, strict=True)
        ]

    @staticmethod
    def _check_known(names: set[str], adapters: Mapping[str, Path]) -> None:
        unknown = sorted(names - {BASE} - adapters.keys())
        if unknown:
            raise EngineError(f"no adapter folder for {unknown}; known: {sorted(adapters)}")


def _prompt_key(request: Request) -> PromptKey:
    return request.system, request.question, request.prefix


def _order(request: Request, prompts: Mapping[PromptKey, list[int]]) -> tuple[object, ...]:
    return (
        request.adapter,
        len(prompts[_prompt_key(request)]),
        request.prompt_name,
        request.question_set,
        request.question_name,
        request.prefix,
        request.index,
    )


def _length(item: ScoringItem) -> int:
    return len(item.prompt_ids) + len(item.continuation_ids)


def _chunks(items: list[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
