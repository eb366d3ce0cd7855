"""Adapter folders: checked against their base model before use, and attached without touching it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leakage_assets.exceptions import PartitionError
from leakage_assets.models import BaseModel, shared_copy
from leakage_assets.store.files import sha256_file

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
DIGEST = "adapter_digest.json"
KEY_PREFIX = "base_model.model."


class AdapterError(PartitionError):
    """An adapter folder is incomplete, damaged or of another base; the message names the file or tensor."""


@dataclass(frozen=True)
class Adapter:
    """A verified LoRA adapter. `tensors` are PEFT's names, on the CPU."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    digest: str

    @property
    def scaling(self) -> float:
        """alpha / sqrt(r) for rank-stabilised LoRA (arXiv 2312.03732), alpha / r otherwise."""
        rank, alpha = int(self.config["r"]), float(self.config["lora_alpha"])
        return float(alpha / rank**0.5 if self.config["use_rslora"] else alpha / rank)

    def modules(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Module name in the base -> (A of shape (r, in), B of shape (out, r))."""
        suffix = ".lora_A.weight"
        names = [key.removeprefix(KEY_PREFIX).removesuffix(suffix) for key in self.tensors if key.endswith(suffix)]
        return {
            name: (
                self.tensors[f"{KEY_PREFIX}{name}{suffix}"],
                self.tensors[f"{KEY_PREFIX}{name}.lora_B.weight"],
            )
            for name in names
        }


def read_adapter(base: BaseModel, folder: Path) -> Adapter:
    """Read an adapter and check that it is whole, finite and made for `base`.

    Raises:
        AdapterError: a file is missing or damaged, a tensor is missing, has another shape or is not finite,
            or the adapter was trained on another base.
    """
    config = _json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{folder / CONFIG}: peft_type {config.get('peft_type')!r}; expected LORA")
    digest = weights_digest(folder)
    recorded = _json(folder / DIGEST).get("sha256")
    if digest != recorded:
        raise AdapterError(
            f"{folder / WEIGHTS}: sha256 {digest[:12]} is not the recorded {str(recorded)[:12]}; the "
            "file was changed or damaged after training: train the cell again"
        )
    tensors = _tensors(folder / WEIGHTS)
    _check_shapes(folder / WEIGHTS, tensors, expected_shapes(base.model, config["target_modules"], config["r"]))
    _check_finite(folder / WEIGHTS, tensors)
    if config.get("base_model_name_or_path") != base.fingerprint:
        raise AdapterError(
            f"{folder / CONFIG}: trained on base {config.get('base_model_name_or_path')!s:.12}, not on "
            f"{base.spec.name} ({base.fingerprint[:12]}); train the cell again on this base"
        )
    return Adapter(folder, config, tensors, digest)


def attach_adapter(base: BaseModel, folder: Path) -> PeftModel:
    """A model with the adapter applied, unmerged, over the base's own weight tensors; the base is left as it
    was.

    Raises:
        AdapterError: as `read_adapter`.
    """
    from peft import PeftModel

    read_adapter(base, folder)
    model = PeftModel.from_pretrained(shared_copy(base.model), str(folder), torch_device=str(base.device))
    return model.eval().requires_grad_(False)


def weights_digest(folder: Path) -> str:
    """sha256 of the adapter's weights; an unchanged file is read once per process."""
    try:
        return sha256_file(folder / WEIGHTS)
    except OSError as error:
        raise AdapterError(f"{folder / WEIGHTS}: missing or unreadable ({error}); train the cell again") from error


def expected_shapes(model: PreTrainedModel, targets: list[str], rank: int) -> dict[str, tuple[int, int]]:
    """PEFT's tensor names and shapes of a rank-`rank` LoRA on every linear layer named in `targets`."""
    import torch

    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in targets
    }
    return {
        f"{KEY_PREFIX}{name}.lora_{side}.weight": shape
        for name, module in linears.items()
        for side, shape in (("A", (rank, module.in_features)), ("B", (module.out_features, rank)))
    }


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path}: truncated or damaged ({error}); train the cell again") from error
    return tensors


def _check_shapes(path: Path, tensors: Mapping[str, torch.Tensor], expected: Mapping[str, tuple[int, int]]) -> None:
    for name in sorted(expected.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else "missing"
        wanted = expected.get(name, "no such tensor")
        if found != wanted:
            raise AdapterError(
                f"{path}: tensor {name}: {found}, but the base needs {wanted}; "
                "the adapter belongs to another base model"
            )


def _check_finite(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise AdapterError(f"{path}: tensor {name} has NaN or infinite values; train the cell again")


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path}: missing or not JSON ({error}); train the cell again") from error
    return content
