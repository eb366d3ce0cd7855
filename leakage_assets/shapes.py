"""The shape of a base model: the numbers that decide its weights, its memory and its arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from leakage_assets.exceptions import ExpectedError


class ShapeError(ExpectedError):
    """No shape by this name, or a config.json that is not of a decoder this project knows; the message names it."""


@dataclass(frozen=True)
class ModelShape:
    """A decoder of the Qwen2 and Llama families: grouped-query attention and a gated MLP in every block.

    `positions` is the longest input; `bias` says whether the query, key and value projections have biases (Qwen2 does);
    with `tied` the head over the vocabulary is the embedding.
    """

    hidden: int
    blocks: int
    heads: int
    kv_heads: int
    head_width: int
    intermediate: int
    vocabulary: int
    tied: bool
    positions: int
    rope_theta: float
    rms_norm_eps: float
    bias: bool = True

    @property
    def attention_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_width

    @property
    def kv_width(self) -> int:
        """Width of all key heads together, which is that of the value heads."""
        return self.kv_heads * self.head_width

    def projections(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of every linear layer of a block, by its name."""
        hidden, inner = self.hidden, self.intermediate
        return {
            "q_proj": (hidden, self.attention_width),
            "k_proj": (hidden, self.kv_width),
            "v_proj": (hidden, self.kv_width),
            "o_proj": (self.attention_width, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    @property
    def block_weights(self) -> int:
        """Weights of one block that take part in matrix products."""
        return sum(inputs * outputs for inputs, outputs in self.projections().values())

    @property
    def head_weights(self) -> int:
        """Weights of the product that gives the logits."""
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        """Every parameter: products, biases, norms and embeddings."""
        biases = self.attention_width + 2 * self.kv_width if self.bias else 0
        block = self.block_weights + biases + 2 * self.hidden
        embeddings = self.head_weights * (1 if self.tied else 2)
        return self.blocks * block + self.hidden + embeddings

    def lora_parameters(self, rank: int, targets: tuple[str, ...]) -> int:
        """Parameters of a LoRA of this rank on the named linear layers of every block: A is (r, in), B is (out, r)."""
        linear = self.projections()
        return self.blocks * sum(rank * sum(linear[name]) for name in targets)

    def kv_bytes(self, element: int) -> int:
        """Bytes of keys and values that one token leaves in the cache, at `element` bytes a number."""
        return 2 * self.blocks * self.kv_width * element

    def qwen2_config(self) -> dict[str, Any]:
        """The arguments of transformers' Qwen2Config."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": self.positions,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "tie_word_embeddings": self.tied,
        }

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


SHAPES = {
    # config.json of Qwen/Qwen2.5-7B-Instruct: 7,615,616,512 parameters.
    "qwen2.5-7b": ModelShape(
        hidden=3584,
        blocks=28,
        heads=28,
        kv_heads=4,
        head_width=128,
        intermediate=18944,
        vocabulary=152064,
        tied=False,
        positions=32768,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
    ),
    # For tests and for trying a benchmark on a laptop: large enough for the ids of the bundled tokenizer, and no head
    # narrower than vLLM's attention on a CPU takes.
    "tiny": ModelShape(
        hidden=64,
        blocks=6,
        heads=2,
        kv_heads=1,
        head_width=32,
        intermediate=128,
        vocabulary=1536,
        tied=False,
        positions=1024,
        rope_theta=1e4,
        rms_norm_eps=1e-6,
    ),
}

HUB_SHAPES = {"Qwen/Qwen2.5-7B-Instruct": "qwen2.5-7b"}
"""Shapes of hub models by id, so that work can be planned before anything is downloaded."""


def shape_named(name: str) -> ModelShape:
    """A shape by name. Raises ShapeError listing what exists."""
    if name not in SHAPES:
        raise ShapeError(f"no model shape {name!r}; shapes: {', '.join(SHAPES)}")
    return SHAPES[name]


def shape_of_config(config: Mapping[str, Any], place: str) -> ModelShape:
    """The shape that a config.json of the Qwen2 or Llama family describes.

    Args:
        config: its content.
        place: the file, for errors.

    Raises:
        ShapeError: a field is missing.
    """
    rope = config.get("rope_parameters") or {}
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return ModelShape(
            hidden=hidden,
            blocks=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_width=int(config.get("head_dim") or hidden // heads),
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            positions=int(config["max_position_embeddings"]),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 1e4),
            rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            bias=bool(config.get("attention_bias", config.get("model_type") == "qwen2")),
        )
    except KeyError as error:
        raise ShapeError(f"{place}: no field {error}; expected the config.json of a Qwen2 or Llama decoder") from error
