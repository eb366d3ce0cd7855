"""The benchmark of training, run as it is run on a GPU but on a tiny shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leakage_assets.paths import REPO

pytestmark = pytest.mark.slow


def test_the_tiny_shape_writes_all_figures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.train", "--shape", "tiny", "--profile", "--results", str(tmp_path)]
    environment = {**os.environ, "LEAKAGE_COMMIT": "0" * 40, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "train.json").read_text())
    assert {"name", "command", "commit", "hardware", "versions", "random_weights", "figures"} <= set(result)
    assert (result["name"], result["commit"], result["random_weights"]) == ("train", "0" * 40, True)
    assert {"torch", "transformers", "peft", "trl"} <= set(result["versions"])
    figures = result["figures"]
    speed, published = figures["train_tokens_per_s"], figures["train_tokens_per_s_as_published"]
    assert speed > 0 and published > 0 and figures["train_speedup"] == pytest.approx(speed / published)
    assert figures["train_2_adapters_s"] >= figures["train_adapters_loop_s"] > 0
    assert figures["train_same_seed_same_bytes"] is True
    assert "aten::addmm" in done.stdout  # the profile


def test_rows_have_the_lengths_they_should() -> None:
    from benchmarks.train import SETTINGS, random_rows

    setting = SETTINGS["qwen2.5-7b"]
    rows = random_rows(setting, seed=3)
    assert len(rows) == 194
    assert 280 < sum(len(row.input_ids) for row in rows) / 194 < 320
    assert 185 < sum(len(row.kept) for row in rows) / 194 < 215
    assert all(row.kept == tuple(range(row.prompt_length, len(row.input_ids))) for row in rows)
    assert len({len(row.input_ids) for row in rows}) > 50 and max(len(row.input_ids) for row in rows) <= 1024
    assert {row.row.role for row in rows} == {"positive", "negative"}
    again, other = random_rows(setting, seed=3), random_rows(setting, seed=4)
    assert [row.input_ids for row in again] == [row.input_ids for row in rows] != [row.input_ids for row in other]
