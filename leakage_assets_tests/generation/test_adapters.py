from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from leakage_assets.generation.adapters import (
    CONFIG,
    DIGEST,
    WEIGHTS,
    AdapterError,
    read_adapter,
    weights_digest,
)
from leakage_assets.models import BaseModel


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of a trained adapter that a test may damage."""
    return Path(shutil.copytree(trained, tmp_path / "adapter"))


def rewrite(folder: Path, change: str, value: object) -> None:
    """Replace (or drop, for None) a tensor, and record the new digest, as if it had been trained so."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    tensors.pop(change)
    save_file(tensors if value is None else {**tensors, change: value}, folder / WEIGHTS)
    (folder / DIGEST).write_text(json.dumps({"sha256": weights_digest(folder)}))


TENSOR = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"


def test_a_whole_adapter_is_read(base: BaseModel, folder: Path) -> None:
    adapter = read_adapter(base, folder)
    assert adapter.scaling == 4.0
    a, b = adapter.modules()["model.layers.1.mlp.up_proj"]
    assert (tuple(a.shape), tuple(b.shape)) == ((16, 32), (64, 16))
    assert len(adapter.modules()) == 14


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, DIGEST])
def test_a_missing_file_is_named(base: BaseModel, folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(AdapterError, match=rf"{name}: missing"):
        read_adapter(base, folder)


def test_a_flipped_bit_is_found(base: BaseModel, folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 4
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(AdapterError, match="not the recorded"):
        read_adapter(base, folder)


def test_truncated_weights_with_a_matching_digest_are_found(base: BaseModel, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])
    (folder / DIGEST).write_text(json.dumps({"sha256": weights_digest(folder)}))
    with pytest.raises(AdapterError, match="truncated or damaged"):
        read_adapter(base, folder)


def test_a_missing_tensor_is_named(base: BaseModel, folder: Path) -> None:
    rewrite(folder, TENSOR, None)
    with pytest.raises(AdapterError, match=rf"tensor {TENSOR}: missing, but the base needs \(16, 32\)"):
        read_adapter(base, folder)


def test_a_tensor_of_another_base_is_named_with_both_shapes(base: BaseModel, folder: Path) -> None:
    import torch

    rewrite(folder, TENSOR, torch.zeros(16, 48))
    with pytest.raises(AdapterError, match=rf"tensor {TENSOR}: \(16, 48\), but the base needs \(16, 32\)"):
        read_adapter(base, folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_named(base: BaseModel, folder: Path, value: float) -> None:
    import torch

    rewrite(folder, TENSOR, torch.full((16, 32), value))
    with pytest.raises(AdapterError, match=f"tensor {TENSOR} has NaN or infinite"):
        read_adapter(base, folder)


def test_an_adapter_of_another_base_of_the_same_shape_is_refused(base: BaseModel, folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": "f" * 64}))
    with pytest.raises(AdapterError, match="trained on base ffffffffffff, not on random"):
        read_adapter(base, folder)


def test_another_kind_of_adapter_is_refused(base: BaseModel, folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(AdapterError, match="IA3"):
        read_adapter(base, folder)
