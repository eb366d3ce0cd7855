"""The code locations as Dagster's processes load them: quickly, without a model library, and valid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leakage_assets.paths import REPO

HEAVY = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "vllm",
    "wandb",
    "matplotlib",
    "plotly",
    "scipy",
    "statsmodels",
)
LOAD = """
import json, sys, time
import leakage_assets.definitions
print(json.dumps({"seconds": time.process_time(), "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""
SECONDS = 3.0


def load_once() -> tuple[float, set[str]]:
    """CPU seconds until the definitions are loaded (other load on the machine does not count), and the modules."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD], capture_output=True, text=True, check=True, cwd=REPO
    )
    told = json.loads(done.stdout)
    return told["seconds"], set(told["modules"])


def test_definitions_load_quickly_and_without_model_libraries() -> None:
    took: list[float] = []
    while len(took) < 3 and (not took or min(took) >= SECONDS):
        seconds, modules = load_once()
        assert modules.isdisjoint(HEAVY), modules & set(HEAVY)
        took.append(seconds)
    assert min(took) < SECONDS, took


@pytest.mark.slow
def test_the_workspace_is_valid(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPO,
        env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        timeout=120,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for location in ("tiny", "qwen2.5-7b"):
        assert f"Validation successful for code location {location}" in said
