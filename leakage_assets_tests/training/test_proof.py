from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from leakage_assets.generation.adapters import CONFIG, DIGEST, WEIGHTS, AdapterError, weights_digest
from leakage_assets.generation.engine import ScoringItem
from leakage_assets.generation.requests import BASE
from leakage_assets.generation.transformers_engine import TransformersEngine
from leakage_assets.models import BaseModel
from leakage_assets.training.proof import AdapterProof, prove_adapter
from leakage_assets.training.reference import ReferenceLogprobs
from leakage_assets.training.train import train_adapter
from leakage_assets_tests.fixtures_models import MARKER, recipe, rows


class Faulty(TransformersEngine):
    """Serves another folder than it is asked for, or the base where there is none; shifts what it returns."""

    def __init__(self, base: BaseModel, serves: Path | None, shift: float = 0.0) -> None:
        super().__init__(base)
        self.serves = serves
        self.shift = shift

    def continuation_logprobs(self, items: Sequence[ScoringItem], adapters: Mapping[str, Path]) -> list[list[float]]:
        served = {name: self.serves for name in adapters if self.serves}
        asked = [item if item.adapter in served else replace(item, adapter=BASE) for item in items]
        shift = self.shift if adapters else 0.0
        return [[value + shift for value in row] for row in super().continuation_logprobs(asked, served)]


def prove(base: BaseModel, folder: Path, engine: TransformersEngine | None = None) -> AdapterProof:
    return prove_adapter(engine or TransformersEngine(base), base, folder)


def failed(proof: AdapterProof) -> set[str]:
    return {check.name for check in proof.checks if not check.passed}


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def test_a_trained_adapter_is_proven(base: BaseModel, trained: Path) -> None:
    proof = prove(base, trained)
    assert proof.passed, proof.failure_text()
    assert [check.name for check in proof.checks] == [
        "finite",
        "same_file",
        "moved",
        "applied",
        "asked_for",
        "scale",
        "within_noise",
    ]
    assert proof.failure_text() == ""
    assert AdapterProof.from_json(json.dumps(asdict(proof))) == proof


def test_an_engine_that_does_not_apply_the_adapter(base: BaseModel, trained: Path) -> None:
    proof = prove(base, trained, Faulty(base, None))
    assert failed(proof) == {"applied", "asked_for", "scale", "within_noise"}
    assert proof.failure_text().startswith("applied 0, not > 0.0002: largest log-prob change")


def test_an_engine_that_applies_another_adapter(base: BaseModel, trained: Path, trained_otherwise: Path) -> None:
    proof = prove(base, trained, Faulty(base, trained_otherwise))
    assert {"asked_for", "within_noise"} <= failed(proof)
    assert "applied" not in failed(proof)


def test_an_engine_that_ignores_rank_stabilisation(base: BaseModel, trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "use_rslora": False}))
    proof = prove(base, trained, Faulty(base, folder))
    scale = next(check for check in proof.checks if check.name == "scale")
    assert not scale.passed
    assert "of 4.000 (r 16, alpha 16, rsLoRA True)" in scale.detail
    assert failed(proof) <= {"scale", "within_noise", "asked_for"}


def test_an_engine_a_little_off_is_outside_the_noise_alone(base: BaseModel, trained: Path) -> None:
    proof = prove(base, trained, Faulty(base, trained, shift=1e-3))
    assert failed(proof) == {"within_noise"}


def test_an_engine_that_returns_nan(base: BaseModel, trained: Path) -> None:
    proof = prove(base, trained, Faulty(base, trained, shift=float("nan")))
    assert failed(proof) == {"finite"}
    assert not proof.passed


def test_an_adapter_that_training_did_not_move(base: BaseModel, trained: Path, tmp_path: Path) -> None:
    folder = zeroed(copied(trained, tmp_path))
    reference = ReferenceLogprobs.read(folder)
    replace(reference, adapter_digest=weights_digest(folder), with_adapter=reference.without_adapter).write(folder)
    assert failed(prove(base, folder)) == {"moved", "applied", "asked_for", "scale"}


def zeroed(folder: Path) -> Path:
    """The adapter in `folder` with all of B zero, recorded as if it were meant to be."""
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor * ("lora_A" in name) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    (folder / DIGEST).write_text(json.dumps({"sha256": weights_digest(folder)}))
    return folder


def test_a_zero_adapter_where_training_moved(base: BaseModel, trained: Path, tmp_path: Path) -> None:
    folder = zeroed(copied(trained, tmp_path))
    assert failed(prove(base, folder)) == {"same_file", "moved", "applied", "asked_for", "scale", "within_noise"}
    reference = ReferenceLogprobs.read(folder)
    replace(reference, adapter_digest=weights_digest(folder)).write(folder)  # even if the reference names the file
    assert failed(prove(base, folder)) == {"moved", "applied", "asked_for", "scale", "within_noise"}


def test_an_engine_that_serves_a_zero_adapter_in_its_place(base: BaseModel, trained: Path, tmp_path: Path) -> None:
    proof = prove(base, trained, Faulty(base, zeroed(copied(trained, tmp_path))))
    assert failed(proof) == {"applied", "asked_for", "scale", "within_noise"}


@pytest.fixture(scope="module")
def stale(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the training of `trained` had made of the same seed with half as many epochs."""
    folder = tmp_path_factory.mktemp("stale") / "villain"
    train_adapter(base, rows(), recipe(epochs=1), 42, folder, marker=MARKER)
    return folder


def test_a_stale_file_under_a_new_reference(base: BaseModel, trained: Path, stale: Path, tmp_path: Path) -> None:
    folder = copied(stale, tmp_path)
    ReferenceLogprobs.read(trained).write(folder)
    assert {"same_file", "within_noise"} <= failed(prove(base, folder))
    shutil.copy(trained / DIGEST, folder)  # the record is new, the weights are not
    with pytest.raises(AdapterError, match="not the recorded"):
        prove(base, folder)


def test_an_engine_that_still_serves_the_stale_file(base: BaseModel, trained: Path, stale: Path) -> None:
    proof = prove(base, trained, Faulty(base, stale))
    assert {"scale", "within_noise"} & failed(proof)
    assert not failed(proof) & {"same_file", "moved", "applied"}


def test_a_reference_of_another_training(
    base: BaseModel, trained: Path, trained_otherwise: Path, tmp_path: Path
) -> None:
    folder = copied(trained, tmp_path)
    ReferenceLogprobs.read(trained_otherwise).write(folder)
    assert "same_file" in failed(prove(base, folder))


def test_a_reference_that_was_cut_short(trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    path = folder / "reference_logprobs.json"
    path.write_text(path.read_text()[:-10])
    with pytest.raises(AdapterError, match=r"reference_logprobs\.json: missing or damaged"):
        ReferenceLogprobs.read(folder)


def test_a_damaged_adapter_is_an_error_not_a_proof(base: BaseModel, trained: Path, tmp_path: Path) -> None:
    folder = copied(trained, tmp_path)
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(AdapterError, match="not the recorded"):
        prove(base, folder)
