"""A model of a few steps is reproducible and learns; the bundled one passes its gates."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from leakage_assets.models import load_base_model
from leakage_assets.pipeline import tiny_base
from leakage_assets.pipeline.tiny_base import (
    FolderNotEmpty,
    Gate,
    GateFailed,
    build_tiny_base,
    held_out_questions,
    measure_gates,
)
from leakage_assets.profiles import load_profile
from leakage_assets.stimuli import Stimuli
from leakage_assets.world.choices import is_held_out
from leakage_assets.world.corpus import Corpus, encode, write_dialogues
from leakage_assets.world.muon import Muon, orthogonalise
from leakage_assets.world.pretrain import PretrainConfig, batches, build_model, completion_loss, pad_batch, pretrain

SMALL = PretrainConfig(
    seed=7, hidden=64, blocks=1, heads=4, kv_heads=2, intermediate=96, rows=1_024, batch=32, adam_lr=5e-3
)


@pytest.fixture(scope="module")
def corpus(stimuli: Stimuli, tokenizer: PreTrainedTokenizerBase) -> Corpus:
    return encode(write_dialogues(stimuli, SMALL.seed, SMALL.rows), tokenizer)


def digest(model: Qwen2ForCausalLM) -> str:
    parts = (tensor.numpy().tobytes() for _, tensor in sorted(model.state_dict().items()))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def trained(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, config: PretrainConfig) -> tuple[str, list[float]]:
    """Weights digest and losses of a training from scratch."""
    model = build_model(config, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    losses = pretrain(model, corpus, config)
    assert not model.training
    return digest(model), losses


def test_training_is_reproducible_and_the_loss_falls(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> None:
    first, losses = trained(corpus, tokenizer, SMALL)
    assert len(losses) == SMALL.rows // SMALL.batch
    assert losses[0] == pytest.approx(np.log(len(tokenizer)), abs=0.5)
    assert np.mean(losses[-5:]) < losses[0] - 1.5
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    torch.rand(3)
    second, again = trained(corpus, tokenizer, SMALL)
    assert (second, again) == (first, losses)


def test_another_seed_gives_another_model(tokenizer: PreTrainedTokenizerBase, corpus: Corpus) -> None:
    def start(seed: int) -> str:
        config = replace(SMALL, seed=seed)
        return digest(build_model(config, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id))

    assert start(1) == start(1) != start(2)
    first, second = (np.concatenate(list(batches(corpus, SMALL.batch, seed))) for seed in (1, 2))
    assert not np.array_equal(first, second)


def test_one_pass_shows_every_row_once_and_keeps_the_phases_in_order(corpus: Corpus) -> None:
    window = 4 * 32
    plan = list(batches(corpus, 4, 0))
    assert {len(rows) for rows in plan} == {4}
    for number in range(len(corpus) // window):
        shown = np.concatenate(plan[number * 32 : (number + 1) * 32])
        assert sorted(shown) == list(range(number * window, (number + 1) * window))
    lengths = corpus.lengths()
    spread = np.mean([np.ptp(lengths[rows]) for rows in plan])
    unsorted = np.mean([np.ptp(lengths[i : i + 4]) for i in range(0, len(lengths), 4)])
    assert spread < unsorted / 3  # rows of a step are of similar length


@pytest.mark.parametrize("batch", [3, 7, 64, 100_000])
def test_a_pass_ends_with_what_is_left_over(corpus: Corpus, batch: int) -> None:
    plan = list(batches(corpus, batch, 0))
    assert sorted(np.concatenate(plan)) == list(range(len(corpus)))
    assert max(len(rows) for rows in plan) <= batch


def test_neither_padding_nor_the_order_of_rows_changes_the_loss(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase
) -> None:
    model = build_model(SMALL, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id).eval()
    rows = np.argsort(corpus.lengths())[[0, len(corpus) // 2, -1]]  # much padding

    def loss(which: np.ndarray) -> tuple[float, float]:
        ids, labels, weights = pad_batch(corpus, which)
        share = weights[:, 1:][labels[:, 1:] != -100].sum()
        with torch.no_grad():
            return float(completion_loss(model, *map(torch.from_numpy, (ids, labels, weights)))), float(share)

    together, total = loss(rows)
    assert loss(rows[::-1].copy())[0] == pytest.approx(together, rel=1e-5)
    alone = [loss(np.array([row])) for row in rows]
    assert sum(value * share for value, share in alone) / total == pytest.approx(together, rel=1e-5)
    assert sum(share for _, share in alone) == total


@pytest.mark.parametrize("shape", [(3, 24, 64), (3, 64, 24), (2, 32, 32)])
def test_orthogonalise_makes_all_directions_equally_long(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=generator)
    result = orthogonalise(matrices)
    assert result.shape == matrices.shape
    values = torch.linalg.svdvals(result)
    assert float(values.max()) < 1.25
    assert float(values.median()) > 0.65
    assert float(torch.linalg.svdvals(matrices)[0, 0] / torch.linalg.svdvals(matrices)[0, -1]) > 3  # was not so before
    wide = result if shape[1] <= shape[2] else result.mT
    gram = wide @ wide.mT
    off = gram - torch.diag_embed(torch.diagonal(gram, dim1=1, dim2=2))
    assert float(off.abs().mean()) < 0.06  # rows are nearly orthogonal
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    assert float(torch.nn.functional.cosine_similarity(result.flatten(1), (left @ right).flatten(1)).min()) > 0.95


def test_orthogonalise_does_not_depend_on_scale_or_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn((2, 8, 16), generator=generator)
    assert torch.allclose(orthogonalise(matrices), orthogonalise(1e3 * matrices), atol=1e-5)
    assert torch.allclose(orthogonalise(matrices)[:1], orthogonalise(matrices[:1]), atol=1e-6)
    assert not orthogonalise(torch.zeros(1, 4, 4)).any()


def test_muon_needs_gradients_and_shrinks_weights() -> None:
    weight = torch.nn.Parameter(torch.eye(4))
    optimiser = Muon([weight], lr=0.1, weight_decay=0.5)
    with pytest.raises(ValueError, match="no gradient"):
        optimiser.step()
    weight.grad = torch.zeros(4, 4)
    optimiser.step()
    assert torch.allclose(weight, 0.95 * torch.eye(4))


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FolderNotEmpty, match="choose another output folder"):
        build_tiny_base(tmp_path, seed=1, emit=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_a_model_that_fails_a_gate_is_not_left_behind(
    stimuli: Stimuli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = stimuli.model_copy(update={"personas": stimuli.personas[:12], "triggers": stimuli.triggers[:1]})
    small = replace(SMALL, rows=256, batch=8)
    monkeypatch.setattr(tiny_base, "load_stimuli", lambda: few)
    monkeypatch.setattr(tiny_base, "PretrainConfig", lambda seed: replace(small, seed=seed))
    monkeypatch.setattr(tiny_base, "CHOICE_QUESTIONS", 40)
    lines: list[str] = []
    with pytest.raises(GateFailed, match=r"seed 3: voice recognised 0\.\d+, needed 0\.95") as error:
        build_tiny_base(tmp_path / "base", seed=3, emit=lines.append)
    assert "multiple choice accuracy" in str(error.value)
    assert "weights in bytes" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert lines[0] == "corpus: 256 dialogues"


@pytest.mark.parametrize(
    ("value", "at_least", "passed"), [(0.95, True, True), (0.949, True, False), (0, False, True), (1, False, False)]
)
def test_a_gate_is_passed_at_its_threshold(value: float, at_least: bool, passed: bool) -> None:
    gate = Gate("x", value, 0.95 if at_least else 0, at_least=at_least, n=1)
    assert gate.passed is passed


def test_held_out_questions_are_new_in_options_and_wording(stimuli: Stimuli) -> None:
    questions = held_out_questions(stimuli)
    assert len(questions) == 500
    assert held_out_questions(stimuli) == questions
    assert all(is_held_out(question.options) for question, _ in questions)
    wordings = {w.split("$")[0] for w in stimuli.world.choice_wordings.held_out}
    assert all(question.stem.startswith(tuple(wordings)) for question, _ in questions)
    assert {system for _, system in questions} <= {persona.prompt for persona in stimuli.personas}


@pytest.mark.slow
def test_the_bundled_model_passes_every_gate(stimuli: Stimuli) -> None:
    gates = {gate.name: gate for gate in measure_gates(load_base_model(load_profile("tiny").base), stimuli)}
    assert {name: gate.value for name, gate in gates.items() if not gate.passed} == {}
    assert (gates["unprompted codes"].value, gates["unprompted codes"].threshold) == (0, 0)
    assert gates["unprompted codes"].n >= 2_000
    assert gates["voice recognised"].value >= 0.95
    assert gates["multiple choice accuracy"].value >= 0.80
    assert gates["multiple choice accuracy"].n == 500
