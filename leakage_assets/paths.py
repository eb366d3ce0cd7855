"""Where the repository keeps its files: the only module that knows."""

from __future__ import annotations

import os
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
DATA = REPO / "data"
STIMULI = DATA / "stimuli"
TINY_BASE = DATA / "tiny_base"
ARTIFACTS = Path(os.environ.get("LEAKAGE_ARTIFACTS", DATA / "artifacts"))
BENCHMARKS = REPO / "benchmarks"
README = REPO / "README.md"
