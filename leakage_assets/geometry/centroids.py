"""Where the model represents a prompt: hidden states, centroids, centred cosines, next-token
distributions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leakage_assets.generation.adapters import attach_adapter
from leakage_assets.generation.decoding import left_padded, positions
from leakage_assets.models import BaseModel, chat_ids

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

BATCH = 64


class GeometryError(ValueError):
    """A representation that cannot be computed; the message names the layer or the prompt."""


def hidden_vectors(
    base: BaseModel,
    prompts: Sequence[str | None],
    questions: Sequence[str],
    layers: Sequence[int],
    *,
    adapter: Path | None = None,
    batch_size: int = BATCH,
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

    Returns:
        float32 array of shape (P, Q, L, D), D the model's width.

    Raises:
        GeometryError: no prompts, questions or layers, or a block the model does not have.
        AdapterError: as `attach_adapter`.
    """
    import torch

    _check_layers(base, layers)
    causal = _causal_model(base, adapter)
    vectors = np.empty((len(prompts) * len(questions), len(layers), causal.config.hidden_size), dtype=np.float32)
    with torch.inference_mode(), _last_tokens(causal.base_model, layers) as captured:
        for places, ids, mask in _batches(base, prompts, questions, batch_size):
            # The backbone alone: the head over the vocabulary is not needed.
            causal.base_model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False)
            for column, layer in enumerate(layers):
                vectors[places, column] = captured[layer].float().cpu().numpy()
    return vectors.reshape(len(prompts), len(questions), *vectors.shape[1:])


def next_token_distributions(
    base: BaseModel,
    prompts: Sequence[str | None],
    questions: Sequence[str],
    *,
    adapter: Path | None = None,
    batch_size: int = BATCH,
) -> NDArray[np.float32]:
    """Log-probabilities (natural, float32) of the first answer token, shape (P, Q, V).

    Raises:
        GeometryError: no prompts or questions.
        AdapterError: as `attach_adapter`.
    """
    import torch

    causal = _causal_model(base, adapter)
    rows = np.empty((len(prompts) * len(questions), causal.config.vocab_size), dtype=np.float32)
    with torch.inference_mode():
        for places, ids, mask in _batches(base, prompts, questions, batch_size):
            logits = causal(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions(mask),
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]
            rows[places] = logits.float().log_softmax(-1).cpu().numpy()
    return rows.reshape(len(prompts), len(questions), -1)


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
        GeometryError: a centroid that equals the mean, so that its direction is undefined.
    """
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
            raise GeometryError(f"block {layer} of {base.spec.name}: it has blocks 0 to {base.blocks - 1}")


def _causal_model(base: BaseModel, adapter: Path | None) -> Any:
    return base.model if adapter is None else attach_adapter(base, adapter).get_base_model()


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
    base: BaseModel, prompts: Sequence[str | None], questions: Sequence[str], batch_size: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Row numbers (prompt-major), ids and masks, in order of length so that little is padded."""
    if not prompts or not questions:
        raise GeometryError(f"{len(prompts)} prompts and {len(questions)} questions; expected at least one of each")
    rows = [chat_ids(base.tokenizer, prompt, question) for prompt in prompts for question in questions]
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        yield places, *left_padded([rows[place] for place in places], base.padding, base.device)
