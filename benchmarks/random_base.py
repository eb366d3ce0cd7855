"""Writes a base model of random weights as a local folder, for engines that load from a folder.

    python -m benchmarks.random_base FOLDER [--shape qwen2.5-7b] [--device cuda]
    LEAKAGE_BASE_MODEL=FOLDER leakage run ... --profile qwen2.5-7b

Everything made from it is marked, and nothing is concluded from it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from leakage_assets.models import BaseModel, BaseModelSpec, Dtype, RandomWeights, load_base_model, write_base
from leakage_assets.paths import TINY_BASE
from leakage_assets.shapes import SHAPES


def random_spec(shape: str, dtype: Dtype) -> BaseModelSpec:
    """Random weights of a named shape under the bundled tokenizer."""
    return BaseModelSpec(f"random:{shape}", str(TINY_BASE), None, dtype, RandomWeights(shape))


def weightless_base(spec: BaseModelSpec, folder: Path) -> BaseModel:
    """A base for an engine that draws the weights itself: `folder` gets config.json and tokenizer, and no weights."""
    base = load_base_model(spec, "meta")
    base.model.config.architectures = [type(base.model).__name__]
    base.model.config.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return replace(base, folder=folder)


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-7b")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    print(write_base(load_base_model(random_spec(options.shape, "bfloat16"), options.device), options.folder))


if __name__ == "__main__":
    main()
