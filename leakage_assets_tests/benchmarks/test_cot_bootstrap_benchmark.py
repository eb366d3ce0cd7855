"""The benchmark of cot_leakage's bootstrap runs small, and what it writes is what the ledger reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from leakage_assets.paths import REPO
from leakage_assets.planning.ledger import RESULTS, read_ledger


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


def test_the_committed_result_is_of_the_published_size_and_within_its_limits() -> None:
    """1,000 draws over 66 cells x 11 personas x 1,172 questions x 3 seeds: below 2 s and 2 GB."""
    (result,) = [one for one in read_ledger(RESULTS).results if one.name == "cot_bootstrap"]
    assert (result.figures["questions"], result.figures["draws"]) == (1_172, 1_000)
    assert 0 < result.number("every_cell_s") < 2
    assert 0 < result.number("peak_bytes") < 2e9
