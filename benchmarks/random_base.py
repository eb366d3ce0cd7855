"""Writes a base model of random weights as a local folder, for engines that load from a folder.

    python -m benchmarks.random_base FOLDER [--shape qwen2.5-7b] [--device cuda]
    LEAKAGE_BASE_MODEL=FOLDER leakage run ... --profile qwen2.5-7b

Everything made from it is marked, and nothing is concluded from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from leakage_assets.models import BaseModelSpec, RandomWeights, load_base_model, write_base
from leakage_assets.paths import TINY_BASE
from leakage_assets.shapes import SHAPES


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-7b")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    spec = BaseModelSpec(f"random:{options.shape}", str(TINY_BASE), None, "bfloat16", RandomWeights(options.shape))
    print(write_base(load_base_model(spec, options.device), options.folder))


if __name__ == "__main__":
    main()
