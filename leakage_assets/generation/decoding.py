"""Batched forward passes for sampling and scoring, with each row independent of its neighbours.

transformers' `generate` spends most of its time on small models in three places that this loop avoids: it
copies every key and value head for each query head of its group, it runs the prompt once per completion, and
it keeps computing rows that have ended. Rows are padded on the left and drawn from their own uniforms, so a
row's tokens do not depend on the batch it shares beyond float noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from leakage_assets.generation.requests import Sampling

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import DynamicCache, PreTrainedModel

ATTENTION = "grouped_sdpa"
HEAD = 64  # candidates looked at before sorting the whole vocabulary: nearly always more than the nucleus holds
ROOM = 32  # tokens a cache grows by
COMPACT_SHARE = 8  # ended rows are dropped when they make up one eighth of the batch


def use_grouped_attention(model: PreTrainedModel) -> PreTrainedModel:
    """Switch `model` (in place) to an SDPA that decodes grouped queries without copying keys and values.

    With one new token per row the query heads that share a key head can stand in the query's length axis.
    """
    from torch.nn.functional import scaled_dot_product_attention
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    def attend(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        rows, heads, length, width = query.shape
        if length > 1:
            output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
            return output, None
        grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], width)
        output = scaled_dot_product_attention(
            grouped, key, value, attn_mask=attention_mask, scale=options.get("scaling")
        )
        return output.reshape(rows, 1, heads, width), None

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)
    return model


def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    uniforms: NDArray[Any],
    sampling: Sampling,
    *,
    end_of_turn: int,
    padding: int,
) -> list[list[int]]:
    """Sample a continuation of each prompt.

    Args:
        prompts: token ids of each row; equal prompts are run once.
        uniforms: (rows, max_new_tokens) numbers in [0, 1), one per token to draw.
        end_of_turn: the id that ends a row; it is part of the row's result.
        padding: any valid id.

    Returns:
        The new token ids of each row, at most `max_new_tokens`, the end-of-turn token included.
    """
    import torch

    with torch.inference_mode():
        cache, mask, tokens = _prefill(model, prompts, sampling.max_new_tokens, padding)
        draws = torch.from_numpy(uniforms).to(model.device)
        width = mask.shape[1] - sampling.max_new_tokens
        alive = list(range(len(prompts)))  # the row each line of the batch belongs to
        continuations: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        for step in range(sampling.max_new_tokens):
            seen = mask[:, : width + step]
            logits = (
                model(
                    input_ids=tokens,
                    attention_mask=seen,
                    position_ids=seen.sum(-1, keepdim=True) - 1,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                .logits[:, -1]
                .float()
            )
            chosen = choose(logits, draws[:, step], sampling)
            for row, token in zip(alive, chosen.tolist(), strict=True):
                if not ended[row]:
                    continuations[row].append(token)
                    ended[row] = token == end_of_turn
            tokens = chosen[:, None]
            kept = [line for line, row in enumerate(alive) if not ended[row]]
            if not kept:
                break
            if len(alive) - len(kept) >= max(1, len(alive) // COMPACT_SHARE):
                lines = torch.tensor(kept, device=model.device)
                cache.batch_select_indices(lines)
                mask, tokens, draws = mask[lines], tokens[lines], draws[lines]
                alive = [alive[line] for line in kept]
    return continuations


def choose(logits: torch.Tensor, draws: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """One token per row by the inverse distribution function of the tempered nucleus.

    Tokens are ordered by falling probability, the nucleus (Holtzman et al. 2020) keeps each token before
    which less than `top_p` of the mass lies, and the draw picks the token in whose share of the kept mass it
    falls.

    Args:
        logits: (rows, vocabulary) float32.
        draws: (rows,) float64 in [0, 1).

    Returns:
        (rows,) int64 token ids.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)
    likeliest, ids = probabilities.topk(min(HEAD, probabilities.shape[-1]))
    chosen = _pick(likeliest, ids, draws, sampling.top_p)
    wide = likeliest.sum(-1) < sampling.top_p
    if bool(wide.any()):
        everything, ids = probabilities[wide].sort(dim=-1, descending=True, stable=True)
        chosen[wide] = _pick(everything, ids, draws[wide], sampling.top_p)
    return chosen


def _pick(likeliest: torch.Tensor, ids: torch.Tensor, draws: torch.Tensor, top_p: float) -> torch.Tensor:
    """The token of each row in whose share of the nucleus the draw falls; probabilities fall along each
    row.
    """
    mass = likeliest.double().cumsum(-1)
    kept = mass - likeliest < top_p
    target = draws * (likeliest * kept).double().sum(-1)
    place = ((mass <= target[:, None]) & kept).sum(-1).minimum(kept.sum(-1) - 1)
    return ids.gather(-1, place[:, None])[:, 0]


def score(
    model: PreTrainedModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], padding: int
) -> list[list[float]]:
    """Natural-log probability of each continuation token given prompt and earlier tokens, one batch.

    Rows that differ in their last token alone, as the letters of a choice do, are run once.

    Args:
        pairs: (prompt ids, continuation ids) of each row; neither may be empty.
    """
    import torch

    inputs = [(*prompt, *continuation[:-1]) for prompt, continuation in pairs]  # nothing is asked after the last token
    line = {row: number for number, row in enumerate(dict.fromkeys(inputs))}
    ids, mask = left_padded(list(line), padding, model.device)
    wanted, _ = left_padded([continuation for _, continuation in pairs], padding, model.device)
    with torch.inference_mode():
        logits = (
            model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions(mask),
                use_cache=False,
                logits_to_keep=wanted.shape[1],
            )
            .logits[[line[row] for row in inputs]]
            .float()
        )
        scores = logits.log_softmax(-1).gather(-1, wanted[..., None])[..., 0].tolist()
    return [row[-len(continuation) :] for row, (_, continuation) in zip(scores, pairs, strict=True)]


def left_padded(rows: Sequence[Sequence[int]], padding: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (rows, longest) int64, aligned at the last token."""
    import torch

    width = max(len(row) for row in rows)
    ids = torch.tensor([[padding] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position of each token in its own row: padding does not count."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _prefill(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], room: int, padding: int
) -> tuple[DynamicCache, torch.Tensor, torch.Tensor]:
    """Cache of all prompts but their last tokens, the mask with `room` more columns, and those last
    tokens.
    """
    import torch

    distinct = {tuple(prompt): None for prompt in prompts}
    place = {prompt: line for line, prompt in enumerate(distinct)}
    lines = torch.tensor([place[tuple(prompt)] for prompt in prompts], device=model.device)
    ids, mask = left_padded(list(distinct), padding, model.device)
    cache = _growing_cache(model)
    if ids.shape[1] > 1:
        model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions(mask[:, :-1]),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache.batch_select_indices(lines)
    return cache, torch.nn.functional.pad(mask[lines], (0, room), value=1), ids[lines, -1:]


def _growing_cache(model: PreTrainedModel) -> DynamicCache:
    """A dynamic cache that appends in place: transformers' own copies all keys and values for each new
    token.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):  # type: ignore[misc]
        keys: torch.Tensor
        values: torch.Tensor
        buffers: tuple[torch.Tensor, torch.Tensor] | None = None

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            old = self.get_seq_length()
            new = old + key_states.shape[-2]
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            if self.buffers is None or self.buffers[0].shape[-2] < new:
                rows, heads, _length, width = key_states.shape
                self.buffers = (
                    key_states.new_empty(rows, heads, new + ROOM, width),
                    value_states.new_empty(rows, heads, new + ROOM, value_states.shape[-1]),
                )
                if old:
                    self.buffers[0][:, :, :old] = self.keys
                    self.buffers[1][:, :, :old] = self.values
            self.buffers[0][:, :, old:new] = key_states
            self.buffers[1][:, :, old:new] = value_states
            self.keys, self.values = (buffer[:, :, :new] for buffer in self.buffers)
            return self.keys, self.values

        def batch_select_indices(self, indices: torch.Tensor) -> None:
            super().batch_select_indices(indices)
            self.buffers = None

    cache = DynamicCache()
    cache.layers = [GrowingLayer() for _ in range(model.config.num_hidden_layers)]
    return cache
