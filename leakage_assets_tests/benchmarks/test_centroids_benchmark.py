"""The benchmark scripts run on a CPU at a tiny shape, and what they write is what the ledger reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from leakage_assets.models import BaseModelSpec, base_model_identity
from leakage_assets.paths import REPO
from leakage_assets.planning.ledger import read_ledger


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A script of benchmarks/ from the repository's root, on this copy of the package."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=REPO, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_centroids_at_a_tiny_shape(tmp_path: Path) -> None:
    output = tmp_path / "results" / "centroids.json"
    words = ["--shape", "tiny", "--device", "cpu", "--output", str(output), "--commit", "c" * 40]
    done = run("benchmarks.centroids", *words)
    assert done.returncode == 0, done.stderr
    (result,) = read_ledger(output.parent).results
    assert (result.name, result.random_weights, result.commit) == ("centroids", True, "c" * 40)
    assert result.command == "python -m benchmarks.centroids --shape tiny --device cpu"
    assert (result.figures["prompts"], result.figures["questions"]) == (111, 20)
    assert result.figures["layers"] == [1, 2, 3, 4]
    seconds, tokens = result.number("centroids_s"), result.number("centroids_tokens")
    assert result.number("centroids_tokens_per_s") == pytest.approx(tokens / seconds)
    assert result.number("read_tokens_per_s") > 0
    assert {"torch", "transformers", "python"} <= result.versions.keys()


@pytest.mark.slow
def test_a_folder_of_random_weights_is_marked(tmp_path: Path) -> None:
    done = run("benchmarks.random_base", str(tmp_path / "base"), "--shape", "tiny", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    identity = base_model_identity(BaseModelSpec("base", str(tmp_path / "base"), None, "bfloat16"))
    assert identity["random_weights"] == {"shape": "tiny", "seed": 42}
