from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakage_assets.geometry.centroids import (
    GeometryError,
    centred_cosine,
    centroids,
    hidden_vectors,
    next_token_distributions,
    system_turn_vectors,
    token_batches,
    vectors_and_distributions,
)
from leakage_assets.geometry.divergence import js_divergence
from leakage_assets.models import BaseModel, chat_ids
from leakage_assets.progress import Progress
from leakage_assets_tests.fixtures_models import ENGINEER, VILLAIN

PROMPTS = [VILLAIN, ENGINEER, "", None, "You are kind."]
QUESTIONS = ["Why?", "How does photosynthesis work, and what does it need?", "What causes earthquakes?"]


def test_vectors_are_block_outputs_at_the_last_input_token(base: BaseModel) -> None:
    """Against transformers' own hidden states, one prompt at a time and without padding."""
    import torch

    vectors = hidden_vectors(base, PROMPTS, QUESTIONS, [0, 1], batch_tokens=160)
    assert vectors.shape == (5, 3, 2, 32)
    assert vectors.dtype == np.float32
    for p, prompt in enumerate(PROMPTS):
        for q, question in enumerate(QUESTIONS):
            ids = torch.tensor([chat_ids(base.tokenizer, prompt, question)])
            with torch.inference_mode():
                states = base.model(ids, output_hidden_states=True).hidden_states
                # transformers' last entry is final-normed, the block's own output is not
                normed = base.model.model.norm(torch.from_numpy(vectors[p, q, 1]))
            np.testing.assert_allclose(vectors[p, q, 0], states[1][0, -1], atol=1e-5)
            np.testing.assert_allclose(normed, states[2][0, -1], atol=1e-5)
            assert np.abs(vectors[p, q, 1] - states[2][0, -1].numpy()).max() > 0.01


def test_system_turns_end_in_the_newline_after_the_turn(base: BaseModel) -> None:
    """The empty prompt is an explicit empty turn, not the template's default; a long one is cut."""
    import torch

    prompts = [VILLAIN, "", ENGINEER, "one two three " * 60]
    vectors = system_turn_vectors(base, prompts, [1, 0], batch_tokens=600)
    assert vectors.shape == (4, 2, 32)
    for prompt, vector in zip(prompts, vectors, strict=True):
        ids = base.tokenizer.encode(f"<|im_start|>system\n{prompt}<|im_end|>\n", add_special_tokens=False)
        with torch.inference_mode():
            states = base.model(torch.tensor([ids[:512]]), output_hidden_states=True).hidden_states
        np.testing.assert_allclose(vector[1], states[1][0, -1], atol=1e-5)
    with pytest.raises(GeometryError, match="no prompts"):
        system_turn_vectors(base, [], [0])
    with pytest.raises(GeometryError, match="block 2"):
        system_turn_vectors(base, prompts, [2])


def test_batching_and_order_of_layers_do_not_matter(base: BaseModel) -> None:
    one = hidden_vectors(base, PROMPTS, QUESTIONS, [1, 0], batch_tokens=1)
    many = hidden_vectors(base, PROMPTS, QUESTIONS, [0, 1], batch_tokens=4096)
    np.testing.assert_allclose(one[:, :, ::-1], many, atol=1e-5)


def test_no_block_above_the_deepest_runs_and_the_values_are_those_of_the_whole_pass(base: BaseModel) -> None:
    ran: list[int] = []
    handles = [
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, layer in enumerate(base.model.model.layers)
    ]
    try:
        short = hidden_vectors(base, PROMPTS, QUESTIONS, [0])
        assert set(ran) == {0}
        whole, _ = vectors_and_distributions(base, PROMPTS, QUESTIONS, [0])
        assert set(ran) == {0, 1}
    finally:
        for handle in handles:
            handle.remove()
    np.testing.assert_array_equal(short, whole)
    assert len(base.model.model.layers) == 2


@given(st.lists(st.integers(1, 90), max_size=40), st.integers(1, 400))
def test_batches_hold_every_row_once_and_no_more_tokens_than_allowed(lengths: list[int], budget: int) -> None:
    batches = list(token_batches(lengths, budget))
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= budget
    # Shortest first, and none could have taken the first row of the next.
    for batch, following in itertools.pairwise(batches):
        assert max(lengths[place] for place in batch) <= lengths[following[0]]
        assert (len(batch) + 1) * lengths[following[0]] > budget


def test_no_hook_stays_on_the_base(base: BaseModel) -> None:
    before = [dict(layer._forward_hooks) for layer in base.model.model.layers]
    hidden_vectors(base, PROMPTS[:1], QUESTIONS[:1], [0])
    with pytest.raises(GeometryError):
        hidden_vectors(base, [], QUESTIONS, [0])
    assert [dict(layer._forward_hooks) for layer in base.model.model.layers] == before


def test_an_adapter_moves_the_vectors_and_not_the_base(base: BaseModel, trained: object) -> None:
    plain = hidden_vectors(base, PROMPTS, QUESTIONS, [1])
    tuned = hidden_vectors(base, PROMPTS, QUESTIONS, [1], adapter=trained)
    assert np.abs(tuned - plain).max() > 0.1
    np.testing.assert_array_equal(hidden_vectors(base, PROMPTS, QUESTIONS, [1]), plain)
    assert (
        np.abs(
            next_token_distributions(base, PROMPTS, QUESTIONS, adapter=trained)
            - next_token_distributions(base, PROMPTS, QUESTIONS)
        ).max()
        > 0.1
    )


@pytest.mark.parametrize("layers", [[2], [-1], []])
def test_blocks_the_model_does_not_have_are_refused(base: BaseModel, layers: list[int]) -> None:
    for measure in (hidden_vectors, vectors_and_distributions):
        with pytest.raises(GeometryError, match=r"blocks 0 to 1|no layers"):
            measure(base, PROMPTS, QUESTIONS, layers)


def test_blocks_that_a_profile_asks_for_in_vain_are_named_with_what_to_do(base: BaseModel) -> None:
    with pytest.raises(GeometryError) as raised:
        hidden_vectors(base, PROMPTS, QUESTIONS, [1, 20])
    said = str(raised.value)
    assert f"block 20 of {base.spec.name}: it has 2 (blocks 0 to 1)" in said and "asked for, 1, 20," in said
    assert "LEAKAGE_BASE_MODEL" in said and "profiles.py" in said


@pytest.mark.parametrize("tuned", [False, True])
def test_one_pass_gives_the_very_same_values_as_two(base: BaseModel, trained: Path, tuned: bool) -> None:
    lines: list[str] = []
    more = {"adapter": trained if tuned else None, "batch_tokens": 160}
    with Progress(15, "geometry", lines.append) as progress:
        vectors, log_probs = vectors_and_distributions(base, PROMPTS, QUESTIONS, [0, 1], progress=progress, **more)
    np.testing.assert_array_equal(vectors, hidden_vectors(base, PROMPTS, QUESTIONS, [0, 1], **more))
    np.testing.assert_array_equal(log_probs, next_token_distributions(base, PROMPTS, QUESTIONS, **more))
    assert progress.line().startswith("geometry: 15/15 (100%)")


def test_values_that_are_not_finite_are_refused_with_prompt_and_layer(base: BaseModel) -> None:
    """A block that overflows for long inputs alone: the one long prompt is named."""
    import torch

    long = "You are a villain. " * 9

    def overflow(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor | None:
        return output * float("inf") if output.shape[1] > 100 else None

    handle = base.model.model.layers[1].register_forward_hook(overflow)
    try:
        for layers in ([1], [0, 1]):
            with pytest.raises(GeometryError, match=r"^prompt 'You are a villain.*question 'Why\?': .* block 1 is not"):
                hidden_vectors(base, ["You are kind.", long], ["Why?"], layers, batch_tokens=1)
        with pytest.raises(GeometryError, match=r"^prompt 'You are a villain.*next-token distribution is not finite"):
            next_token_distributions(base, ["You are kind.", long], ["Why?"], batch_tokens=1)
        assert np.isfinite(hidden_vectors(base, ["You are kind.", long], ["Why?"], [0], batch_tokens=1)).all()
        assert np.isfinite(hidden_vectors(base, ["You are kind."], ["Why?"], [1])).all()
    finally:
        handle.remove()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_centroid_that_is_not_finite_is_named(value: float) -> None:
    points = np.eye(4, dtype=np.float32)
    points[2, 1] = value
    with pytest.raises(GeometryError, match=r"^monk: its centroid is not finite"):
        centred_cosine(points, ["villain", "hero", "monk", "plain"])


def test_centroids_average_over_the_questions() -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 3, 2, 5)).astype(np.float32)
    means = centroids(vectors)
    assert means.shape == (4, 2, 5)
    np.testing.assert_allclose(means[1, 0], (vectors[1, 0, 0] + vectors[1, 1, 0] + vectors[1, 2, 0]) / 3, rtol=1e-5)


def test_centred_cosine_removes_what_all_share_and_any_scale() -> None:
    points = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=np.float32)
    expected = points @ points.T
    for shifted in (points, points * 7, points + np.float32(100)):
        np.testing.assert_allclose(centred_cosine(shifted, list("abcd")), expected, atol=1e-5)


def test_centred_cosine_matches_its_definition() -> None:
    points = np.random.default_rng(1).normal(size=(6, 9)).astype(np.float32)
    cosines = centred_cosine(points, list("abcdef"))
    first, second = points[0] - points.mean(0), points[3] - points.mean(0)
    assert cosines[0, 3] == pytest.approx(first @ second / np.linalg.norm(first) / np.linalg.norm(second), abs=1e-5)
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-12)
    np.testing.assert_array_equal(cosines, cosines.T)


def test_a_centroid_without_direction_is_named() -> None:
    points = np.array([[1.1, 0], [0, 0.1], [-1.1, -0.1], [0, 0]], dtype=np.float32)
    with pytest.raises(GeometryError, match=r"^plain: its centroid is the mean"):
        centred_cosine(points, ["villain", "hero", "monk", "plain"])
    with pytest.raises(GeometryError, match=r"^only:"):
        centred_cosine(points[:1], ["only"])


def test_next_token_log_probs_are_those_of_single_prompts(base: BaseModel) -> None:
    import torch

    log_probs = next_token_distributions(base, PROMPTS, QUESTIONS, batch_tokens=160)
    assert log_probs.shape == (5, 3, 340)
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, atol=1e-5)
    ids = torch.tensor([chat_ids(base.tokenizer, PROMPTS[3], QUESTIONS[1])])
    with torch.inference_mode():
        expected = base.model(ids).logits[0, -1].log_softmax(-1)
    np.testing.assert_allclose(log_probs[3, 1], expected, atol=1e-5)


def test_js_divergence_of_known_distributions() -> None:
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [1, 0, 0]], dtype=np.float32))[:, None]
    half = -0.75 * np.log2(0.75) - 0.25 * np.log2(0.25) - 0.5  # H(3/4, 1/4) - (H(1, 0) + H(1/2, 1/2)) / 2
    np.testing.assert_allclose(
        js_divergence(log_probs, range(4)),
        [[0, 1, half, 0], [1, 0, half, 1], [half, half, 0, half], [0, 1, half, 0]],
        atol=1e-6,
    )


def test_js_divergence_is_the_mean_over_questions_and_agrees_with_scipy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from scipy.spatial.distance import jensenshannon

    from leakage_assets.geometry import divergence

    rng = np.random.default_rng(2)
    logits = rng.normal(size=(5, 3, 40)) * 3
    log_probs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
    expected = np.array(
        [
            [
                np.mean(
                    [jensenshannon(np.exp(log_probs[i, q]), np.exp(log_probs[s, q]), base=2) ** 2 for q in range(3)]
                )
                for s in (4, 0)
            ]
            for i in range(5)
        ]
    )
    np.testing.assert_allclose(js_divergence(log_probs, [4, 0]), expected, atol=1e-6)
    monkeypatch.setattr(divergence, "CHUNK_NUMBERS", 80)
    np.testing.assert_allclose(js_divergence(log_probs, [4, 0]), expected, atol=1e-6)
    before = log_probs.copy()
    alone = js_divergence(log_probs[:, :1].copy(), [0])
    np.testing.assert_allclose(alone, js_divergence(before[:, :1], [0]))
    matrix = js_divergence(log_probs, range(5))
    np.testing.assert_array_equal(log_probs, before)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), 0, atol=1e-9)
