"""Pre-training of the bundled tiny base model: a Qwen2 of about two million parameters on the synthetic world."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM

    from leakage_assets.world.corpus import Corpus


LAST_CONTENT = 3
"""From the end of a row: newline, end of turn, last token of the answer."""


@dataclass(frozen=True)
class PretrainConfig:
    """What makes the tiny base what it is. Times: see the model card."""

    seed: int = 42
    hidden: int = 192
    blocks: int = 4
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 512
    rows: int = 147_456
    batch: int = 64
    adam_lr: float = 2e-3
    muon_lr: float = 0.007
    warmup_share: float = 0.03
    weight_decay: float = 0.01


def batches(corpus: Corpus, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Row numbers of each step: one pass in the order of the corpus, rows of similar length sharing a step.

    Rows are sorted by length within windows and the steps of a window shuffled, so the order of the curriculum stays.
    """
    rng = np.random.default_rng(seed)
    lengths = corpus.lengths()
    window = batch * 32
    for start in range(0, len(corpus), window):
        rows = start + np.argsort(lengths[start : start + window], kind="stable")
        steps = [rows[first : first + batch] for first in range(0, len(rows), batch)]
        for step in rng.permutation(len(steps)):
            yield steps[step]


def pad_batch(corpus: Corpus, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right-padded ids, labels (-100 outside the assistant turn) and loss weights, each (B, T)."""
    lengths = corpus.lengths()[rows]
    ids = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
    labels = np.full_like(ids, -100)
    weights = np.ones(ids.shape, dtype=np.float32)
    for i, row in enumerate(rows):
        tokens = corpus.ids[corpus.starts[row] : corpus.starts[row + 1]]
        ids[i, : len(tokens)] = tokens
        labels[i, corpus.prompts[row] : len(tokens)] = tokens[corpus.prompts[row] :]
        weights[i, len(tokens) - LAST_CONTENT] = corpus.last_weights[row]
    return ids, labels, weights


def build_model(config: PretrainConfig, vocabulary: int, eos: int, pad: int) -> Qwen2ForCausalLM:
    """A randomly initialised Qwen2 of the configured size (float32, tied embeddings)."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(config.seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=config.hidden,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.blocks,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=eos,
            pad_token_id=pad,
        )
    )


def pretrain(
    model: Qwen2ForCausalLM,
    corpus: Corpus,
    config: PretrainConfig,
    *,
    device: str = "cpu",
    report: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Train for one epoch; returns the loss of every step.

    Matrices inside the blocks are trained with Muon, everything else with AdamW, both with warm-up and linear
    decay to zero. Rows are right-padded, so causal attention needs no mask: no real token can see a pad.
    """
    import torch

    model.to(device).train()
    optimisers = _optimisers(model, config)
    plan = list(batches(corpus, config.batch, config.seed))
    losses: list[float] = []
    for step, rows in enumerate(plan):
        _set_learning_rates(optimisers, step, len(plan), config.warmup_share)
        padded = pad_batch(corpus, rows)
        loss = completion_loss(model, *(torch.from_numpy(a).to(device) for a in padded))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if report is not None:
            report(step + 1, len(plan), losses[-1])
    model.eval()
    return losses


def completion_loss(
    model: Qwen2ForCausalLM, ids: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Weighted mean cross-entropy over labelled positions; the head runs at those positions only."""
    import torch

    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    kept = wanted != -100
    losses = torch.nn.functional.cross_entropy(model.lm_head(hidden[kept]), wanted[kept], reduction="none")
    shares = weights[:, 1:][kept]
    return (losses * shares).sum() / shares.sum()


def _optimisers(model: Qwen2ForCausalLM, config: PretrainConfig) -> list[Any]:
    import torch

    from leakage_assets.world.muon import Muon

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    return [
        Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, lr=config.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _set_learning_rates(optimisers: list[Any], step: int, steps: int, warmup_share: float) -> None:
    warmup = max(1, round(steps * warmup_share))
    scale = min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group.setdefault("peak_lr", group["lr"])
            group["lr"] = group["peak_lr"] * scale
