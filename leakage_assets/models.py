"""Base models: what identifies one, loading it with nothing assumed, and its chat template as token ids.

A base model is a hub repository at a pinned commit, a local folder, or random weights of a named shape.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from leakage_assets.exceptions import ExpectedError
from leakage_assets.shapes import HUB_SHAPES, SHAPES, ModelShape, shape_named, shape_of_config
from leakage_assets.store.files import sha256_file
from leakage_assets.store.fingerprint import derive_seed, fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

COMMIT = re.compile(r"[0-9a-f]{40}")
TOKENIZER_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
TEMPLATE_FILE = "chat_template.jinja"
DOWNLOADED = ("*.json", "*.jinja", "merges.txt", "*.safetensors")
# Fields of config.json that say which library wrote it, not what the model computes.
UNIDENTIFYING = ("transformers_version", "_name_or_path")
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Decoders whose blocks and linear layers have the names that geometry and recipes use."""
RANDOM_WEIGHTS = "random_weights"
"""Key of an identity, and of a config.json, that says the weights were drawn at random."""

Dtype = Literal["float32", "bfloat16"]
ELEMENT: dict[Dtype, int] = {"float32": 4, "bfloat16": 2}
"""Bytes of a number."""


class BaseModelError(ExpectedError):
    """A base model cannot be resolved, verified or loaded; the message names the file and the remedy."""


@dataclass(frozen=True)
class RandomWeights:
    """Weights of a named shape, drawn from a seed: good for measuring speed, and for nothing else.

    They are drawn on the device they are for, so a CPU and a GPU draw different ones from one seed.
    """

    shape: str
    seed: int = 42

    def __post_init__(self) -> None:
        shape_named(self.shape)


@dataclass(frozen=True)
class BaseModelSpec:
    """Where a base model comes from and in which precision it is computed.

    `revision` and `random` decide what `source` is: with neither a local folder, with a 40-digit commit as `revision`
    a hub id, with `random` a local folder that lends its tokenizer and chat template. A branch or a tag is refused
    because it can move. Remote code is never trusted.
    """

    name: str
    source: str
    revision: str | None = None
    dtype: Dtype = "float32"
    random: RandomWeights | None = None

    def __post_init__(self) -> None:
        if self.revision is not None and not COMMIT.fullmatch(self.revision):
            raise BaseModelError(f"{self.name}: revision {self.revision!r} is not a 40-digit commit of {self.source}")
        if self.revision is not None and self.random is not None:
            raise BaseModelError(f"{self.name}: either the weights of a commit or random ones, not both")
        if self.dtype not in ("float32", "bfloat16"):
            raise BaseModelError(f"{self.name}: dtype {self.dtype!r}; expected float32 or bfloat16")


@dataclass(frozen=True)
class BaseModel:
    """A loaded base: frozen weights in evaluation mode, shared by everything that runs in one process.

    `folder` holds its files; random weights have none (`write_base` makes one).
    """

    spec: BaseModelSpec
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path | None
    fingerprint: str

    @property
    def end_of_turn(self) -> int:
        """The id that ends a turn."""
        return int(self.tokenizer.eos_token_id)

    @property
    def device(self) -> Any:
        return self.model.device

    @property
    def padding(self) -> int:
        """Any valid id will do: padded positions are masked from attention and from the loss."""
        pad = self.tokenizer.pad_token_id
        return self.end_of_turn if pad is None else int(pad)

    @property
    def blocks(self) -> int:
        return int(self.model.config.num_hidden_layers)


def base_model_identity(spec: BaseModelSpec) -> dict[str, Any]:
    """What makes the base what it is, without importing torch.

    A hub commit pins weights, tokenizer, template and config together, so nothing needs to be downloaded to
    name it. A local folder is named by the digests of those four. Random weights are named by their shape and seed
    under the key `random_weights`, and so is a folder that `write_base` made of them.

    Raises:
        BaseModelError: a local folder is missing or lacks weights, tokenizer, chat template or config.
    """
    if spec.revision is not None:
        return {"hub": spec.source, "commit": spec.revision, "dtype": spec.dtype}
    folder = _local_folder(spec)
    texts = {"dtype": spec.dtype, **_text_digests(folder)}
    drawn = random_weights(spec)
    mark = {} if drawn is None else {RANDOM_WEIGHTS: drawn}
    if spec.random is not None:
        return {**texts, **mark, "config": fingerprint(shape_named(spec.random.shape).qwen2_config())}
    config = {key: value for key, value in _json(folder / "config.json").items() if key not in UNIDENTIFYING}
    shards = _shards(folder)
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter free: 15 GB of shards are read side by side
        weights = dict(zip((path.name for path in shards), pool.map(_sha256_of_weights, shards), strict=True))
    return {
        **texts,
        **mark,
        "weights": weights,
        "config": fingerprint(config),
    }


def random_weights(spec: BaseModelSpec) -> dict[str, Any] | None:
    """Shape and seed of a base whose weights were drawn at random, also of a folder they were saved in; else None."""
    if spec.random is not None:
        return asdict(spec.random)
    config = Path(spec.source) / "config.json"
    if spec.revision is not None or not config.is_file():
        return None
    drawn: dict[str, Any] | None = _json(config).get(RANDOM_WEIGHTS)
    return drawn


@dataclass(frozen=True)
class Verified:
    """What was looked at when a base model was verified.

    `origin` is "hub", "folder" or "random weights"; `weights_bytes` is None where no weights lie on a disk. The digests
    are those of the tokenizer's files and of the chat template.
    """

    origin: str
    weights_bytes: int | None
    tokenizer: str
    chat_template: str


def verify_base_model(spec: BaseModelSpec) -> Verified:
    """Check a base model's files without loading the weights; a hub commit that is not cached is fetched first.

    Raises:
        BaseModelError: it is neither there nor can it be fetched, it is of another architecture, it lacks tokenizer or
            chat template, or a shard is missing, truncated, or not the one that `pretraining.json` beside it records.
    """
    folder = _text_folder(spec)
    if spec.random is not None:
        return Verified("random weights", None, **_text_digests(folder))
    _check_architecture(folder)
    _check_shards(folder)
    record = folder / "pretraining.json"
    if record.is_file() and (recorded := _json(record)["weights_sha256"]) != (
        found := _sha256_of_weights(_shards(folder)[0])
    ):
        raise BaseModelError(
            f"{_shards(folder)[0]}: sha256 {found}, but {record.name} says {recorded}; fetch the file again, or "
            "re-create the model with leakage pretrain"
        )
    size = sum(path.stat().st_size for path in _shards(folder))
    return Verified("folder" if spec.revision is None else "hub", size, **_text_digests(folder))


def folder_at_hand(spec: BaseModelSpec) -> Path | None:
    """The folder with the base's tokenizer and config, or None for a hub commit that is not cached; never downloads.

    Raises:
        BaseModelError: a local folder is missing.
    """
    if spec.revision is None:
        return _local_folder(spec)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                spec.source, revision=spec.revision, allow_patterns=list(DOWNLOADED), local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None


def model_shape(spec: BaseModelSpec) -> ModelShape:
    """The shape of a base, without loading or downloading it.

    Raises:
        BaseModelError: a local folder or its config.json is missing, or a hub model of unknown shape is not cached.
        ShapeError: config.json is not that of a known decoder.
    """
    if spec.random is not None:
        return shape_named(spec.random.shape)
    folder = folder_at_hand(spec)
    if folder is not None:
        return shape_of_config(_json(folder / "config.json"), str(folder / "config.json"))
    if spec.source not in HUB_SHAPES:
        raise BaseModelError(
            f"{spec.name}: the shape of {spec.source} is not known before it is downloaded; materialise base_model"
        )
    return SHAPES[HUB_SHAPES[spec.source]]


def load_tokenizer(spec: BaseModelSpec) -> PreTrainedTokenizerBase:
    """The base model's tokenizer without the weights; its end token is what ends a turn of the template.

    Raises:
        BaseModelError: missing folder, or a tokenizer without chat template or end-of-turn token.
    """
    from transformers import AutoTokenizer

    return _checked_tokenizer(_text_folder(spec), AutoTokenizer)


def load_base_model(spec: BaseModelSpec, device: str | None = None) -> BaseModel:
    """Load and verify a base model on `device` (default: the GPU where there is one).

    Raises:
        BaseModelError: missing folder, another architecture, no safetensors, truncated or incomplete weights, a
            tokenizer without chat template or end-of-turn token, or one that does not fit the embedding.
    """
    import torch
    from transformers import AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # its lines are noise in a run's log
    folder = _text_folder(spec)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = _checked_tokenizer(folder, AutoTokenizer)
    model = _pretrained(folder, spec.dtype) if spec.random is None else _drawn(spec, spec.random, tokenizer, place)
    _check_vocabulary(folder, tokenizer, model.config)
    model.eval().requires_grad_(False).to(place)
    identity = fingerprint(base_model_identity(spec))
    return BaseModel(spec, model, tokenizer, folder if spec.random is None else None, identity)


def _pretrained(folder: Path, dtype: Dtype) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    _check_architecture(folder)
    _check_shards(folder)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise BaseModelError(f"{folder}: the weights cannot be loaded: {error}") from error
    _check_complete(folder, report)
    return model


def _drawn(
    spec: BaseModelSpec, weights: RandomWeights, tokenizer: PreTrainedTokenizerBase, device: str
) -> PreTrainedModel:
    """Random weights, drawn where and in the precision in which they are used: there is no copy on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(**shape_named(weights.shape).qwen2_config(), eos_token_id=tokenizer.eos_token_id)
    setattr(config, RANDOM_WEIGHTS, asdict(weights))  # goes along when the model is saved
    place = torch.device(device)
    forked = [place.index or torch.cuda.current_device()] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=forked), place:
        torch.manual_seed(derive_seed(RANDOM_WEIGHTS, weights.shape, weights.seed))
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, spec.dtype), attn_implementation="sdpa")


def write_base(base: BaseModel, folder: Path) -> Path:
    """Save a base with its tokenizer as a local folder that any engine can load; one of random weights stays marked.

    Raises:
        BaseModelError: the folder holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise BaseModelError(f"{folder}: not empty; name a new folder")
    base.model.save_pretrained(folder, max_shard_size="1GB")  # shards are hashed side by side
    base.tokenizer.save_pretrained(folder)
    return folder


def outline_base_model(spec: BaseModelSpec) -> BaseModel:
    """The base without its weights: tokenizer, configuration and the shapes of its modules (on torch's meta device).

    For an engine that reads the weights itself.

    Raises:
        BaseModelError: missing folder, missing or truncated weights, or a tokenizer without chat template or
            end-of-turn token.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = _folder(spec)
    _check_shards(folder)
    tokenizer = _checked_tokenizer(folder, AutoTokenizer)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, spec.dtype), trust_remote_code=False)
    return BaseModel(
        spec, model.eval().requires_grad_(False), tokenizer, folder, fingerprint(base_model_identity(spec))
    )


def shared_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A new module tree over the very same weight tensors.

    Trainers and adapters patch forwards, configs and modules in place; on a copy this can never reach the
    base.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def chat_text(tokenizer: PreTrainedTokenizerBase, system: str | None, user: str, assistant: str | None = None) -> str:
    """The conversation as the chat template renders it.

    Without `assistant` it ends in the generation prompt. `system=None` leaves the system turn to the
    template's default; an empty string is an explicit empty system turn.
    """
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns.append({"role": "user", "content": user})
    if assistant is not None:
        turns.append({"role": "assistant", "content": assistant})
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=assistant is None))


def chat_ids(tokenizer: PreTrainedTokenizerBase, system: str | None, user: str, *, prefix: str = "") -> list[int]:
    """Token ids of the prompt, generation prompt included; `prefix` starts the assistant's turn.

    The prefix is encoded on its own, so the prompt's ids are always a prefix of the result, as in generation.
    """
    ids: list[int] = tokenizer.encode(chat_text(tokenizer, system, user), add_special_tokens=False)
    return ids + (tokenizer.encode(prefix, add_special_tokens=False) if prefix else [])


def system_turn_ids(tokenizer: PreTrainedTokenizerBase, system: str) -> list[int]:
    """Token ids of a conversation that holds only the system turn, without generation prompt."""
    text = tokenizer.apply_chat_template([{"role": "system", "content": system}], tokenize=False)
    return list(tokenizer.encode(str(text), add_special_tokens=False))


def _folder(spec: BaseModelSpec) -> Path:
    """The folder with the weights."""
    if spec.random is not None:
        raise BaseModelError(
            f"{spec.name}: random weights lie in no folder; write some with python -m benchmarks.random_base FOLDER, "
            "and name that folder as the base model"
        )
    return _text_folder(spec)


def _text_folder(spec: BaseModelSpec) -> Path:
    """The folder with tokenizer and chat template."""
    return _local_folder(spec) if spec.revision is None else _hub_folder(spec)


def _local_folder(spec: BaseModelSpec) -> Path:
    folder = Path(spec.source)
    if not folder.is_dir():
        raise BaseModelError(
            f"{spec.name}: no folder {spec.source}; for a model of the hub set revision to its commit, for "
            "the bundled one restore it from git or train it again"
        )
    return folder


def _hub_folder(spec: BaseModelSpec) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"{spec.name}: {spec.source} at {spec.revision}"
    try:
        return Path(snapshot_download(spec.source, revision=spec.revision, allow_patterns=list(DOWNLOADED)))
    except GatedRepoError as error:  # before its parent class RepositoryNotFoundError
        raise BaseModelError(
            f"{what} is gated: accept its licence on the model's page of the hub, and set HF_TOKEN to a token of the "
            "account that did"
        ) from error
    except RevisionNotFoundError as error:
        raise BaseModelError(f"{what}: the hub has the repository but no such commit; correct the revision") from error
    except RepositoryNotFoundError as error:
        raise BaseModelError(
            f"{what}: the hub has no such repository, or it is private: correct the source, or set HF_TOKEN to a token "
            "that may read it"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise BaseModelError(
            f"{what} is neither cached nor could it be downloaded "
            f"({type(error).__name__}: {error}); allow the network, unset HF_HUB_OFFLINE, or copy the "
            "snapshot into the cache"
        ) from error


def _shards(folder: Path) -> list[Path]:
    """The safetensors files the index lists, or the single file."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = [folder / name for name in sorted(set(_json(index)["weight_map"].values()))]
    else:
        shards = [folder / "model.safetensors"]
    for shard in shards:
        if not shard.is_file():
            raise BaseModelError(f"{shard}: missing; only safetensors weights are read, never pickled ones")
    return shards


def _check_shards(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    for shard in _shards(folder):
        try:
            # Opening compares the header's extents with the size of the file.
            with safe_open(shard, framework="np"):
                pass
        except SafetensorError as error:
            raise BaseModelError(f"{shard}: truncated or damaged ({error}); fetch the file again") from error


def _check_architecture(folder: Path) -> None:
    named = _json(folder / "config.json").get("architectures") or []
    if not set(named) & set(ARCHITECTURES):
        raise BaseModelError(
            f"{folder / 'config.json'}: architectures {named}; expected a decoder: one of {', '.join(ARCHITECTURES)}"
        )


def _check_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
    """An embedding may be padded by some hundred rows; beyond that, it belongs to another tokenizer."""
    tokens, rows = len(tokenizer), config.vocab_size
    drawn = hasattr(config, RANDOM_WEIGHTS)  # their tokenizer is borrowed
    if tokens > rows or (tokens < rows / 2 and not drawn):
        raise BaseModelError(
            f"{folder}: the tokenizer has {tokens} tokens, the embedding {rows}; "
            "weights and tokenizer are of different models"
        )


def _check_complete(folder: Path, report: dict[str, Any]) -> None:
    """transformers initialises what a checkpoint lacks at random and only warns; here it is an error."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if report.get(kind):
            raise BaseModelError(f"{folder}: weights do not fit config.json: {kind} {sorted(report[kind])[:5]}")


def _checked_tokenizer(folder: Path, loader: Any) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{folder}: the tokenizer cannot be loaded: {error}") from error
    if not tokenizer.chat_template:
        raise BaseModelError(
            f"{folder}: the tokenizer has no chat template; personas are system turns, so use an "
            f"instruction-tuned model or add {TEMPLATE_FILE}"
        )
    after_answer = chat_text(tokenizer, None, "a", "b").rpartition("b")[2]
    end = tokenizer.eos_token_id
    if end is None or end not in tokenizer.encode(after_answer, add_special_tokens=False):
        raise BaseModelError(
            f"{folder}: the chat template does not end the assistant's turn with the tokenizer's end token "
            f"{tokenizer.eos_token!r}; generation would never stop where training taught it to"
        )
    return tokenizer


def _chat_template(folder: Path) -> str:
    path = folder / TEMPLATE_FILE
    if path.is_file():
        return path.read_text()
    template = _json(folder / "tokenizer_config.json").get("chat_template")
    if not template:
        raise BaseModelError(f"{folder}: neither {TEMPLATE_FILE} nor a chat_template in tokenizer_config.json")
    return template if isinstance(template, str) else json.dumps(template, sort_keys=True)


def _sha256_of_weights(path: Path) -> str:
    return sha256_file(path, remembered=True)


def _tokenizer_digest(folder: Path) -> str:
    files = {name: sha256_file(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}
    if not {"tokenizer.json", "vocab.json"} & set(files):
        raise BaseModelError(f"{folder}: no tokenizer.json or vocab.json")
    return fingerprint(files)


def _text_digests(folder: Path) -> dict[str, str]:
    template = hashlib.sha256(_chat_template(folder).encode()).hexdigest()
    return {"tokenizer": _tokenizer_digest(folder), "chat_template": template}


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise BaseModelError(f"{path}: missing or unreadable ({error})") from error
    except ValueError as error:
        raise BaseModelError(f"{path}: not JSON ({error}); fetch the file again") from error
    return content
