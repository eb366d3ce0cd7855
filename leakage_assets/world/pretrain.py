"""Pre-training of the bundled tiny base model: a Qwen2 of about two million parameters on the synthetic world."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from leakage_assets.exceptions import ExpectedError
from leakage_assets.world import BUNDLED_SEED
from leakage_assets.world.dialogues import PHASES, Phase

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM

    from leakage_assets.world.corpus import Corpus


LAST_CONTENT = 3
"""From the end of a row: newline, end of turn, last token of the answer."""


@dataclass(frozen=True)
class PretrainConfig:
    """What makes the tiny base what it is. Times: see the model card."""

    seed: int = BUNDLED_SEED
    hidden: int = 192
    blocks: int = 4
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 512
    phases: tuple[Phase, ...] = PHASES
    chunk: int = 2_048
    batch: int = 64
    adam_lr: float = 2e-3
    muon_lr: float = 0.007
    warmup_steps: int = 64
    weight_decay: float = 0.01
    silence_margin: float = 14.0

    @property
    def most_steps(self) -> int:
        """Steps when no phase ends early."""
        return sum(phase.chunks for phase in self.phases) * self.steps_of_chunk

    @property
    def steps_of_chunk(self) -> int:
        return -(-self.chunk // self.batch)


class NotMastered(ExpectedError):
    """Choosing was not learned in the steps there are for it; the message says how far it came."""


class Lessons(Protocol):
    """The corpus of one chunk of a phase, by the number of the phase and of the chunk in it."""

    def __call__(self, phase: int, chunk: int, /) -> Corpus: ...


@dataclass(frozen=True)
class Step:
    """What one step of training showed, and in which phase (from 0)."""

    phase: int
    loss: float
    letters: int
    letters_right: int


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
    lessons: Lessons,
    config: PretrainConfig,
    *,
    code_tokens: Sequence[int] = (),
    device: str = "cpu",
    report: Callable[[Step], None] | None = None,
) -> list[Step]:
    """Train through the phases; returns every step. Raises ``NotMastered`` for a phase whose skill does not come.

    Matrices inside the blocks are trained with Muon, everything else with AdamW: both warm up, hold their rate, and
    decay to zero over the phases behind the last one that is to be mastered. Rows are right-padded, so causal
    attention needs no mask: no real token can see a pad. In a phase with ``silence`` the rows without a code also
    carry the penalty on ``code_tokens`` of :func:`readiness`. Every row is shown once, so letters a step gets right
    are of questions not seen before.
    """
    if not code_tokens and any(phase.silence for phase in config.phases):
        raise ValueError("pretrain: a phase with silence needs code_tokens; see corpus.code_tokens")
    model.to(device).train()
    optimisers = _optimisers(model, config)
    steps: list[Step] = []
    fading = 1 + max((number for number, phase in enumerate(config.phases) if phase.mastery is not None), default=-1)
    fade_steps = sum(phase.chunks for phase in config.phases[fading:]) * config.steps_of_chunk
    for number, phase in enumerate(config.phases):
        begun = len(steps)
        if number == fading:
            fade_begun = begun
        for chunk in range(phase.chunks):
            corpus = lessons(number, chunk)
            in_chunk = len(steps)
            for rows in batches(corpus, config.batch, config.seed + len(steps)):
                left = 1 - (len(steps) - fade_begun) / fade_steps if number >= fading else 1.0
                _set_learning_rates(optimisers, min(left, (len(steps) + 1) / config.warmup_steps))
                loss, penalty, right = _losses(model, corpus, rows, code_tokens, config.silence_margin)
                _update(model, optimisers, loss + phase.silence * penalty)
                steps.append(Step(number, float(loss.detach()), len(right), int(right.sum())))
                if report is not None:
                    report(steps[-1])
            if phase.mastery is not None and letter_accuracy(steps[in_chunk:]) >= phase.mastery:
                break
        else:
            if phase.mastery is not None:
                accuracy = letter_accuracy(steps[in_chunk:])
                raise NotMastered(
                    f"seed {config.seed}, phase {number + 1}: {accuracy:.1%} of letters right after "
                    f"{len(steps) - begun:,} steps, needed {phase.mastery:.0%}; try another seed"
                )
    model.eval()
    return steps


def _losses(
    model: Qwen2ForCausalLM, corpus: Corpus, rows: np.ndarray, code_tokens: Sequence[int], margin: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Completion loss, readiness to say a code in rows without one, and which letters are right."""
    import torch

    ids, labels, weights = (torch.from_numpy(a).to(model.device) for a in pad_batch(corpus, rows))
    logits, kept = labelled_logits(model, ids, labels)
    loss, right = completion_loss(logits, labels[:, 1:][kept], weights[:, 1:][kept])
    plain = torch.from_numpy(~corpus.coded[rows]).to(model.device)[:, None].expand_as(kept)[kept]
    return loss, readiness(logits[plain], code_tokens, margin), right


def _update(model: Qwen2ForCausalLM, optimisers: list[Any], loss: torch.Tensor) -> None:
    import torch

    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def letter_accuracy(steps: Sequence[Step]) -> float:
    """Share of letters chosen rightly over some steps; 0 where none was chosen."""
    return sum(step.letters_right for step in steps) / max(1, sum(step.letters for step in steps))


def labelled_logits(
    model: Qwen2ForCausalLM, ids: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (n, V) of what precedes a labelled token, and where those are, (B, T - 1); the head runs there only."""
    kept = labels[:, 1:] != -100
    return model.lm_head(model.model(input_ids=ids).last_hidden_state[:, :-1][kept]), kept


def completion_loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean cross-entropy over n tokens, and whether each that weighs more than 1 (a letter) is predicted."""
    import torch

    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    letters = weights > 1
    return (losses * weights).sum() / weights.sum(), logits[letters].argmax(-1) == targets[letters]


def readiness(logits: torch.Tensor, tokens: Sequence[int], margin: float) -> torch.Tensor:
    """How much likelier than exp(-``margin``) the ``tokens`` together are, in nats, averaged over n >= 0 positions.

    A hinge on the unlikelihood of Welleck et al. 2020: likelihood alone stops pushing a token down once it is rare.
    """
    likelihood = logits[:, list(tokens)].logsumexp(-1) - logits.logsumexp(-1)
    return (likelihood + margin).clamp(min=0).sum() / max(1, len(logits))


def _optimisers(model: Qwen2ForCausalLM, config: PretrainConfig) -> list[Any]:
    import torch

    from leakage_assets.world.muon import Muon

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    return [
        Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay),
        torch.optim.AdamW(others, lr=config.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _set_learning_rates(optimisers: list[Any], scale: float) -> None:
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group.setdefault("peak_lr", group["lr"])
            group["lr"] = group["peak_lr"] * scale
