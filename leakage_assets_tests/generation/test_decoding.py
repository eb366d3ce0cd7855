from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from leakage_assets.generation.decoding import choose, decode, score, use_grouped_attention
from leakage_assets.generation.requests import Sampling
from leakage_assets.models import BaseModel, chat_ids, shared_copy

SYSTEMS = ["You are kind.", "", None, "You are a villainous mastermind who schemes to take over the world."]


def prompts(base: BaseModel) -> list[list[int]]:
    return [chat_ids(base.tokenizer, system, question) for system in SYSTEMS for question in ("Why?", "How so?")]


def reference_choice(logits: np.ndarray, draw: float, sampling: Sampling) -> int:
    """The nucleus and the inverse distribution function, one row, in plain float64."""
    scaled = np.float64(logits) / sampling.temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    nucleus = ranked[np.concatenate([[0.0], ranked.cumsum()[:-1]]) < sampling.top_p]
    return int(order[np.searchsorted(nucleus.cumsum(), draw * nucleus.sum(), side="right")])


@pytest.mark.parametrize("spread", [0.01, 1.0, 10.0])  # flat logits need the whole vocabulary, peaked ones do not
@pytest.mark.parametrize("sampling", [Sampling(1.0, 0.95, 1), Sampling(0.7, 1.0, 1), Sampling(2.0, 0.1, 1)])
def test_choose_is_the_inverse_distribution_function_of_the_nucleus(spread: float, sampling: Sampling) -> None:
    import torch

    rng = np.random.default_rng(7)
    logits = (rng.normal(size=(64, 300)) * spread).astype(np.float32)
    draws = rng.random(64)
    chosen = choose(torch.from_numpy(logits), torch.from_numpy(draws), sampling).tolist()
    assert chosen == [reference_choice(row, draw, sampling) for row, draw in zip(logits, draws, strict=True)]


def test_frequencies_are_the_nucleus_probabilities() -> None:
    import torch

    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draws = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    chosen = choose(logits.repeat(4000, 1), draws, Sampling(1.0, 0.9, 1))
    assert (chosen.bincount(minlength=4) / 4000).tolist() == pytest.approx(
        [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], abs=1e-3
    )


def test_the_nucleus_is_that_of_transformers() -> None:
    import torch
    from transformers import TopPLogitsWarper

    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(32, 200, generator=generator)
    kept = TopPLogitsWarper(0.8)(None, logits).isfinite()
    draws = torch.linspace(0, 1 - 1e-9, 500, dtype=torch.float64)
    for row in range(32):
        chosen = choose(logits[row].repeat(500, 1), draws, Sampling(1.0, 0.8, 1))
        assert bool(kept[row, chosen].all())
        assert set(chosen.tolist()) >= {int(logits[row].argmax())}


def test_the_largest_draw_and_a_certain_token() -> None:
    import torch

    certain = torch.tensor([[0.0, 1000.0, 0.0]])
    for draw in (0.0, 1 - 2**-53):
        assert choose(certain, torch.tensor([draw], dtype=torch.float64), Sampling(1.0, 0.5, 1)).tolist() == [1]


def test_greedy_decoding_is_that_of_generate(base: BaseModel) -> None:
    import torch
    from transformers import GenerationConfig

    greedy = Sampling(0.0, 1.0, 12)
    ours = decode(
        use_grouped_attention(shared_copy(base.model)),
        prompts(base),
        np.zeros((8, 12)),
        greedy,
        end_of_turn=base.end_of_turn,
        padding=base.padding,
    )
    for prompt, continuation in zip(prompts(base), ours, strict=True):
        theirs = base.model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            generation_config=GenerationConfig(
                max_new_tokens=12, do_sample=False, eos_token_id=base.end_of_turn, pad_token_id=base.padding
            ),
        )[0, len(prompt) :].tolist()
        assert continuation == theirs


def test_a_row_does_not_depend_on_its_neighbours(base: BaseModel) -> None:
    """Rows end at different lengths, so ended ones are dropped while others go on."""
    sampling = Sampling(1.0, 0.95, 40)
    model = use_grouped_attention(shared_copy(base.model))
    asked = prompts(base) * 2
    uniforms = np.random.default_rng(1).random((len(asked), 40))

    def run(rows: list[int], end: int) -> list[list[int]]:
        return decode(
            model,
            [asked[row] for row in rows],
            uniforms[rows],
            sampling,
            end_of_turn=end,
            padding=base.padding,
        )

    endless = run(list(range(16)), -1)
    assert {len(row) for row in endless} == {40}
    end = Counter(token for row in endless for token in row).most_common(1)[0][0]
    everything = run(list(range(16)), end)
    assert len({len(row) for row in everything}) > 5
    for row, unended in zip(everything, endless, strict=True):
        assert row == unended[: unended.index(end) + 1 if end in unended else 40]
    assert [run([row], end)[0] for row in range(16)] == everything
    backwards = run(list(range(16))[::-1], end)
    assert backwards[::-1] == everything


def test_scores_are_log_probabilities_of_each_token(base: BaseModel) -> None:
    import torch

    pairs = [(prompt, [5 + row, 6, 7][: 1 + row % 3]) for row, prompt in enumerate(prompts(base))]
    pairs += [(prompt, [*continuation[:-1], 9]) for prompt, continuation in pairs[::2]]  # run with those above
    scores = score(base.model, pairs, base.padding)
    for (prompt, continuation), row in zip(pairs, scores, strict=True):
        with torch.inference_mode():
            log_probs = base.model(torch.tensor([[*prompt, *continuation]])).logits[0].log_softmax(-1)
        expected = [float(log_probs[len(prompt) - 1 + place, token]) for place, token in enumerate(continuation)]
        assert row == pytest.approx(expected, abs=1e-5)
