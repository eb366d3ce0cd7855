"""Made-up benchmark results for tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FIGURES = {
    "train_tokens_per_s": 14_000.0,
    "generate_base_tokens_per_s": 30_000.0,
    "generate_one_adapter_tokens_per_s": 27_000.0,
    "generate_14_adapters_tokens_per_s": 25_000.0,
    "read_tokens_per_s": 40_000.0,
}


def write_result(folder: Path, name: str = "made_up", **changes: Any) -> Path:
    """A result file of one H200 with FIGURES; ``changes`` replace its fields, and None leaves one out."""
    result = {
        "name": name,
        "command": f"python -m benchmarks.{name}",
        "commit": "a" * 40,
        "hardware": "NVIDIA H200, 16 CPU cores",
        "versions": {"torch": "2.13.0"},
        "random_weights": True,
        "figures": FIGURES,
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({key: value for key, value in result.items() if value is not None}))
    return path
