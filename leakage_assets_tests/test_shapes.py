"""Shapes against what transformers builds from them."""

from __future__ import annotations

import json

import pytest

from leakage_assets.paths import TINY_BASE
from leakage_assets.shapes import SHAPES, ShapeError, shape_named, shape_of_config


def test_the_7b_shape_has_the_published_number_of_parameters() -> None:
    assert SHAPES["qwen2.5-7b"].parameters == 7_615_616_512


@pytest.mark.parametrize("name", ["tiny", "bundled"])
def test_counts_are_those_of_the_model_that_transformers_builds(name: str) -> None:
    import torch
    from transformers import AutoConfig, Qwen2Config, Qwen2ForCausalLM

    if name == "bundled":
        shape = shape_of_config(json.loads((TINY_BASE / "config.json").read_text()), "config.json")
        config = AutoConfig.from_pretrained(TINY_BASE)
    else:
        shape, config = SHAPES[name], Qwen2Config(**SHAPES[name].qwen2_config())
    with torch.device("meta"):
        model = Qwen2ForCausalLM(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    for layer, (inputs, outputs) in shape.projections().items():
        (weight,) = {p.shape for n, p in model.named_parameters() if n.endswith(f"{layer}.weight")}
        assert weight == (outputs, inputs), layer


def test_a_shape_survives_its_config() -> None:
    from transformers import Qwen2Config

    for shape in SHAPES.values():
        assert shape_of_config(Qwen2Config(**shape.qwen2_config()).to_dict(), "config.json") == shape


def test_lora_parameters_are_those_that_training_counts() -> None:
    """434,176 trainable parameters is what the bundled model's adapters of rank 32 record in their summary."""
    shape = shape_of_config(json.loads((TINY_BASE / "config.json").read_text()), "config.json")
    assert shape.lora_parameters(32, tuple(shape.projections())) == 434_176


def test_what_is_no_decoder_is_named() -> None:
    with pytest.raises(ShapeError, match=r"somewhere/config\.json: no field 'num_attention_heads'"):
        shape_of_config({"hidden_size": 8}, "somewhere/config.json")
    with pytest.raises(ShapeError, match=r"no model shape 'huge'; shapes: qwen2\.5-7b, tiny"):
        shape_named("huge")
