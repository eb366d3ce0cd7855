"""Counted work against the bounds of the project's notes, and against what a model really multiplies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakage_assets.planning import reference
from leakage_assets.planning.hardware import HARDWARE
from leakage_assets.planning.ledger import read_bounds
from leakage_assets.planning.work import Lengths, Work, decoding, reading, training
from leakage_assets.shapes import SHAPES

H200 = HARDWARE["h200"]
SHAPE = SHAPES["qwen2.5-7b"]
TINY = SHAPES["tiny"]
BOUNDS = {bound.name: bound.bound for bound in read_bounds()}
lengths = st.lists(st.integers(1, 500), min_size=1, max_size=20)


def test_the_bounds_of_the_notes_are_counted_again() -> None:
    """They leave the head out of training, where the answer carries loss: 5% of the time."""
    counted = {
        "train_14_adapters_s": reference.training_207().floor(H200),
        "generate_100800_s": sum(part.floor(H200) for part in reference.sampling_207()),
        "centroids_s": reference.centroids_66().floor(H200),
    }
    assert counted["train_14_adapters_s"] == pytest.approx(1.054 * BOUNDS["train_14_adapters_s"], rel=0.01)
    assert counted["generate_100800_s"] == pytest.approx(BOUNDS["generate_100800_s"], rel=0.01)
    assert counted["centroids_s"] == pytest.approx(BOUNDS["centroids_s"], rel=0.15)  # 51 tokens a prompt, not 64
    head = 4 * SHAPE.head_weights * 14 * 194 * 5 * 200 / H200.bfloat16
    assert counted["train_14_adapters_s"] - head == pytest.approx(BOUNDS["train_14_adapters_s"], rel=0.005)


@pytest.mark.parametrize(("together", "seconds"), [(64, 967), (128, 503)])
def test_few_sequences_are_bound_by_memory_as_the_notes_say(together: int, seconds: float) -> None:
    prompts = Lengths.alike(100_800, 55)
    work = decoding(SHAPE, prompts, 200, together, "bfloat16", lora_parameters=reference.LORA_PARAMETERS)
    assert work.limit(H200) == "memory bandwidth"
    assert work.floor(H200) == pytest.approx(seconds, rel=0.02)
    assert decoding(SHAPE, prompts, 200, 1024, "bfloat16").limit(H200) == "arithmetic"


def test_reading_multiplies_what_the_model_multiplies() -> None:
    """Against PyTorch's own counter of the products in a forward pass."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen2Config, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(Qwen2Config(**TINY.qwen2_config(), attn_implementation="eager"))
    rows, tokens = 3, 40
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(rows, tokens, dtype=torch.long), use_cache=False, logits_to_keep=1)
    counted = reading(TINY, Lengths.alike(rows, tokens), "float32", logits=rows).flop
    # The eager pass also multiplies what the causal mask then discards: n² positions where n (n + 1) / 2 are attended.
    discarded = 4 * TINY.attention_width * TINY.blocks * rows * (tokens**2 - tokens * (tokens + 1) / 2)
    assert counter.get_total_flops() == counted + discarded


def test_lora_training_multiplies_twice_a_forward_pass_and_the_adapter() -> None:
    """Against PyTorch's counter of forward and backward of PEFT's model with frozen weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen2Config, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(Qwen2Config(**TINY.qwen2_config(), attn_implementation="eager"))
    targets = tuple(TINY.projections())
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=list(targets)))
    rows, tokens = 2, 30
    ids = torch.zeros(rows, tokens, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        tuned(ids, use_cache=False).logits.sum().backward()
    work = training(TINY, Lengths.alike(rows, tokens), rows * tokens, TINY.lora_parameters(8, targets), "float32")
    discarded = 12 * TINY.attention_width * TINY.blocks * rows * (tokens**2 - tokens * (tokens + 1) / 2)
    # Nothing is passed back to the input of the first block, of which q, k and v would take a share each.
    first = sum(i * o for n, (i, o) in TINY.projections().items() if n in ("q_proj", "k_proj", "v_proj"))
    spared = 2 * first * rows * tokens + 2 * rows * tokens * 3 * 8 * TINY.hidden
    assert counter.get_total_flops() == work.flop + discarded - spared


@given(lengths, lengths)
def test_work_of_rows_adds_up(left: list[int], right: list[int]) -> None:
    both = reading(TINY, Lengths.of([*left, *right]), "float32")
    parts = [reading(TINY, Lengths.of(rows), "float32") for rows in (left, right)]
    assert both.flop == pytest.approx(sum(part.flop for part in parts))
    assert both.tokens == sum(part.tokens for part in parts) == sum(left) + sum(right)
    assert Lengths.of(left) + Lengths.of(right) == Lengths.of([*left, *right])
    assert Lengths.of(left).times(3) == Lengths.of(left * 3)


@given(st.integers(1, 300), st.integers(1, 200), st.integers(1, 64))
def test_more_together_never_costs_more_and_never_saves_arithmetic(prompt: int, new: int, together: int) -> None:
    rows = Lengths.alike(64, prompt)
    one, many = (decoding(SHAPE, rows, new, count, "bfloat16") for count in (together, together + 1))
    assert many.traffic < one.traffic
    assert many.flop == one.flop
    assert many.floor(H200) <= one.floor(H200)


def test_decoding_attends_to_prompt_and_to_what_was_said() -> None:
    """Token by token for one row."""
    prompt, new = 7, 5
    work = decoding(TINY, Lengths.alike(1, prompt), new, 1, "float32")
    attended = sum(prompt + token + 1 for token in range(new))
    weights = TINY.blocks * TINY.block_weights + TINY.head_weights
    assert work.flop == 2 * weights * new + 4 * TINY.attention_width * TINY.blocks * attended
    assert work.traffic == 4 * new * weights + TINY.kv_bytes(4) * attended


def test_fewer_blocks_cost_less_in_proportion() -> None:
    rows = Lengths.alike(10, 50)
    whole, half = reading(TINY, rows, "float32"), reading(TINY, rows, "float32", blocks=TINY.blocks // 2)
    assert half.flop == whole.flop / 2
    assert half.traffic == whole.traffic / 2


def test_the_floor_is_the_slower_of_arithmetic_and_traffic() -> None:
    assert Work(1, 2 * H200.bfloat16, 0, "bfloat16").floor(H200) == 2
    slow = Work(1, H200.bfloat16, 3 * H200.bandwidth, "bfloat16")
    assert (slow.floor(H200), slow.limit(H200)) == (3, "memory bandwidth")
    assert Work(1, H200.float32, 0, "float32").floor(H200) == 1
