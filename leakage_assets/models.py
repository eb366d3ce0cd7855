"""Base models: what identifies one, loading it with nothing assumed, and its chat template as token ids."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from leakage_assets.exceptions import ExpectedError
from leakage_assets.store.fingerprint import fingerprint

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

Dtype = Literal["float32", "bfloat16"]


class BaseModelError(ExpectedError):
    """A base model cannot be resolved, verified or loaded; the message names the file and the remedy."""


@dataclass(frozen=True)
class BaseModelSpec:
    """Where a base model comes from and in which precision it is computed.

    `revision` decides what `source` is: None means a local folder, a 40-digit commit a hub id. A branch or a
    tag is refused because it can move. Remote code is never trusted.
    """

    name: str
    source: str
    revision: str | None = None
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        if self.revision is not None and not COMMIT.fullmatch(self.revision):
            raise BaseModelError(f"{self.name}: revision {self.revision!r} is not a 40-digit commit of {self.source}")
        if self.dtype not in ("float32", "bfloat16"):
            raise BaseModelError(f"{self.name}: dtype {self.dtype!r}; expected float32 or bfloat16")


@dataclass(frozen=True)
class BaseModel:
    """A loaded base: frozen weights in evaluation mode, shared by everything that runs in one process."""

    spec: BaseModelSpec
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path
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
    name it. A local folder is named by the digests of those four.

    Raises:
        BaseModelError: a local folder is missing or lacks weights, tokenizer, chat template or config.
    """
    if spec.revision is not None:
        return {"hub": spec.source, "commit": spec.revision, "dtype": spec.dtype}
    folder = _local_folder(spec)
    return {
        "dtype": spec.dtype,
        "weights": {path.name: _sha256(path) for path in _shards(folder)},
        "tokenizer": _tokenizer_digest(folder),
        "chat_template": hashlib.sha256(_chat_template(folder).encode()).hexdigest(),
        "config": fingerprint(
            {key: value for key, value in _json(folder / "config.json").items() if key not in UNIDENTIFYING}
        ),
    }


def verify_base_model(spec: BaseModelSpec) -> None:
    """Check the weights of a local base without loading them; a hub commit is verified when it is fetched.

    Raises:
        BaseModelError: a shard is missing or truncated, or not the one that `pretraining.json` beside it records.
    """
    if spec.revision is not None:
        return
    folder = _local_folder(spec)
    _check_shards(folder)
    record = folder / "pretraining.json"
    if record.is_file() and (recorded := _json(record)["weights_sha256"]) != (found := _sha256(_shards(folder)[0])):
        raise BaseModelError(
            f"{_shards(folder)[0]}: sha256 {found}, but {record.name} says {recorded}; fetch the file again, or "
            "re-create the model with leakage pretrain"
        )


def load_tokenizer(spec: BaseModelSpec) -> PreTrainedTokenizerBase:
    """The base model's tokenizer without the weights; its end token is what ends a turn of the template.

    Raises:
        BaseModelError: missing folder, or a tokenizer without chat template or end-of-turn token.
    """
    from transformers import AutoTokenizer

    return _checked_tokenizer(_folder(spec), AutoTokenizer)


def load_base_model(spec: BaseModelSpec, device: str | None = None) -> BaseModel:
    """Load and verify a base model on `device` (default: the GPU where there is one).

    Raises:
        BaseModelError: missing folder, no safetensors, truncated or incomplete weights, a tokenizer without
            chat template or end-of-turn token, or a vocabulary larger than the embedding.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # its lines are noise in a run's log
    folder = _folder(spec)
    _check_shards(folder)
    tokenizer = _checked_tokenizer(folder, AutoTokenizer)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, spec.dtype),
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise BaseModelError(f"{folder}: the weights cannot be loaded: {error}") from error
    _check_complete(folder, report)
    if len(tokenizer) > model.config.vocab_size:
        raise BaseModelError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the embedding {model.config.vocab_size}; "
            "weights and tokenizer are of different models"
        )
    model.eval().requires_grad_(False).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return BaseModel(spec, model, tokenizer, folder, fingerprint(base_model_identity(spec)))


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


def _folder(spec: BaseModelSpec) -> Path:
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
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec.source, revision=spec.revision, allow_patterns=list(DOWNLOADED)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise BaseModelError(
            f"{spec.name}: {spec.source} at {spec.revision} is neither cached nor could it be downloaded "
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


def _tokenizer_digest(folder: Path) -> str:
    files = {name: _sha256(folder / name) for name in TOKENIZER_FILES if (folder / name).is_file()}
    if not {"tokenizer.json", "vocab.json"} & set(files):
        raise BaseModelError(f"{folder}: no tokenizer.json or vocab.json")
    return fingerprint(files)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise BaseModelError(f"{path}: missing or unreadable ({error})") from error
    except ValueError as error:
        raise BaseModelError(f"{path}: not JSON ({error}); fetch the file again") from error
    return content
