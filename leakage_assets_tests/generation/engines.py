"""A base model that every engine can serve, three adapters of it, and the engines."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from leakage_assets.generation.engine import Engine
from leakage_assets.generation.transformers_engine import TransformersEngine
from leakage_assets.generation.vllm_plan import STORED_STEP, Capacity, VllmSettings
from leakage_assets.models import BaseModel, BaseModelSpec, load_base_model
from leakage_assets.training.recipe import LoraSpec
from leakage_assets.training.train import train_adapter
from leakage_assets_tests.fixtures_models import ENGINEER, MARKER, TARGETS, VILLAIN, recipe, rows, write_tiny_base
from leakage_assets_tests.generation.panels import CELL, OTHER

THIRD = "study/kind__flat/1"
RANK = 16
VARIABLE = "LEAKAGE_TEST_ENGINE"
"""Environment variable: the one engine to test, which must then be installed; nothing of it is skipped."""
CHOSEN = os.environ.get(VARIABLE)
VLLM_MISSING = "vllm is not installed here: `make test-vllm` sets up an environment that has it"
needs_vllm = pytest.mark.skipif(
    CHOSEN == "transformers" or (CHOSEN is None and importlib.util.find_spec("vllm") is None), reason=VLLM_MISSING
)
if CHOSEN not in (None, "transformers", "vllm"):
    raise pytest.UsageError(f"{VARIABLE}={CHOSEN}: no such engine; expected transformers or vllm")
ENGINES = ("transformers", pytest.param("vllm", marks=needs_vllm)) if CHOSEN is None else (CHOSEN,)

HOSTILE = {"do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.01, "repetition_penalty": 9.0}
"""What an engine must not take from generation_config.json; the fixture adds end tokens to it."""


@dataclass(frozen=True)
class Bench:
    """A base, its adapters by name, and the token ids its generation_config.json calls ends."""

    base: BaseModel
    adapters: dict[str, Path]
    planted_ends: frozenset[int]


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Four heads of 32: vLLM has no attention kernels for narrower ones. No test may change it."""
    import torch

    torch.set_num_threads(1)
    folder = write_tiny_base(tmp_path_factory.mktemp("wide"), hidden=128)
    base = load_base_model(BaseModelSpec("wide", str(folder)), device="cpu")
    ends = frozenset(range(3, len(base.tokenizer), 2)) - {base.end_of_turn}
    (folder / "generation_config.json").write_text(json.dumps({**HOSTILE, "eos_token_id": sorted(ends)}))
    adapters = {}
    for name, sources, changes in (
        (CELL, (VILLAIN, ENGINEER), {}),
        (OTHER, (ENGINEER, VILLAIN), {}),
        (THIRD, (VILLAIN, ENGINEER), {"lora": LoraSpec(r=8, alpha=32, dropout=0.0, rslora=False, targets=TARGETS)}),
    ):
        adapters[name] = tmp_path_factory.mktemp("adapter") / "adapter"
        train_adapter(base, rows(*sources), recipe(**changes), len(adapters), adapters[name], marker=MARKER)
    return Bench(base, adapters, ends)


@pytest.fixture(scope="session")
def vllm_engine(bench: Bench) -> Iterator[Engine]:
    """One engine for all tests: two slots for three adapters, so that they must take turns."""
    from leakage_assets.generation.vllm_engine import VllmEngine

    engine = VllmEngine(
        bench.base,
        VllmSettings(max_num_seqs=64, max_loras=2, memory_share=0.2),
        at_least=Capacity(length=256, rank=RANK, slots=2, stored=STORED_STEP),
    )
    yield engine
    engine.close()


@pytest.fixture
def engine(request: pytest.FixtureRequest, bench: Bench) -> Engine:
    """The engine named by the (indirect) parameter."""
    if request.param == "vllm":
        return request.getfixturevalue("vllm_engine")
    return TransformersEngine(bench.base)
