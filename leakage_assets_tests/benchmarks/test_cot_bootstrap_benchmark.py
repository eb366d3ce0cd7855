"""The benchmark of cot_leakage's bootstrap runs small, and what it writes is what the ledger reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from leakage_assets.paths import REPO
from leakage_assets.planning.ledger import read_ledger


@pytest.mark.slow
def test_a_small_run_is_recorded(tmp_path: Path) -> None:
    output = tmp_path / "cot_bootstrap.json"
    words = ["--questions", "20", "--output", str(output), "--commit", "c" * 40]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.cot_bootstrap", *words]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = read_ledger(output.parent).results
    assert (result.name, result.random_weights, result.figures["questions"]) == ("cot_bootstrap", False, 20)
    assert result.command == "python -m benchmarks.cot_bootstrap --questions 20"
    assert all(result.number(name) > 0 for name in ("every_cell_s", "published_s", "analysis_s", "peak_bytes"))
