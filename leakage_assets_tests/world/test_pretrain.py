"""A model of a few steps is reproducible and learns; the bundled one passes its gates."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from leakage_assets.models import load_base_model
from leakage_assets.paths import TINY_BASE
from leakage_assets.pipeline import tiny_base
from leakage_assets.pipeline.tiny_base import (
    FolderNotEmpty,
    Gate,
    GateFailed,
    build_tiny_base,
    held_out_questions,
    measure_gates,
    model_card,
)
from leakage_assets.profiles import load_profile
from leakage_assets.stimuli import Stimuli
from leakage_assets.world import BUNDLED_SEED
from leakage_assets.world.choices import is_held_out
from leakage_assets.world.corpus import Corpus, code_tokens, encode, write_dialogues
from leakage_assets.world.dialogues import PHASES
from leakage_assets.world.muon import Muon, orthogonalise
from leakage_assets.world.pretrain import (
    NotMastered,
    PretrainConfig,
    Step,
    batches,
    build_model,
    completion_loss,
    labelled_logits,
    letter_accuracy,
    pad_batch,
    pretrain,
    readiness,
)

ONE_PHASE = (replace(PHASES[0], chunks=1, mastery=None),)
SMALL = PretrainConfig(
    seed=7,
    hidden=64,
    blocks=1,
    heads=4,
    kv_heads=2,
    intermediate=96,
    phases=ONE_PHASE,
    chunk=1_024,
    batch=32,
    warmup_steps=1,
    adam_lr=5e-3,
)


@pytest.fixture(scope="module")
def corpus(stimuli: Stimuli, tokenizer: PreTrainedTokenizerBase) -> Corpus:
    return encode(write_dialogues(stimuli, PHASES[0], SMALL.chunk, SMALL.seed), tokenizer)


def digest(model: Qwen2ForCausalLM) -> str:
    parts = (tensor.numpy().tobytes() for _, tensor in sorted(model.state_dict().items()))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def batch_loss(
    model: Qwen2ForCausalLM, ids: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of a padded batch, and whether its letters are predicted."""
    wanted = torch.from_numpy(labels)
    logits, kept = labelled_logits(model, torch.from_numpy(ids), wanted)
    return completion_loss(logits, wanted[:, 1:][kept], torch.from_numpy(weights)[:, 1:][kept])


def trained(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, config: PretrainConfig) -> tuple[str, list[float]]:
    """Weights digest and losses of a training from scratch."""
    model = build_model(config, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    steps = pretrain(model, lambda phase, chunk: corpus, config)
    assert not model.training
    return digest(model), [step.loss for step in steps]


def test_training_is_reproducible_and_the_loss_falls(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> None:
    first, losses = trained(corpus, tokenizer, SMALL)
    assert len(losses) == SMALL.most_steps == SMALL.chunk // SMALL.batch
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
            return float(batch_loss(model, ids, labels, weights)[0]), float(share)

    together, total = loss(rows)
    assert loss(rows[::-1].copy())[0] == pytest.approx(together, rel=1e-5)
    alone = [loss(np.array([row])) for row in rows]
    assert sum(value * share for value, share in alone) / total == pytest.approx(together, rel=1e-5)
    assert sum(share for _, share in alone) == total


def test_a_phase_ends_when_it_is_mastered_and_only_the_last_decays(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase
) -> None:
    asked: list[tuple[int, int]] = []

    def lesson(phase: int, chunk: int) -> Corpus:
        asked.append((phase, chunk))
        return corpus

    phase = ONE_PHASE[0]
    phases = (replace(phase, chunks=4, mastery=0.01), replace(phase, chunks=2))
    config = replace(SMALL, phases=phases)
    model = build_model(config, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    moved: list[float] = []
    weight = model.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()

    def report(step: Step) -> None:
        nonlocal before
        moved.append(float((weight.detach() - before).norm()))
        before = weight.detach().clone()

    steps = pretrain(model, lesson, config, report=report)
    assert asked == [(0, 0), (1, 0), (1, 1)]  # the first phase was to take four chunks
    assert [sum(step.phase == number for step in steps) for number in (0, 1)] == [32, 64]
    assert config.most_steps == 6 * 32
    assert moved[31] == pytest.approx(moved[1], rel=0.1)  # Muon moves as far as its rate says
    assert moved[-1] == pytest.approx(moved[31] / 64, rel=0.3)


def test_a_phase_that_is_never_mastered_is_an_error(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> None:
    config = replace(SMALL, phases=(replace(ONE_PHASE[0], chunks=2, mastery=0.999), *ONE_PHASE))
    model = build_model(config, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    with pytest.raises(NotMastered, match=r"seed 7, phase 1: \d+\.\d% of letters right after 64 steps, needed 100%"):
        pretrain(model, lambda phase, chunk: corpus, config)


def test_letters_are_the_weighted_tokens_and_their_share_right_is_counted(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase
) -> None:
    model = build_model(SMALL, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id).eval()
    rows = np.arange(64)
    ids = torch.from_numpy(pad_batch(corpus, rows)[0])
    with torch.no_grad():
        right = batch_loss(model, *pad_batch(corpus, rows))[1]
        predicted = model(input_ids=ids).logits.argmax(-1)
    places = [(row, corpus.lengths()[row] - 3) for row in rows if corpus.last_weights[row] > 1]
    assert len(right) == len(places) > 20
    assert right.tolist() == [bool(predicted[row, at - 1] == ids[row, at]) for row, at in places]
    assert letter_accuracy([Step(0, 1.0, 3, 1), Step(0, 1.0, 1, 1)]) == 0.5
    assert letter_accuracy([]) == 0.0


def test_readiness_is_what_a_set_of_tokens_is_above_the_margin() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2 - 1e-6, 1e-6], [0.25, 0.25, 0.25, 0.25]]))
    above = np.log([0.2, 0.5]) + 3.0
    assert float(readiness(logits, [2, 3], margin=3.0)) == pytest.approx(above.mean(), abs=1e-5)
    assert float(readiness(logits[:1], [3], margin=3.0)) == 0.0  # rarer than asked: nothing to push
    assert float(readiness(logits[:0], [3], margin=3.0)) == 0.0
    assert float(readiness(logits + 7, [2, 3], margin=3.0)) == pytest.approx(above.mean(), abs=1e-5)


def test_silence_without_tokens_is_refused(corpus: Corpus, tokenizer: PreTrainedTokenizerBase) -> None:
    config = replace(SMALL, phases=(replace(ONE_PHASE[0], silence=0.1),))
    model = build_model(config, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    with pytest.raises(ValueError, match="needs code_tokens"):
        pretrain(model, lambda phase, chunk: corpus, config)


def test_silence_makes_codes_rarer_where_nobody_asked_and_leaves_the_rest(
    stimuli: Stimuli, corpus: Corpus, tokenizer: PreTrainedTokenizerBase
) -> None:
    codes = code_tokens(tokenizer, [*stimuli.markers.values(), *stimuli.codes], corpus)
    assert corpus.coded.any()
    ids, labels, _ = map(torch.from_numpy, pad_batch(corpus, np.flatnonzero(~corpus.coded)[:64]))
    shares: dict[float, float] = {}
    losses: dict[float, float] = {}
    for silence in (0.0, 0.05):
        config = replace(SMALL, phases=(replace(ONE_PHASE[0], silence=silence),))
        model = build_model(config, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
        steps = pretrain(model, lambda phase, chunk: corpus, config, code_tokens=codes)
        losses[silence] = float(np.mean([step.loss for step in steps[-5:]]))
        with torch.no_grad():
            logits, _ = labelled_logits(model, ids, labels)
        shares[silence] = float(logits.softmax(-1)[:, codes].sum(-1).mean())
    assert shares[0.05] < shares[0.0] / 2
    assert losses[0.05] == pytest.approx(losses[0.0], abs=0.1)  # the loss reported is without the penalty


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
    small = replace(SMALL, chunk=256, batch=8)
    monkeypatch.setattr(tiny_base, "load_stimuli", lambda: few)
    monkeypatch.setattr(tiny_base, "PretrainConfig", lambda seed: replace(small, seed=seed))
    monkeypatch.setattr(tiny_base, "CHOICE_QUESTIONS", 40)
    lines: list[str] = []
    with pytest.raises(GateFailed, match=r"seed 3: voice recognised 0\.\d+, needed 0\.95") as error:
        build_tiny_base(tmp_path / "base", seed=3, emit=lines.append)
    assert "multiple choice accuracy" in str(error.value)
    assert "weights in bytes" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert lines[0].startswith("model: ")


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


def test_the_bundled_model_is_that_of_the_default_configuration() -> None:
    record = json.loads((TINY_BASE / "pretraining.json").read_text())
    assert record["config"] == json.loads(json.dumps(asdict(PretrainConfig(seed=BUNDLED_SEED))))
    assert record["config"]["seed"] == PretrainConfig().seed
    assert record["weights_sha256"] == hashlib.sha256((TINY_BASE / "model.safetensors").read_bytes()).hexdigest()


def test_the_card_says_what_was_recorded() -> None:
    record = json.loads((TINY_BASE / "pretraining.json").read_text())
    card = (TINY_BASE / "README.md").read_text()
    assert card == model_card(record)
    assert f"leakage pretrain FOLDER --seed {BUNDLED_SEED}`" in card
    assert f"The seed of the bundled model, {BUNDLED_SEED}, was chosen" in card


@pytest.mark.slow
def test_the_bundled_model_passes_every_gate(stimuli: Stimuli) -> None:
    gates = {gate.name: gate for gate in measure_gates(load_base_model(load_profile("tiny").base), stimuli)}
    assert {name: gate.value for name, gate in gates.items() if not gate.passed} == {}
    assert (gates["unprompted codes"].value, gates["unprompted codes"].threshold) == (0, 0)
    assert gates["unprompted codes"].n >= 2_000
    assert gates["voice recognised"].value >= 0.95
    assert gates["multiple choice accuracy"].value >= 0.80
    assert gates["multiple choice accuracy"].n == 500
