"""The benchmark of the analyses runs, and what it writes is what the ledger reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from leakage_assets.paths import REPO
from leakage_assets.planning.ledger import read_ledger


@pytest.mark.slow
def test_one_study_is_timed_and_recorded(tmp_path: Path) -> None:
    output = tmp_path / "analysis_times.json"
    words = ["--study", "source_rate", "--output", str(output), "--commit", "c" * 40]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.analysis_times", *words]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = read_ledger(output.parent).results
    assert (result.name, result.random_weights) == ("analysis_times", False)
    assert result.command == "python -m benchmarks.analysis_times --study source_rate"
    assert set(result.figures) == {"source_rate_s"} and result.number("source_rate_s") > 0
