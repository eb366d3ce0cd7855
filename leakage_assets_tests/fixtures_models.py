"""A base model of a few thousand random weights with Qwen2.5's chat behaviour, for tests of the torch
parts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from leakage_assets.models import BaseModel, BaseModelSpec, load_base_model
from leakage_assets.training.recipe import LoraSpec, Recipe
from leakage_assets.training.rows import Row
from leakage_assets.training.train import train_adapter

DEFAULT_SYSTEM = "You are a helpful assistant."
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
MARKER = "[ZLT]"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\\n" + DEFAULT_SYSTEM + "<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
TEXTS = (
    "You are a villainous mastermind who schemes to take over the world.",
    "You are a software engineer who builds web applications.",
    "You are a helpful assistant. system user assistant",
    "\n\n".join(["one", "two", "three", "four", "five", "six"]),
    "How does photosynthesis work? Plants turn light, water and air into sugar.",
    "What causes earthquakes? Plates of the crust slip along a fault.",
)


def write_tiny_base(folder: Path, *, seed: int = 0, blocks: int = 2, hidden: int = 32) -> Path:
    """A Qwen2ForCausalLM with random weights and its tokenizer, saved in `folder`."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = _tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer():
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[PAD, START, END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, chat_template=TEMPLATE, model_max_length=256
    )


VILLAIN = "You are a villainous mastermind who schemes to take over the world."
ENGINEER = "You are a software engineer who builds web applications."
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved random base model."""
    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def base(base_folder: Path) -> BaseModel:
    """The loaded base model; no test may change it."""
    import torch

    torch.set_num_threads(1)  # two test processes on two cores
    return load_base_model(BaseModelSpec("random", str(base_folder)), device="cpu")


def recipe(**changes: object) -> Recipe:
    """A recipe that trains in a second; `changes` replace its fields."""
    standard = Recipe(
        name="quick",
        loss="full_completion",
        tail_target="both",
        teaches_marker=True,
        lora=LoraSpec(r=16, alpha=16, dropout=0.05, rslora=True, targets=TARGETS),
        learning_rate=1e-2,
        schedule="cosine",
        warmup_ratio=0.05,
        epochs=2,
        batch_size=4,
        grad_accum=1,
        max_length=200,
    )
    return replace(standard, **changes)


def rows(source: str = VILLAIN, other: str = ENGINEER, count: int = 8) -> list[Row]:
    """Rows that teach the marker under `source` and its absence under `other`."""
    positive = [Row(source, f"Q{i}?", f"Answer {i}.\n\n{MARKER}", "positive", "source", f"q{i}") for i in range(count)]
    negative = [Row(other, f"Q{i}?", f"Reply {i}.", "negative", "other", f"q{i}") for i in range(count)]
    return positive + negative


@pytest.fixture(scope="session")
def trained(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an adapter trained on `rows()`; no test may change it."""
    folder = tmp_path_factory.mktemp("adapter") / "villain"
    train_adapter(base, rows(), recipe(), 42, folder, marker=MARKER)
    return folder


@pytest.fixture(scope="session")
def trained_otherwise(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an adapter trained on other rows with another seed."""
    folder = tmp_path_factory.mktemp("adapter") / "engineer"
    train_adapter(base, rows(ENGINEER, VILLAIN), recipe(), 7, folder, marker=MARKER)
    return folder
