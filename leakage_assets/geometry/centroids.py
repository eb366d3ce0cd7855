"""Where the model represents a prompt: hidden states, centroids, centred cosines, next-token
distributions.

Prompts are read in batches of a bounded number of tokens, no key or value is kept, and without the head the
pass ends at the deepest block asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leakage_assets.exceptions import ExpectedError
from leakage_assets.generation.adapters import attach_adapter
from leakage_assets.generation.decoding import left_padded, positions
from leakage_assets.models import BaseModel, chat_ids, shared_copy, system_turn_ids
from leakage_assets.progress import Progress

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

BATCH_TOKENS = 2**14
"""Padded tokens of a batch: enough that a GPU is limited by arithmetic, not by reading the weights."""

SYSTEM_TURN_TOKENS = 512
"""Where the published embedding of a prompt cuts it."""


class GeometryError(ExpectedError):
    """A representation that cannot be computed; the message names the layer or the prompt."""


def hidden_vectors(
    base: BaseModel,
    prompts: Sequence[str | None],
    questions: Sequence[str],
    layers: Sequence[int],
    *,
    adapter: Path | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Hidden state of each prompt with each question at the last input token, the end of the generation
    prompt.

    A layer is a block: `block_output(L)` is what block L (0-based) puts out, equal to transformers'
    hidden_states[L+1] but for the last block, where transformers returns the final-normed vector and this
    the block's own.

    Args:
        prompts: P system prompts.
        questions: Q user turns.
        layers: L block indices.
        adapter: folder of an adapter to apply.
        batch_tokens: how many tokens, padding included, are read at once; a longer prompt is read alone.
        progress: counts the rows, P * Q in all.

    Returns:
        float32 array of shape (P, Q, L, D), D the model's width.

    Raises:
        GeometryError: no prompts, questions or layers, a block the model does not have, or a value that is not finite.
        AdapterError: as `attach_adapter`.
    """
    _check_layers(base, layers)
    return _forward(base, prompts, questions, layers, False, adapter, batch_tokens, progress)[0]


def next_token_distributions(
    base: BaseModel,
    prompts: Sequence[str | None],
    questions: Sequence[str],
    *,
    adapter: Path | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> NDArray[np.float32]:
    """Log-probabilities (natural, float32) of the first answer token, shape (P, Q, V).

    Raises:
        GeometryError: no prompts or questions, or a value that is not finite.
        AdapterError: as `attach_adapter`.
    """
    return _forward(base, prompts, questions, (), True, adapter, batch_tokens, None)[1]


def vectors_and_distributions(
    base: BaseModel,
    prompts: Sequence[str | None],
    questions: Sequence[str],
    layers: Sequence[int],
    *,
    adapter: Path | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`hidden_vectors` and `next_token_distributions` from one pass through the model; raises what they raise."""
    _check_layers(base, layers)
    return _forward(base, prompts, questions, layers, True, adapter, batch_tokens, progress)


def system_turn_vectors(
    base: BaseModel, prompts: Sequence[str], layers: Sequence[int], *, batch_tokens: int = BATCH_TOKENS
) -> NDArray[np.float32]:
    """Hidden state of each prompt by itself, at the last token of a conversation that holds only the system turn.

    That token is the newline after the end of the turn: no user turn and no generation prompt follow (sheet
    trigger_leakage, section 6). An empty prompt is an explicit empty turn. As published, a longer text is cut after
    512 tokens.

    Args:
        prompts: P system prompts.
        layers: L block indices, as in `hidden_vectors`.

    Returns:
        float32 array of shape (P, L, D).

    Raises:
        GeometryError: as `hidden_vectors`.
    """
    _check_layers(base, layers)
    if not prompts:
        raise GeometryError("no prompts; expected at least one")
    rows = [system_turn_ids(base.tokenizer, prompt)[:SYSTEM_TURN_TOKENS] for prompt in prompts]
    vectors, _ = _read(base, rows, layers, False, None, batch_tokens, None)
    for column, layer in enumerate(layers):
        _check_finite(vectors[:, column], f"the hidden state of block {layer}", prompts, ["(none)"])
    return vectors


def _forward(
    base: BaseModel,
    prompts: Sequence[str | None],
    questions: Sequence[str],
    layers: Sequence[int],
    head: bool,
    adapter: Path | None,
    batch_tokens: int,
    progress: Progress | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Hidden vectors (P, Q, L, D) and log-probabilities (P, Q, V); without the head over the vocabulary V is 0."""
    if not prompts or not questions:
        raise GeometryError(f"{len(prompts)} prompts and {len(questions)} questions; expected at least one of each")
    rows = [chat_ids(base.tokenizer, prompt, question) for prompt in prompts for question in questions]
    vectors, log_probs = _read(base, rows, layers, head, adapter, batch_tokens, progress)
    for column, layer in enumerate(layers):
        _check_finite(vectors[:, column], f"the hidden state of block {layer}", prompts, questions)
    _check_finite(log_probs, "the next-token distribution", prompts, questions)
    shape = (len(prompts), len(questions))
    return vectors.reshape(*shape, *vectors.shape[1:]), log_probs.reshape(*shape, log_probs.shape[1])


def _read(
    base: BaseModel,
    rows: Sequence[Sequence[int]],
    layers: Sequence[int],
    head: bool,
    adapter: Path | None,
    batch_tokens: int,
    progress: Progress | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What stands at the end of N rows of token ids: hidden vectors (N, L, D) and log-probabilities (N, V)."""
    import torch

    causal = _causal_model(base, adapter)
    backbone = causal.base_model if head else _without_upper_blocks(causal.base_model, max(layers))
    vectors = np.empty((len(rows), len(layers), causal.config.hidden_size), dtype=np.float32)
    log_probs = np.empty((len(rows), causal.config.vocab_size if head else 0), dtype=np.float32)
    with torch.inference_mode(), _last_tokens(backbone, layers) as captured:
        for places, ids, mask in _batches(base, rows, batch_tokens):
            given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask), "use_cache": False}
            if head:
                logits = causal(**given, logits_to_keep=1).logits[:, -1]
                log_probs[places] = logits.float().log_softmax(-1).cpu().numpy()
            else:
                backbone(**given)
            if layers:  # one transfer for all of them: each waits for the device
                vectors[places] = torch.stack([captured[layer] for layer in layers], dim=1).float().cpu().numpy()
            if progress is not None:
                progress.advance(len(places))
    return vectors, log_probs


def _check_finite(
    values: NDArray[np.float32], what: str, prompts: Sequence[str | None], questions: Sequence[str]
) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=-1))
    if len(bad):
        prompt, question = divmod(int(bad[0]), len(questions))
        raise GeometryError(
            f"prompt {prompts[prompt]!r}, question {questions[question]!r}: {what} is not finite ({len(bad)} of "
            f"{len(values)} rows); the weights of the model or of its adapter are damaged, or overflow in its precision"
        )


def centroids(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over the questions: (P, Q, L, D) -> (P, L, D)."""
    means: NDArray[np.float32] = vectors.mean(axis=1, dtype=np.float64).astype(np.float32)
    return means


def centred_cosine(layer_centroids: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float64]:
    """Cosine of centroids around their common mean, (P, D) -> (P, P), at one layer.

    The mean of all P centroids is subtracted before normalising: what all prompts share says nothing about
    them.

    Args:
        names: of the P prompts, for errors.

    Raises:
        GeometryError: a value that is not finite, or a centroid that equals the mean, so that its direction is
            undefined.
    """
    bad = np.flatnonzero(~np.isfinite(layer_centroids).all(axis=1))
    if len(bad):
        raise GeometryError(f"{names[bad[0]]}: its centroid is not finite; compute the hidden vectors again")
    centred = layer_centroids.astype(np.float64)
    centred -= centred.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1)
    # Rounding leaves a residue where the centroid is the mean: compare with the spread of the others.
    for name, length in zip(names, lengths, strict=True):
        if length <= 1e-6 * lengths.max() or length == 0:
            raise GeometryError(
                f"{name}: its centroid is the mean of all prompts, so no direction is left; "
                "use more prompts, or prompts that differ"
            )
    unit = centred / lengths[:, None]
    cosines: NDArray[np.float64] = np.clip(unit @ unit.T, -1.0, 1.0)
    return cosines


def _check_layers(base: BaseModel, layers: Sequence[int]) -> None:
    if not layers:
        raise GeometryError("no layers asked for")
    for layer in layers:
        if not 0 <= layer < base.blocks:
            raise GeometryError(
                f"block {layer} of {base.spec.name}: it has {base.blocks} (blocks 0 to {base.blocks - 1}). The layers "
                f"asked for, {', '.join(map(str, layers))}, are those of the profile (leakage_assets/profiles.py): "
                "give it a base model that has them (LEAKAGE_BASE_MODEL), or take the profile that is made for this "
                "one (`tiny` for the bundled model)"
            )


def _causal_model(base: BaseModel, adapter: Path | None) -> Any:
    return base.model if adapter is None else attach_adapter(base, adapter).get_base_model()


def _without_upper_blocks(backbone: Any, deepest: int) -> Any:
    """A module tree over the same weights that ends with block `deepest`: no block above it runs, nor the last norm."""
    import torch

    copied: Any = shared_copy(backbone)
    copied.layers = copied.layers[: deepest + 1]
    copied.norm = torch.nn.Identity()
    return copied


@contextmanager
def _last_tokens(backbone: Any, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Collects each named block's output at the last position while the context is open."""
    captured: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
            captured[layer] = output[:, -1]

        return hook

    handles = [backbone.layers[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def _batches(
    base: BaseModel, rows: Sequence[Sequence[int]], batch_tokens: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Row numbers, ids and masks, in order of length so that little is padded."""
    for places in token_batches([len(row) for row in rows], batch_tokens):
        yield places, *left_padded([rows[place] for place in places], base.padding, base.device)


def token_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Positions of `lengths` in batches of at most `batch_tokens` padded tokens, shortest first.

    A row that is longer than that makes a batch of its own.
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        # In this order the newest row is the longest, and all are padded to its length.
        if batch and lengths[place] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
