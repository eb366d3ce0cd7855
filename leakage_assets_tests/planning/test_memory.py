"""Memory of serving counted from the shape."""

from __future__ import annotations

import pytest

from leakage_assets.planning.hardware import GIB, HARDWARE
from leakage_assets.planning.memory import USABLE, concurrency_that_fits, serving_memory
from leakage_assets.planning.reference import LORA_PARAMETERS
from leakage_assets.shapes import SHAPES

SHAPE = SHAPES["qwen2.5-7b"]


def test_weights_and_cache_of_the_7b_shape() -> None:
    memory = serving_memory(SHAPE, "bfloat16", sequences=1024, context=311)
    assert memory.weights == 2 * 7_615_616_512
    assert memory.kv_cache == 1024 * 311 * 2 * 28 * 4 * 128 * 2
    assert memory.total == memory.weights + memory.kv_cache


@pytest.mark.parametrize("name", list(HARDWARE))
def test_as_many_sequences_run_as_fit_and_not_one_more(name: str) -> None:
    hardware, context = HARDWARE[name], 311
    more = {"context": context, "lora_parameters": LORA_PARAMETERS, "adapters": 14}
    count = concurrency_that_fits(SHAPE, "bfloat16", hardware, **more)
    assert count > 1024
    for sequences, fits in ((count, True), (count + 1, False)):
        needed = serving_memory(SHAPE, "bfloat16", sequences=sequences, **more).total
        assert (needed <= USABLE * hardware.memory) is fits


def test_nothing_runs_where_the_weights_do_not_fit() -> None:
    small = HARDWARE["a100"].__class__(**{**vars(HARDWARE["a100"]), "memory": 8 * GIB})
    assert concurrency_that_fits(SHAPE, "bfloat16", small, context=100) == 0
