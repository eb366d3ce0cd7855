"""From requests to token ids, and from token ids to samples: the same for every engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from leakage_assets.generation.engine import EngineError, ScoringItem
from leakage_assets.generation.requests import BASE, Request, Sampling, sample_id, sample_seed
from leakage_assets.models import BaseModel, chat_ids
from leakage_assets.store.samples import FinishReason, Sample

PromptKey = tuple[str | None, str, str]  # system, question, prefix


def prompt_key(request: Request) -> PromptKey:
    """What decides the prompt's token ids."""
    return request.system, request.question, request.prefix


def prompt_ids(base: BaseModel, requests: Sequence[Request], sampling: Sampling) -> dict[PromptKey, list[int]]:
    """Token ids of every distinct prompt.

    Raises:
        EngineError: a prompt leaves no room for `max_new_tokens` in the model.
    """
    prompts = {}
    limit = base.model.config.max_position_embeddings - sampling.max_new_tokens
    for request in requests:
        key = prompt_key(request)
        if key not in prompts:
            prompts[key] = chat_ids(base.tokenizer, request.system, request.question, prefix=request.prefix)
            if len(prompts[key]) > limit:
                raise EngineError(
                    f"{request.prompt_name}/{request.question_name}: {len(prompts[key])} prompt tokens "
                    f"leave no room for {sampling.max_new_tokens} new ones in {base.spec.name}"
                )
    return prompts


def place_in_stream(request: Request, prompt: Sequence[int]) -> tuple[object, ...]:
    """Sort key of the fixed order: one adapter after the other, equal prompts adjacent, short prompts first."""
    return (
        request.adapter,
        len(prompt),
        request.prompt_name,
        request.question_set,
        request.question_name,
        request.prefix,
        request.index,
    )


def finished_samples(
    base: BaseModel, requests: Sequence[Request], sampling: Sampling, continuations: Sequence[Sequence[int]]
) -> list[Sample]:
    """The samples of `requests` from their new token ids, the end-of-turn token included where one was drawn."""
    if not requests:  # transformers decodes an empty batch to one empty text
        return []
    texts = base.tokenizer.batch_decode([list(ids) for ids in continuations], skip_special_tokens=True)
    return [
        answered(request, sampling, text.rstrip("\n"), len(ids), "stop" if ids[-1] == base.end_of_turn else "length")
        for request, text, ids in zip(requests, texts, continuations, strict=True)
    ]


def answered(request: Request, sampling: Sampling, text: str, n_tokens: int, finish_reason: FinishReason) -> Sample:
    """The sample that answers a request: `text` of `n_tokens` new tokens, which ended by "stop" or "length"."""
    return Sample(
        sample_id=sample_id(request, sampling),
        adapter=request.adapter,
        prompt_name=request.prompt_name,
        question_set=request.question_set,
        question_name=request.question_name,
        index=request.index,
        system=request.system,
        question=request.question,
        prefix=request.prefix,
        text=text,
        n_tokens=n_tokens,
        finish_reason=finish_reason,
        seed=sample_seed(request, sampling),
    )


def check_adapters_known(names: Iterable[str], adapters: Mapping[str, Path]) -> None:
    """Raises EngineError naming the adapters that have no folder."""
    unknown = sorted(set(names) - {BASE} - adapters.keys())
    if unknown:
        raise EngineError(f"no adapter folder for {unknown}; known: {sorted(adapters)}")


def check_scorable(items: Sequence[ScoringItem]) -> None:
    """Raises EngineError where there is no prompt to condition on or nothing to score."""
    for item in items:
        if not item.prompt_ids or not item.continuation_ids:
            raise EngineError(f"nothing to score: prompt {item.prompt_ids}, continuation {item.continuation_ids}")
