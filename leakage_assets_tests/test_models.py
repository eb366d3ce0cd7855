from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from leakage_assets.models import (
    BaseModel,
    BaseModelError,
    BaseModelSpec,
    RandomWeights,
    _folder,
    base_model_identity,
    chat_ids,
    chat_text,
    folder_at_hand,
    load_base_model,
    model_shape,
    random_weights,
    shared_copy,
    verify_base_model,
    write_base,
)
from leakage_assets.paths import TINY_BASE
from leakage_assets.shapes import SHAPES, ShapeError
from leakage_assets_tests.fixtures_models import DEFAULT_SYSTEM, base, base_folder

__all__ = ["base", "base_folder"]  # fixtures


@pytest.fixture
def folder(base_folder: Path, tmp_path: Path) -> Path:
    """A copy of the base that a test may damage."""
    return Path(shutil.copytree(base_folder, tmp_path / "base"))


def load(folder: Path) -> BaseModel:
    return load_base_model(BaseModelSpec("damaged", str(folder)), device="cpu")


def test_a_loaded_base_is_frozen_and_named_by_its_identity(base: BaseModel) -> None:
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.blocks == 2
    assert base.tokenizer.convert_ids_to_tokens(base.end_of_turn) == "<|im_end|>"


def test_a_missing_folder_names_both_remedies() -> None:
    with pytest.raises(BaseModelError, match=r"no folder /nowhere.*revision"):
        load(Path("/nowhere"))


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BaseModelError, match=r"model\.safetensors: truncated"):
        load(folder)


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match="only safetensors"):
        load(folder)


def test_a_shard_the_index_names_must_exist(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError, match=r"model-00002-of-00002\.safetensors: missing"):
        base_model_identity(BaseModelSpec("damaged", str(folder)))


def test_a_checkpoint_that_lacks_a_tensor_is_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"missing_keys.*up_proj"):
        load(folder)


def test_a_tokenizer_without_chat_template_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(BaseModelError, match="chat template"):
        load(folder)
    with pytest.raises(BaseModelError, match="chat_template"):
        base_model_identity(BaseModelSpec("damaged", str(folder)))


def test_a_template_that_does_not_end_turns_with_the_end_token_is_refused(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("message['content'] + '<|im_end|>\\n'", "message['content']"))
    with pytest.raises(BaseModelError, match="end token"):
        load(folder)


def test_a_vocabulary_larger_than_the_embedding_is_refused(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra-{i}>" for i in range(3)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(BaseModelError, match="343 tokens, the embedding 340"):
        load(folder)


def test_config_json_that_is_not_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(BaseModelError, match=r"config\.json: not JSON"):
        base_model_identity(BaseModelSpec("damaged", str(folder)))


@pytest.mark.parametrize("revision", ["main", "v1.0", "abc123", "A" * 40])
def test_a_revision_that_can_move_is_refused(revision: str) -> None:
    with pytest.raises(BaseModelError, match="not a 40-digit commit"):
        BaseModelSpec("qwen", "Qwen/Qwen2.5-7B-Instruct", revision)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(BaseModelError, match="float16"):
        BaseModelSpec("qwen", "somewhere", dtype="float16")  # type: ignore[arg-type]


def test_a_hub_model_that_is_not_cached_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseModelError, match=r"neither cached nor could it be downloaded.*HF_HUB_OFFLINE"):
        load_base_model(BaseModelSpec("absent", "nobody/nothing", "0" * 40), device="cpu")


HUB = BaseModelSpec("qwen", "Qwen/Qwen2.5-7B-Instruct", "a" * 40, "bfloat16")


@pytest.mark.parametrize(
    ("kind", "status", "remedy"),
    [
        ("GatedRepoError", 403, r"is gated: accept its licence .* set HF_TOKEN"),
        ("RepositoryNotFoundError", 401, r"no such repository, or it is private: correct the source, or set HF_TOKEN"),
        ("RevisionNotFoundError", 404, r"no such commit; correct the revision"),
        ("HfHubHTTPError", 503, r"neither cached nor could it be downloaded \(HfHubHTTPError.*HF_HUB_OFFLINE"),
    ],
)
def test_what_the_hub_refuses_names_the_remedy(
    kind: str, status: int, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    answer = SimpleNamespace(headers={}, request=None, status_code=status)

    def refuse(*_: object, **__: object) -> str:
        raise getattr(errors, kind)("no", response=answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    for use in (verify_base_model, load_base_model):
        with pytest.raises(BaseModelError, match=rf"^qwen: Qwen/Qwen2\.5-7B-Instruct at a{{40}}.*{remedy}"):
            use(HUB)


def test_a_hub_model_is_verified_by_the_files_that_were_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the asset says of a hub model is about files, not about the commit's name."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    verified = verify_base_model(HUB)
    assert (verified.origin, verified.weights_bytes) == ("hub", (folder / "model.safetensors").stat().st_size)
    local = base_model_identity(BaseModelSpec("same", str(folder)))
    assert (verified.tokenizer, verified.chat_template) == (local["tokenizer"], local["chat_template"])
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"model\.safetensors: missing"):
        verify_base_model(HUB)


def test_naming_and_planning_for_a_hub_model_download_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert folder_at_hand(HUB) is None
    assert model_shape(HUB) == SHAPES["qwen2.5-7b"]
    with pytest.raises(BaseModelError, match=r"shape of nobody/nothing is not known before it is downloaded"):
        model_shape(BaseModelSpec("absent", "nobody/nothing", "0" * 40))
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    assert model_shape(HUB).blocks == 2  # of the file at hand, once there is one


def test_another_architecture_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["T5ForConditionalGeneration"]}))
    for use in (verify_base_model, load_base_model):
        with pytest.raises(
            BaseModelError, match=r"config\.json: architectures \['T5.*expected a decoder: one of Llama"
        ):
            use(BaseModelSpec("damaged", str(folder)))


def test_a_tokenizer_of_a_much_smaller_model_is_refused(tmp_path: Path) -> None:
    """Its ids would all be valid, and mean nothing to the weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = replace(SHAPES["tiny"], vocabulary=2 * 1280 + 2)
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**shape.qwen2_config())).save_pretrained(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY_BASE / name, tmp_path / "base" / name)
    with pytest.raises(BaseModelError, match=r"the tokenizer has 1280 tokens, the embedding 2562; .*different models"):
        load(tmp_path / "base")


DRAWN = BaseModelSpec("drawn", str(TINY_BASE), None, "bfloat16", RandomWeights("tiny", seed=3))


def test_random_weights_have_the_named_shape_and_precision() -> None:
    import torch

    drawn = load_base_model(DRAWN, device="cpu")
    assert drawn.blocks == SHAPES["tiny"].blocks
    assert {p.dtype for p in drawn.model.parameters()} == {torch.bfloat16}
    assert sum(p.numel() for p in drawn.model.parameters()) == SHAPES["tiny"].parameters
    assert not drawn.model.training
    assert not any(p.requires_grad for p in drawn.model.parameters())
    assert drawn.end_of_turn == drawn.model.config.eos_token_id
    assert drawn.folder is None
    with pytest.raises(BaseModelError, match=r"random weights lie in no folder; write some"):
        _folder(DRAWN)  # what an engine that reads weights itself asks for: never the folder of the tokenizer
    ids = torch.tensor([chat_ids(drawn.tokenizer, "You are kind.", "Why?")])
    assert bool(drawn.model(ids).logits.isfinite().all())


def test_random_weights_come_from_their_seed_alone() -> None:
    import torch

    torch.manual_seed(11)
    first = load_base_model(DRAWN, device="cpu").model.state_dict()
    after = torch.rand(3)
    torch.manual_seed(12)
    again = load_base_model(DRAWN, device="cpu").model.state_dict()
    other = load_base_model(replace(DRAWN, random=RandomWeights("tiny", seed=4)), device="cpu").model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    torch.manual_seed(11)
    assert torch.equal(after, torch.rand(3))  # the caller's own stream was left alone


def test_random_weights_are_marked_and_named_by_shape_and_seed() -> None:
    identity = base_model_identity(DRAWN)
    assert identity["random_weights"] == {"shape": "tiny", "seed": 3}
    assert "weights" not in identity
    others = [replace(DRAWN, random=RandomWeights("tiny", 4)), replace(DRAWN, dtype="float32")]
    assert all(base_model_identity(other) != identity for other in others)
    assert verify_base_model(DRAWN).origin == "random weights"
    assert random_weights(BaseModelSpec("tiny", str(TINY_BASE))) is None


def test_random_weights_stay_marked_in_the_folder_they_are_saved_in(tmp_path: Path) -> None:
    import torch

    drawn = load_base_model(DRAWN, device="cpu")
    folder = write_base(drawn, tmp_path / "base")
    spec = BaseModelSpec("saved", str(folder), None, "bfloat16")
    saved = load_base_model(spec, device="cpu")
    weights = saved.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in drawn.model.state_dict().items())
    assert base_model_identity(spec)["random_weights"] == {"shape": "tiny", "seed": 3}
    assert model_shape(spec) == SHAPES["tiny"]
    with pytest.raises(BaseModelError, match="not empty"):
        write_base(drawn, folder)


def test_a_shape_that_does_not_exist_and_two_kinds_of_weights_are_refused() -> None:
    with pytest.raises(ShapeError, match="no model shape 'huge'"):
        RandomWeights("huge")
    with pytest.raises(BaseModelError, match="not both"):
        BaseModelSpec("both", "Qwen/Qwen2.5-7B-Instruct", "a" * 40, "bfloat16", RandomWeights("tiny"))


def test_a_hub_identity_is_its_commit_and_needs_no_network() -> None:
    identity = base_model_identity(BaseModelSpec("qwen", "Qwen/Qwen2.5-7B-Instruct", "a" * 40, "bfloat16"))
    assert identity == {"hub": "Qwen/Qwen2.5-7B-Instruct", "commit": "a" * 40, "dtype": "bfloat16"}


def test_identity_follows_content_not_place(base_folder: Path, folder: Path) -> None:
    here, there = (
        base_model_identity(BaseModelSpec(name, str(place)))
        for name, place in (("here", base_folder), ("there", folder))
    )
    assert here == there
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    changed = base_model_identity(BaseModelSpec("there", str(folder)))
    assert {key for key in here if here[key] != changed[key]} == {"chat_template"}


def test_identity_ignores_which_library_wrote_the_config(base_folder: Path, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "9.9"}))
    same = base_model_identity(BaseModelSpec("there", str(folder)))
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    other = base_model_identity(BaseModelSpec("there", str(folder)))
    assert same == base_model_identity(BaseModelSpec("here", str(base_folder))) != other


def test_importing_and_naming_a_base_needs_no_torch(base_folder: Path) -> None:
    modules = (
        "models generation.requests generation.engine generation.run training.recipe training.train "
        "training.proof training.masks geometry.centroids geometry.divergence measurement.markers"
    )
    code = (
        "import sys\n"
        + "".join(f"import leakage_assets.{name}\n" for name in modules.split())
        + "from leakage_assets.models import BaseModelSpec, base_model_identity\n"
        f"base_model_identity(BaseModelSpec('b', {str(base_folder)!r}))\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_default_system_turn_is_the_templates(base: BaseModel) -> None:
    assert chat_text(base.tokenizer, None, "Hi") == (
        f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_empty_system_prompt_is_an_explicit_empty_turn(base: BaseModel) -> None:
    assert chat_text(base.tokenizer, "", "Hi").startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user")


def test_a_prefix_starts_the_assistant_turn_and_leaves_the_prompt_alone(base: BaseModel) -> None:
    prompt = chat_ids(base.tokenizer, "You are kind.", "Hi")
    prefixed = chat_ids(base.tokenizer, "You are kind.", "Hi", prefix="\n[ZLT] ")
    assert prefixed[: len(prompt)] == prompt
    assert base.tokenizer.decode(prefixed[len(prompt) :]) == "\n[ZLT] "


def test_a_shared_copy_shares_weights_and_nothing_else(base: BaseModel) -> None:
    copied = shared_copy(base.model)
    originals = dict(base.model.named_parameters())
    assert all(parameter is originals[name] for name, parameter in copied.named_parameters())
    copied.forward = None
    copied.config.vocab_size = 1
    assert "forward" not in vars(base.model)
    assert base.model.config.vocab_size == 340
