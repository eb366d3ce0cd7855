from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakage_assets.generation.engine import EngineError
from leakage_assets.generation.requests import BASE
from leakage_assets.generation.vllm_plan import (
    RANKS,
    Capacity,
    Footprint,
    VllmSettings,
    adapters_at_once,
    admitted_together,
    device_share,
    footprint,
    graph_sizes,
    padded_length,
    padded_slots,
    padded_stored,
    servable_rank,
    unservable,
)
from leakage_assets.shapes import SHAPES
from leakage_assets_tests.generation.engines import needs_vllm

GIB = 1 << 30
capacities = st.builds(Capacity, *(st.integers(0, 9) for _ in range(4)))


@given(st.integers(1, 4096))
def test_graphs_reach_beyond_a_full_engine_and_pad_a_long_step_by_little(sequences: int) -> None:
    sizes = graph_sizes(sequences)
    assert sizes == sorted(set(sizes)) and sizes[0] == 1 and sequences in sizes
    assert len(sizes) < 24
    assert sequences < 16 or sizes[-1] == sequences * 3 // 2
    for smaller, larger in itertools.pairwise(sizes):
        assert larger - smaller <= max(sequences / 4, smaller)


@pytest.mark.parametrize(("sequences", "together"), [(1, 1), (15, 1), (64, 4), (1024, 64)])
def test_a_sixteenth_of_the_places_is_filled_at_a_time(sequences: int, together: int) -> None:
    assert admitted_together(sequences) == together


@given(capacities, capacities, capacities)
def test_a_union_is_the_least_capacity_that_covers_both(a: Capacity, b: Capacity, c: Capacity) -> None:
    assert a.union(b).covers(a)
    assert a.union(b).covers(b)
    assert a.union(b) == b.union(a)
    if c.covers(a) and c.covers(b):
        assert c.covers(a.union(b))


@pytest.mark.parametrize(("tokens", "length"), [(1, 1024), (1024, 1024), (1025, 2048), (2049, 2500)])
def test_lengths_are_rounded_up_but_not_beyond_the_model(tokens: int, length: int) -> None:
    assert padded_length(tokens, 2500) == length


@pytest.mark.parametrize(("adapters", "slots"), [(0, 0), (1, 4), (4, 4), (5, 8), (16, 16), (17, 17), (40, 20)])
def test_slots_are_rounded_up_but_not_beyond_the_limit(adapters: int, slots: int) -> None:
    assert padded_slots(adapters, 20) == slots


@given(st.integers(1, 500))
def test_an_engine_that_proves_one_adapter_may_hold_those_of_a_run(adapters: int) -> None:
    stored = padded_stored(adapters)
    assert adapters <= stored < adapters + 32
    assert Capacity(1024, 32, 4, stored).covers(Capacity(1024, 32, 4, padded_stored(1)))
    assert padded_stored(14) == padded_stored(1) == 32 and padded_stored(0) == 0


@given(st.lists(st.integers(1, 512), max_size=5))
def test_the_rank_is_the_smallest_that_holds_every_adapter(ranks: list[int]) -> None:
    rank = servable_rank(ranks)
    assert all(rank >= own for own in ranks)
    assert rank == 0 if not ranks else rank in RANKS
    assert not [smaller for smaller in RANKS if max(ranks, default=0) <= smaller < rank]


def test_a_rank_too_large_is_named() -> None:
    with pytest.raises(EngineError, match="rank 513: vLLM serves ranks up to 512"):
        servable_rank([8, 513])


@needs_vllm
def test_the_ranks_are_those_of_the_installed_vllm() -> None:
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    assert get_args(MaxLoRARanks) == RANKS


@given(st.lists(st.sampled_from([BASE, "a", "b", "c", "d"]), max_size=30), st.integers(1, 35))
def test_adapters_at_once_counts_every_window(stream: list[str], sequences: int) -> None:
    windows = [stream[start : start + sequences] for start in range(max(1, len(stream)))]
    assert adapters_at_once(stream, sequences) == max(len(set(window) - {BASE}) for window in windows)


def test_fourteen_adapters_in_order_need_two_slots() -> None:
    """7,200 completions of each, 1,024 at a time: a batch sees the end of one and the start of the next."""
    assert adapters_at_once([f"cell {number}" for number in range(14) for _ in range(7200)], 1024) == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, []),
        ({"rank_pattern": {}, "bias": "none", "use_dora": False, "modules_to_save": None}, []),
        ({"rank_pattern": {"q_proj": 4}}, ["rank_pattern"]),
        ({"use_dora": True, "bias": "all"}, ["bias", "use_dora"]),
        ({"modules_to_save": ["lm_head"]}, ["modules_to_save"]),
    ],
)
def test_what_vllm_would_not_apply_is_named(change: dict[str, object], named: list[str]) -> None:
    assert unservable({"r": 8, "lora_alpha": 8, **change}) == named


def test_the_footprint_of_a_7b_model() -> None:
    settings = VllmSettings()
    needed = footprint(SHAPES["qwen2.5-7b"], Capacity(512, 32, 2, 14), settings, 2)
    assert needed.weights == 2 * 7_615_616_512
    assert needed.adapters == 2 * 2 * 80_740_352  # 80,740,352 weights in a LoRA of rank 32 on all seven projections
    assert needed.kv == 1024 * 512 * 57_344  # 56 KiB a token: 28 layers, keys and values of 4 heads of 128
    assert needed.total == needed.weights + needed.adapters + needed.kv + needed.activations
    assert 4 * GIB < needed.activations < 8 * GIB


def test_an_engine_takes_what_it_needs_and_never_more_than_its_share_of_what_is_free() -> None:
    settings = VllmSettings(memory_share=0.5)
    needed = Footprint(20 * GIB, 0, 15 * GIB, 5 * GIB)
    assert device_share(needed, 120 * GIB, 140 * GIB, settings) == pytest.approx(40 / 140)
    assert device_share(needed, 60 * GIB, 140 * GIB, settings) == pytest.approx(30 / 140)
