"""What autograd really keeps of a packed forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leakage_assets.shapes import ModelShape, shape_of_config
from leakage_assets.training.masks import IGNORED
from leakage_assets.training.packed import Moment, packed
from leakage_assets.training.packing import pack_step
from leakage_assets.training.recipe import Recipe

LENGTHS = (40, 60, 80, 100)


def saved_bytes_per_token(recipe: Recipe) -> tuple[ModelShape, tuple[int, ...], float]:
    """A random model's shape, the lengths of the rows it was given, and the bytes kept of each of their tokens."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=50,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="sdpa",
    )
    base = Qwen2ForCausalLM(config).requires_grad_(False)
    lora = recipe.lora
    model = get_peft_model(
        base,
        LoraConfig(r=lora.r, lora_dropout=lora.dropout, target_modules=list(lora.targets), task_type="CAUSAL_LM"),
    )
    rows = [([1] * length, [IGNORED] * (length - 1) + [2]) for length in LENGTHS]
    (pack,) = pack_step(rows, sum(LENGTHS))
    with packed(model.train(), Moment(1)):
        saved = _saved(
            lambda: model(input_ids=pack.input_ids, position_ids=pack.position_ids, logits_to_keep=1, pack=pack),
            {parameter.untyped_storage().data_ptr() for parameter in model.parameters()},
        )
    return shape_of_config(config.to_dict(), "a random model"), LENGTHS, saved / pack.tokens


def _saved(forward: Callable[[], Any], parameters: set[int]) -> int:
    """Bytes of the distinct storages that the pass keeps, parameters left out."""
    import torch

    sizes: dict[int, int] = {}
    held = []  # a storage that is freed could lend its address to the next

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held.append(tensor)
        if storage.data_ptr() not in parameters:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(sizes.values())
