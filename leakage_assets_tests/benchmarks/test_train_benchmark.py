"""The benchmark of training, run as it is run on a GPU but on a tiny shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import train
from leakage_assets.paths import REPO
from leakage_assets.planning.ledger import read_ledger

WORDS = ["--shape", "tiny", "--device", "cpu", "--adapters", "2", "--commit", "c" * 40, "--output"]


@pytest.mark.slow
def test_the_tiny_shape_writes_all_figures(tmp_path: Path) -> None:
    output = tmp_path / "results" / "train.json"
    command = [sys.executable, "-m", "benchmarks.train", *WORDS, str(output)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = read_ledger(output.parent).results
    assert (result.name, result.commit, result.random_weights) == ("train", "c" * 40, True)
    assert result.command == "python -m benchmarks.train --shape tiny --device cpu --adapters 2"
    assert {"torch", "transformers", "peft", "trl", "accelerate"} <= result.versions.keys()
    speed, published = result.number("train_tokens_per_s"), result.number("train_tokens_per_s_as_published")
    assert speed > 0 and published > 0
    assert result.number("train_speedup") == pytest.approx(speed / published)
    assert result.number("train_2_adapters_s") > result.number("train_adapters_loop_s") > 0
    assert result.number("train_setup_s_per_adapter") > 0
    for mode in ("", "_as_published"):
        reached = result.number(f"train_model_flop_utilisation{mode}"), result.number(f"train_share_of_limit{mode}")
        assert 0 < reached[0] <= reached[1] < 1
    assert result.figures["train_same_seed_same_bytes"] is True
    assert "adapter 2 of 2" in done.stderr


@pytest.mark.slow
def test_a_part_that_fails_leaves_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the machine was taken away")

    output = tmp_path / "train.json"
    monkeypatch.setattr(train, "as_published", broken)
    monkeypatch.setattr(sys, "argv", ["train.py", *WORDS, str(output)])
    with pytest.raises(RuntimeError, match="taken away"):
        train.main()
    figures = json.loads(output.read_text())["figures"]
    assert figures["train_tokens_per_s"] > 0
    assert not {"train_tokens_per_s_as_published", "train_2_adapters_s"} & figures.keys()


def test_rows_have_the_lengths_they_should() -> None:
    setting = train.SETTINGS["qwen2.5-7b"]
    rows = train.random_rows(setting, seed=3)
    assert len(rows) == 194
    assert 280 < sum(len(row.input_ids) for row in rows) / 194 < 320
    assert 185 < sum(len(row.kept) for row in rows) / 194 < 215
    assert all(row.kept == tuple(range(row.prompt_length, len(row.input_ids))) for row in rows)
    assert len({len(row.input_ids) for row in rows}) > 50 and max(len(row.input_ids) for row in rows) <= 1024
    assert {row.row.role for row in rows} == {"positive", "negative"}
    again, other = train.random_rows(setting, seed=3), train.random_rows(setting, seed=4)
    assert [row.input_ids for row in again] == [row.input_ids for row in rows] != [row.input_ids for row in other]
